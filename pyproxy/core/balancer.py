"""Which endpoint a new connection goes to: affinity first, then uniform random (PARITY 3.14, 10).

Owns the affinity records of its process. Randomness and time are arguments.
"""

from collections.abc import Callable, Collection

from pyproxy.core.affinity import AffinityTable, EndpointKey
from pyproxy.model.endpoint import Endpoint
from pyproxy.model.table import Backend


class Balancer:
    """Picks endpoints. `random` returns a float in [0, 1), as random.random does."""

    def __init__(self, random: Callable[[], float], affinity: AffinityTable | None = None) -> None:
        self._random = random
        self._affinity = AffinityTable() if affinity is None else affinity

    def pick(
        self,
        backend: Backend,
        endpoints: tuple[Endpoint, ...],
        client: str,
        now_s: float,
        tried: Collection[EndpointKey] = (),
    ) -> Endpoint | None:
        """Return the endpoint for a new connection of `client`, or None when all were tried.

        endpoints: the list that the decision gave for this client. tried: the (address, port) that
        failed for this connection already; never picked again. With session affinity the pick is
        recorded, and so refreshed, for the next `backend.affinity_seconds`.
        """
        if tried:
            endpoints = tuple(e for e in endpoints if (e.address, e.port) not in tried)
        if not endpoints:
            return None
        if backend.affinity_seconds is None:
            return endpoints[int(self._random() * len(endpoints))]
        endpoint = self._affinity.find(backend, client, endpoints, now_s)
        if endpoint is None:
            endpoint = endpoints[int(self._random() * len(endpoints))]
        self._affinity.record(backend, client, endpoint, now_s, backend.affinity_seconds)
        return endpoint

    def failed(self, backend: Backend, client: str, endpoint: Endpoint) -> None:
        """Note that the endpoint could not be connected, so that the client is pinned elsewhere."""
        if backend.affinity_seconds is not None:
            self._affinity.forget(backend, client, endpoint)

    def updated(self, backend: Backend) -> None:
        """Forget the pins to endpoints that this new state of a Service port does not reach."""
        self._affinity.keep_only(backend)

    def removed(self, backend: Backend) -> None:
        """Forget all pins of a Service port that is gone."""
        self._affinity.remove(backend.name, backend.family)
