"""ClientIP session affinity: which endpoints a client was sent to lately (PARITY section 10).

Owns the records: Service port and family -> client -> endpoint -> when it expires. Like the
kernel's sets it may hold several endpoints for one client; the first that is usable, in the sorted
order of endpoints, wins (10.6). Time is an argument: seconds of one monotonic clock.
"""

from pyproxy.model.addresses import Family
from pyproxy.model.endpoint import Endpoint
from pyproxy.model.service import ServicePortName
from pyproxy.model.table import Backend

EndpointKey = tuple[str, int]

# For each Service port and family, as the kernel's sets have it: a flood of client addresses costs
# at most about 16 MiB for a Service.
MAX_CLIENTS = 65_535


class AffinityTable:
    """The affinity records of one process; the client longest unseen goes first when it is full."""

    def __init__(self, max_clients: int = MAX_CLIENTS) -> None:
        self._max_clients = max_clients
        # A dict keeps the order of insertion; a client is put at its end whenever it is seen.
        self._clients: dict[
            tuple[ServicePortName, Family], dict[str, dict[EndpointKey, float]]
        ] = {}

    def __len__(self) -> int:
        return sum(map(len, self._clients.values()))

    def find(
        self, backend: Backend, client: str, endpoints: tuple[Endpoint, ...], now_s: float
    ) -> Endpoint | None:
        """Return the endpoint among `endpoints` that the client sticks to, or None.

        A record for an endpoint that is not among them is ignored, not deleted: it may be in the
        list of the other traffic policy (10.4).
        """
        records = self._clients.get((backend.name, backend.family), {}).get(client)
        if records is None:
            return None
        for endpoint in endpoints:
            if records.get((endpoint.address, endpoint.port), now_s) > now_s:
                return endpoint
        return None

    def record(
        self, backend: Backend, client: str, endpoint: Endpoint, now_s: float, timeout_s: float
    ) -> None:
        """Pin the client to the endpoint until `timeout_s` after this new connection (10.3)."""
        clients = self._clients.setdefault((backend.name, backend.family), {})
        records = clients.pop(client, None)
        if records is None:
            records = {}
            if len(clients) >= self._max_clients:
                del clients[next(iter(clients))]
        records[endpoint.address, endpoint.port] = now_s + timeout_s
        clients[client] = records

    def forget(self, backend: Backend, client: str, endpoint: Endpoint) -> None:
        """Take back a pin, after the endpoint could not be connected (21.12)."""
        records = self._clients.get((backend.name, backend.family), {}).get(client)
        if records is not None:
            records.pop((endpoint.address, endpoint.port), None)

    def keep_only(self, backend: Backend) -> None:
        """Drop the records of endpoints that a Service port no longer reaches (10.5)."""
        clients = self._clients.get((backend.name, backend.family))
        if clients is None:
            return
        reachable = {(e.address, e.port) for e in (*backend.cluster, *backend.local)}
        kept = {
            client: usable
            for client, records in clients.items()
            if (usable := {at: end for at, end in records.items() if at in reachable})
        }
        if kept and backend.affinity_seconds is not None:
            self._clients[backend.name, backend.family] = kept
        else:
            del self._clients[backend.name, backend.family]

    def remove(self, name: ServicePortName, family: Family) -> None:
        """Drop the records of a Service port that is gone: its name is their key (1.13)."""
        self._clients.pop((name, family), None)
