"""What a Service asks of the proxy beyond the Kubernetes API: its `pyproxy.io/*` annotations."""

from typing import Literal

import msgspec

Balance = Literal["least-connections", "round-robin", "random", "consistent-hash"]
OnEndpointRemoved = Literal["drain", "keep", "close"]


class ServiceOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the connections of one Service are spread, limited and ended. Times are seconds.

    balance: which endpoint gets a new connection; session affinity goes before it.
    slow_start_s: how long a new endpoint's share grows before it is whole; 0: at once.
    ejects: whether endpoints that cannot be connected are left out for a while.
    on_endpoint_removed: live TCP connections to an endpoint that serves no more, or has left the
        Service: `drain` closes them after the drain time, `close` at once, `keep` never.
    max_connections: live TCP connections of the Service; further ones are refused.
    idle_timeout_s: closes a TCP connection that moved no byte for so long.
    max_connection_age_s: ends a TCP connection in order once it is about so old.
    connect_timeout_s: for one attempt; None: as the forwarder is set.
    proxy_protocol: tell TCP endpoints the client's address in a PROXY protocol v2 header.
    """

    balance: Balance = "least-connections"
    slow_start_s: float = 0.0
    ejects: bool = True
    on_endpoint_removed: OnEndpointRemoved = "drain"
    max_connections: int | None = None
    idle_timeout_s: float | None = None
    max_connection_age_s: float | None = None
    connect_timeout_s: float | None = None
    proxy_protocol: bool = False


DEFAULT_OPTIONS = ServiceOptions()
