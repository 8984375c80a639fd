"""ClientIP session affinity: which endpoints a client was sent to lately (PARITY section 10).

Owns the records: Service port and family -> client -> endpoint -> when it expires. Like the
kernel's sets it may hold several endpoints for one client; the first that is usable, in the sorted
order of endpoints, wins (10.6). Time is an argument: seconds of one monotonic clock.

Several processes that serve the same clients tell each other their records as pins: a table tells
its observer what is worth telling, and adopts what others have told.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pyproxy.model.addresses import Family
from pyproxy.model.endpoint import Endpoint
from pyproxy.model.service import ServicePortName
from pyproxy.model.table import Backend

EndpointKey = tuple[str, int]

# For each Service port and family, as the kernel's sets have it: a flood of client addresses costs
# at most about 16 MiB for a Service.
MAX_CLIENTS = 65_535


# A pin that is refreshed is told again once its end has moved by this part of the time-out. So long
# before its end another process may take a client for new.
_TOLD_PART = 4


class Pin(NamedTuple):
    """A record for another process: its clock is its own, so the time is what remains of it.

    remaining_s: <= 0 takes the record back.
    """

    name: ServicePortName
    family: Family
    client: str
    endpoint: EndpointKey
    remaining_s: float


class AffinityTable:
    """The affinity records of one process; the client longest unseen goes first when it is full.

    observer: is given each record that other processes should have.
    """

    def __init__(
        self,
        max_clients: int = MAX_CLIENTS,
        observer: Callable[[Pin], None] | None = None,
    ) -> None:
        self._max_clients = max_clients
        self._observer = observer
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
        key, at = (backend.name, backend.family), (endpoint.address, endpoint.port)
        end_s = now_s + timeout_s
        records = self._records(key, client)
        before_s = records.get(at)
        records[at] = end_s
        if self._observer is not None and (
            before_s is None or _step(before_s, timeout_s) != _step(end_s, timeout_s)
        ):
            self._observer(Pin(*key, client, at, timeout_s))

    def adopt(self, pin: Pin, now_s: float) -> None:
        """Take over what another process has recorded; of two ends the later one counts."""
        key = (pin.name, pin.family)
        if pin.remaining_s <= 0:
            self._clients.get(key, {}).get(pin.client, {}).pop(pin.endpoint, None)
            return
        records = self._records(key, pin.client)
        end_s = now_s + pin.remaining_s
        records[pin.endpoint] = max(records.get(pin.endpoint, end_s), end_s)

    def pins(self, now_s: float) -> Iterator[Pin]:
        """Every record that holds, those of the client longest unseen first."""
        for key, clients in self._clients.items():
            for client, records in clients.items():
                for at, end_s in records.items():
                    if end_s > now_s:
                        yield Pin(*key, client, at, end_s - now_s)

    def forget(self, backend: Backend, client: str, endpoint: Endpoint) -> None:
        """Take back a pin, after the endpoint could not be connected (21.12)."""
        key, at = (backend.name, backend.family), (endpoint.address, endpoint.port)
        records = self._clients.get(key, {}).get(client)
        if records is not None and records.pop(at, None) is not None and self._observer is not None:
            self._observer(Pin(*key, client, at, 0.0))

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

    def _records(
        self, key: tuple[ServicePortName, Family], client: str
    ) -> dict[EndpointKey, float]:
        """The records of a client that was just seen, to add to."""
        clients = self._clients.setdefault(key, {})
        records = clients.pop(client, None)
        if records is None:
            records = {}
            if len(clients) >= self._max_clients:
                del clients[next(iter(clients))]
        clients[client] = records
        return records


def _step(end_s: float, timeout_s: float) -> int:
    """Number the time by steps of a part of the time-out; a new step is worth telling.

    A record moves on by one step in each part of the time-out, whoever is told and however often
    it is refreshed; so nobody has to remember what was told when.
    """
    return math.floor(end_s * _TOLD_PART / timeout_s)
