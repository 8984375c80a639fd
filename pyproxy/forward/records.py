"""What a process remembers of connections that end, until somebody takes it.

Off the hot path: a connection whose end nobody wants to know of costs one look into `told`. Bounded
by the rate of records: what is taken twice a second is no more than a few seconds' worth.
"""

from typing import TYPE_CHECKING

import msgspec

from pyproxy.core.access_log import AccessRules, Choice, told_reasons
from pyproxy.forward.endpoint_counts import EndpointCounts
from pyproxy.model.ended import MOST_FAILED, Ended

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyproxy.forward.flow import UdpFlow
    from pyproxy.forward.listeners import TcpListener
    from pyproxy.forward.sockets import SocketAddress
    from pyproxy.forward.tcp import Connection
    from pyproxy.model.table import Frontend

# Records that wait, when nobody takes them.
_MOST = 10_000


class EndsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be told of ends. counts_endpoints: also what each endpoint's come to."""

    access: AccessRules = AccessRules()
    counts_endpoints: bool = False


class Ends:
    """Takes note of ends. told: the reasons for which it has to be called at all.

    endpoints: what came to each; None when nobody asks.

    draw: random, >= 0 and < 1. clock: monotonic, in seconds.
    """

    def __init__(
        self, settings: EndsSettings, draw: "Callable[[], float]", clock: "Callable[[], float]"
    ) -> None:
        is_counted = settings.counts_endpoints
        self.told = told_reasons("all" if is_counted else settings.access.mode)
        self.endpoints = EndpointCounts() if is_counted else None
        self._choice = Choice(settings.access, draw)
        self._clock = clock
        self._records: list[Ended] = []
        self._left_out = 0

    def take(self) -> tuple[list[Ended], int]:
        """Return the records since the last call, and how many were left out."""
        records, self._records = self._records, []
        limiter = self._choice.limiter
        left_out, self._left_out, limiter.left_out = self._left_out + limiter.left_out, 0, 0
        return records, left_out

    def connection(self, connection: "Connection", reason: str) -> None:
        """Note the end of a TCP connection."""
        if self.endpoints is not None:
            self.endpoints.connection(connection)
        name, now_s = connection.served.pool.backend.name, self._clock()
        if not self._choice.tells(name, reason, now_s):
            return
        endpoint, tried = connection.endpoint_key, connection.tried
        to_endpoint, to_client = connection.to_endpoint, connection.to_client
        frontend, opened_s = connection.listener.frontend, connection.opened_s
        self._add(
            Ended(
                name,
                (frontend.address, frontend.port),
                connection.client_address[:2],
                endpoint,
                reason,
                now_s,
                duration_s=now_s - opened_s,
                connect_s=None if to_endpoint is None else connection.connected_s - opened_s,
                attempts=len(tried) + (endpoint is not None),
                failed=sorted(tried)[:MOST_FAILED],
                bytes_to_endpoint=0 if to_endpoint is None else to_endpoint.moved,
                bytes_to_client=0 if to_client is None else to_client.moved,
            )
        )

    def refused(self, listener: "TcpListener", client: "SocketAddress", reason: str) -> None:
        """Note a client of TCP that was refused at once."""
        name, now_s = listener.served.pool.backend.name, self._clock()
        if self._choice.tells(name, reason, now_s):
            self._add(_refusal(listener.frontend, client, reason, now_s))

    def flow(self, flow: "UdpFlow", reason: str) -> None:
        """Note the end of a UDP flow, or the first datagrams of one that could not begin."""
        if self.endpoints is not None:
            self.endpoints.flow(flow)
        now_s = self._clock()
        if self._choice.tells(flow.service_port, reason, now_s):
            self._add(flow.ended(reason, now_s))

    def _add(self, record: Ended) -> None:
        if len(self._records) >= _MOST:
            self._left_out += 1
        else:
            self._records.append(record)


def _refusal(frontend: "Frontend", client: "SocketAddress", reason: str, now_s: float) -> Ended:
    at = (frontend.address, frontend.port)
    return Ended(frontend.backend.name, at, client[:2], None, reason, now_s)
