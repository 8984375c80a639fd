"""What is live in one process, told as values: connections, UDP flows, and what endpoints have.

Read on demand and in slices: a list of what there is costs little, a row of each of ten thousand
connections takes milliseconds, in which traffic would wait.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import msgspec

from pyproxy.forward.endpoint_counts import EndpointCount, in_use
from pyproxy.model.service import ServiceName, ServicePortName

if TYPE_CHECKING:
    from pyproxy.core.balancer import Balancer
    from pyproxy.forward.connections import Connections
    from pyproxy.forward.tcp import Connection
    from pyproxy.forward.udp import UdpServer

# Rows that are made in one turn: about half a millisecond of work.
ROWS_IN_A_TURN = 200


class LiveConnection(msgspec.Struct, frozen=True, array_like=True):
    """A TCP connection, or a UDP flow. Addresses come with their port.

    endpoint: None before one was picked. is_connected: whether the endpoint has answered.
    idle_s: of a flow; None of a connection, as that is not kept.
    """

    service_port: ServicePortName
    client: tuple[str, int]
    frontend: tuple[str, int]
    endpoint: tuple[str, int] | None
    is_connected: bool
    age_s: float
    bytes_to_endpoint: int
    bytes_to_client: int
    idle_s: float | None = None


class LiveEndpoint(msgspec.Struct, frozen=True, array_like=True):
    """An endpoint of a Service port that has live connections, or is ejected for so long yet."""

    service_port: ServicePortName
    endpoint: tuple[str, int]
    connections: int
    ejected_s: float


class Live:
    """The live state of a forwarder, at the moment that it is asked."""

    def __init__(
        self,
        connections: "Connections",
        udp: "UdpServer",
        balancer: "Balancer",
        clock: Callable[[], float],
    ) -> None:
        self._connections = connections
        self._udp = udp
        self._balancer = balancer
        self._clock = clock

    def connections(self, of: ServiceName | None) -> tuple[int, Iterator[LiveConnection]]:
        """How many there are, of one Service or of all, and the rows of those that still live."""
        tcp = [c for c in self._connections.live() if is_of(of, c.served.service.name)]
        flows = [f for f in self._udp.flows if is_of(of, f.service_port.service)]
        now_s = self._clock()

        def rows() -> Iterator[LiveConnection]:
            for connection in tcp:
                if connection.is_open:
                    yield _connection(connection, now_s)
            for flow in flows:
                if (row := flow.row(now_s)) is not None:
                    yield row

        return len(tcp) + len(flows), rows()

    def endpoints(self, of: ServiceName | None) -> tuple[int, Iterator[LiveEndpoint]]:
        """How many pools there are, of one Service or of all, and the endpoints in use in them."""
        if of is not None and of.name:
            pools = self._balancer.pools_of(of)
        else:
            pools = [p for p in self._balancer.pools() if is_of(of, p.backend.name.service)]
        now_s = self._clock()

        def rows() -> Iterator[LiveEndpoint]:
            for pool in pools:
                live, ejected = pool.live_counts(), dict(pool.ejected())
                for key in live.keys() | ejected.keys():
                    ejected_s = max(0.0, ejected.get(key, now_s) - now_s)
                    yield LiveEndpoint(pool.backend.name, key, live.get(key, 0), ejected_s)

        return len(pools), rows()

    def in_use(self) -> list[EndpointCount]:
        """What the live connections have come to, by endpoint; at once, so that it is one moment's.

        Ten thousand of them take about 10 ms: only for who asked for it.
        """
        return in_use(self._connections.live(), self._udp.flows)


def _connection(connection: "Connection", now_s: float) -> LiveConnection:
    frontend = connection.listener.frontend
    to_endpoint, to_client = connection.to_endpoint, connection.to_client
    return LiveConnection(
        connection.served.pool.backend.name,
        connection.client_address[:2],
        (frontend.address, frontend.port),
        connection.endpoint_key,
        is_connected=to_endpoint is not None,
        age_s=now_s - connection.opened_s,
        bytes_to_endpoint=to_endpoint.moved if to_endpoint is not None else 0,
        bytes_to_client=to_client.moved if to_client is not None else 0,
    )


def is_of(asked: ServiceName | None, service: ServiceName) -> bool:
    """Whether a Service is asked for; without a name, all of a namespace are."""
    if asked is None or asked == service:
        return True
    return not asked.name and asked.namespace == service.namespace
