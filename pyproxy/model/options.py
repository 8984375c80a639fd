"""What a Service asks of the proxy beyond the Kubernetes API: its `pyproxy.io/*` annotations."""

from typing import Literal

import msgspec

Balance = Literal["least-connections", "round-robin", "random", "consistent-hash"]
OnEndpointRemoved = Literal["drain", "keep", "close"]


class EjectionSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When endpoints that cannot be connected are left out, and for how long. Times are seconds.

    consecutive_failures: of connect attempts, until an endpoint is ejected. base_time_s: how long
    the first time; twice as long each further time in a row, up to max_time_s. max_percent: of a
    Service port's endpoints that may be ejected at once, 1 to 100; one always may, if it is not the
    only one.
    """

    consecutive_failures: int = 3
    base_time_s: float = 10.0
    max_time_s: float = 300.0
    max_percent: int = 50


DEFAULT_EJECTION = EjectionSettings()


class ServiceOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the connections of one Service are spread, limited and ended. Times are seconds.

    balance: which endpoint gets a new connection; session affinity goes before it.
    slow_start_s: how long a new endpoint's share grows before it is whole; 0: at once.
    ejects: whether endpoints that cannot be connected are left out for a while; ejection: when, and
        for how long. No annotation sets the latter.
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
    ejection: EjectionSettings = DEFAULT_EJECTION
    on_endpoint_removed: OnEndpointRemoved = "drain"
    max_connections: int | None = None
    idle_timeout_s: float | None = None
    max_connection_age_s: float | None = None
    connect_timeout_s: float | None = None
    proxy_protocol: bool = False


DEFAULT_OPTIONS = ServiceOptions()
