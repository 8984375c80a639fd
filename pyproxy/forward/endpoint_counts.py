"""What connections came to, by endpoint: of those that ended, as it comes; of the live, when asked.

Nothing is counted while a connection lives, so none of it is in the hot path. A UDP flow that goes
from one endpoint to another has ended with the first.
"""

from typing import TYPE_CHECKING

import msgspec

from pyproxy.model.service import ServicePortName

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyproxy.core.affinity import EndpointKey
    from pyproxy.forward.flow import UdpFlow
    from pyproxy.forward.tcp import Connection

# Prometheus asks every 15 s, or less often.
_INTERVAL_S = 2.0

_Key = tuple[ServicePortName, "EndpointKey"]


class EndpointCount(msgspec.Struct, array_like=True):
    """Of one endpoint of a Service port: connections, UDP flows among them, and what they moved.

    failures: connections that tried it in vain.
    """

    service_port: ServicePortName
    endpoint: tuple[str, int]
    connections: int = 0
    failures: int = 0
    bytes_to_endpoint: int = 0
    bytes_to_client: int = 0


class EndpointCounts:
    """Counts the ends of connections."""

    def __init__(self) -> None:
        self._counts: dict[_Key, EndpointCount] = {}
        self._due_s = float("-inf")

    def is_due(self, now_s: float) -> bool:
        """Whether it is time to tell of them: to look at ten thousand live ones takes 10 ms."""
        if now_s < self._due_s:
            return False
        self._due_s = now_s + _INTERVAL_S
        return True

    def take(self) -> list[EndpointCount]:
        """Return what has come since the last call."""
        counts, self._counts = self._counts, {}
        return list(counts.values())

    def connection(self, connection: "Connection") -> None:
        """Count the end of a TCP connection."""
        name = connection.served.pool.backend.name
        for endpoint in connection.tried:
            _of(self._counts, name, endpoint).failures += 1
        if connection.to_endpoint is not None:
            _add_connection(self._counts, connection)

    def flow(self, flow: "UdpFlow") -> None:
        """Count the end of a UDP flow, or what had refused one that could not begin."""
        for endpoint in flow.refused:
            _of(self._counts, flow.service_port, endpoint).failures += 1
        _add_flow(self._counts, flow, flow.endpoint_key)

    def left(self, flow: "UdpFlow", endpoint: "EndpointKey") -> None:
        """Count what a UDP flow came to with an endpoint that it has left for another."""
        _add_flow(self._counts, flow, endpoint)
        flow.bytes_of_others = (flow.bytes_to_endpoint, flow.bytes_to_client)


def in_use(connections: "Iterable[Connection]", flows: "Iterable[UdpFlow]") -> list[EndpointCount]:
    """What the live connections and flows have come to; about a microsecond for each."""
    counts: dict[_Key, EndpointCount] = {}
    for connection in connections:
        if connection.to_endpoint is not None:
            _add_connection(counts, connection)
    for flow in flows:
        _add_flow(counts, flow, flow.endpoint_key)
    return list(counts.values())


def _of(
    counts: dict[_Key, EndpointCount], name: ServicePortName, endpoint: "EndpointKey"
) -> EndpointCount:
    key = name, endpoint
    count = counts.get(key)
    if count is None:
        count = counts[key] = EndpointCount(*key)
    return count


def _add_connection(counts: dict[_Key, EndpointCount], connection: "Connection") -> None:
    endpoint, to_endpoint = connection.endpoint_key, connection.to_endpoint
    to_client = connection.to_client
    assert endpoint is not None
    assert to_endpoint is not None
    assert to_client is not None
    count = _of(counts, connection.served.pool.backend.name, endpoint)
    count.connections += 1
    count.bytes_to_endpoint += to_endpoint.moved
    count.bytes_to_client += to_client.moved


def _add_flow(
    counts: dict[_Key, EndpointCount], flow: "UdpFlow", endpoint: "EndpointKey | None"
) -> None:
    if endpoint is not None:
        count = _of(counts, flow.service_port, endpoint)
        count.connections += 1
        count.bytes_to_endpoint += flow.bytes_to_endpoint - flow.bytes_of_others[0]
        count.bytes_to_client += flow.bytes_to_client - flow.bytes_of_others[1]
