"""Which endpoint of a Service port a new connection goes to: affinity first (PARITY 3.14, 10).

Owns what is remembered of endpoints and clients between connections. Randomness and time are
arguments; times are seconds of one monotonic clock.
"""

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from pyproxy.core.affinity import AffinityTable, EndpointKey
from pyproxy.model.endpoint import Endpoint
from pyproxy.model.table import Backend

if TYPE_CHECKING:
    from pyproxy.model.addresses import Family
    from pyproxy.model.service import ServicePortName


class Pool:
    """The endpoints of one Service port in one family, and what is known of them.

    Every endpoint that `pick` returns is given back by one `released`: when the attempt has failed,
    or when its connection, or UDP flow, has ended.
    """

    def __init__(
        self, backend: Backend, random: Callable[[], float], affinity: AffinityTable
    ) -> None:
        self.backend = backend
        self._random = random
        self._affinity = affinity

    def pick(
        self,
        endpoints: tuple[Endpoint, ...],
        client: str,
        now_s: float,
        tried: Collection[EndpointKey] = (),
    ) -> Endpoint | None:
        """Return the endpoint for a new connection of `client`, or None when all were tried.

        endpoints: the list that the decision gave for this client. tried: the (address, port) that
        failed for this connection already; never picked again. With session affinity the pick is
        recorded, and so refreshed, for the next `affinity_seconds`.
        """
        if tried:
            endpoints = tuple(e for e in endpoints if (e.address, e.port) not in tried)
        if not endpoints:
            return None
        backend = self.backend
        if backend.affinity_seconds is None:
            return endpoints[int(self._random() * len(endpoints))]
        endpoint = self._affinity.find(backend, client, endpoints, now_s)
        if endpoint is None:
            endpoint = endpoints[int(self._random() * len(endpoints))]
        self._affinity.record(backend, client, endpoint, now_s, backend.affinity_seconds)
        return endpoint

    def connected(self, endpoint: Endpoint) -> None:
        """Note that the endpoint was connected, or has answered over UDP."""

    def failed(self, client: str, endpoint: Endpoint, now_s: float) -> None:
        """Note that the endpoint could not be connected, so that the client is pinned elsewhere."""
        if self.backend.affinity_seconds is not None:
            self._affinity.forget(self.backend, client, endpoint)

    def released(self, endpoint: Endpoint) -> None:
        """Note that a connection that was picked for is no more."""

    def update(self, backend: Backend, now_s: float) -> None:
        """Go by this state of the Service port from now on."""
        self.backend = backend


class Balancer:
    """The pools of one process. `random` returns a float in [0, 1), as random.random does.

    A pool lasts for as long as somebody holds it: a listener, or the last connection of a Service
    that is gone.
    """

    def __init__(self, random: Callable[[], float], affinity: AffinityTable | None = None) -> None:
        self._random = random
        self._affinity = AffinityTable() if affinity is None else affinity
        self._pools: WeakValueDictionary[tuple[ServicePortName, Family], Pool]
        self._pools = WeakValueDictionary()

    def pool(self, backend: Backend) -> Pool:
        """Return the pool of a Service port and family: the one that is held, or a new one."""
        key = backend.name, backend.family
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = Pool(backend, self._random, self._affinity)
        return pool

    def updated(self, backend: Backend, now_s: float) -> None:
        """Go by a new state of a Service port, whether or not its pool is held."""
        self._affinity.keep_only(backend)
        pool = self._pools.get((backend.name, backend.family))
        if pool is not None and pool.backend is not backend:
            pool.update(backend, now_s)

    def removed(self, backend: Backend) -> None:
        """Forget the clients of a Service port that is gone."""
        self._affinity.remove(backend.name, backend.family)
