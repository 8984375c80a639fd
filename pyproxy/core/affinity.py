"""ClientIP session affinity: which endpoints a client was sent to lately (PARITY section 10).

Owns the records. A record is (Service port, client) -> endpoint -> when it expires. Like the
kernel's sets it may hold several endpoints for one client; the first that is usable, in the sorted
order of endpoints, wins (10.6). Time is an argument: seconds of one monotonic clock.
"""

from collections.abc import Iterable

from pyproxy.model.endpoint import Endpoint
from pyproxy.model.service import ServicePortName

EndpointKey = tuple[str, int]
_RecordKey = tuple[ServicePortName, str]

# Bounds memory under a flood of client addresses: about 60 MiB. kube-proxy's sets hold 65,535 each.
MAX_CLIENTS = 262_144


class AffinityTable:
    """The affinity records of one process; the client longest unseen goes first when it is full."""

    def __init__(self, max_clients: int = MAX_CLIENTS) -> None:
        self._max_clients = max_clients
        # A dict keeps the order of insertion; a client is put at its end whenever it is seen.
        self._clients: dict[_RecordKey, dict[EndpointKey, float]] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def find(
        self, name: ServicePortName, client: str, endpoints: Iterable[Endpoint], now_s: float
    ) -> Endpoint | None:
        """Return the endpoint among `endpoints` that the client sticks to, or None.

        A record for an endpoint that is not among them is ignored, not deleted: it may be in the
        list of the other traffic policy (10.4).
        """
        records = self._clients.get((name, client))
        if records is None:
            return None
        for endpoint in endpoints:
            if records.get((endpoint.address, endpoint.port), 0.0) > now_s:
                return endpoint
        return None

    def record(
        self, name: ServicePortName, client: str, endpoint: Endpoint, now_s: float, timeout_s: float
    ) -> None:
        """Pin the client to the endpoint until `timeout_s` after this new connection (10.3)."""
        key = (name, client)
        records = self._clients.pop(key, None)
        if records is None:
            records = {}
            if len(self._clients) >= self._max_clients:
                del self._clients[next(iter(self._clients))]
        elif len(records) > 1:
            records = {known: end for known, end in records.items() if end > now_s}
        records[endpoint.address, endpoint.port] = now_s + timeout_s
        self._clients[key] = records

    def forget(self, name: ServicePortName, client: str, endpoint: Endpoint) -> None:
        """Take back a pin, after the endpoint could not be connected (21.12)."""
        records = self._clients.get((name, client))
        if records is not None:
            records.pop((endpoint.address, endpoint.port), None)

    def keep_only(self, name: ServicePortName, reachable: frozenset[EndpointKey]) -> None:
        """Drop the records of a Service port's endpoints that can no longer be reached (10.5)."""
        for key in [key for key in self._clients if key[0] == name]:
            kept = {at: end for at, end in self._clients[key].items() if at in reachable}
            if kept:
                self._clients[key] = kept
            else:
                del self._clients[key]
