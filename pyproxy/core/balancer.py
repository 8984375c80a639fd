"""Which endpoint of a Service port a new connection goes to (PARITY 3.14, 10).

Session affinity comes first, then the Service's policy, over the endpoints that were not tried for
this connection, are not ejected and do not sit this pick out while they warm up. kube-proxy has the
affinity and picks at random among all. A flow of datagrams goes where its client's address and port
belong, as nothing tells its beginning to a process that meets it later.

Owns what is remembered of endpoints and clients between connections. Randomness and time are
arguments; times are seconds of one monotonic clock.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from pyproxy.core.affinity import AffinityTable, EndpointKey, Pin
from pyproxy.core.outlier import Outliers
from pyproxy.core.policies import BY_CHANCE, policy_of
from pyproxy.core.rendezvous import flow_owner, owner
from pyproxy.core.slow_start import SlowStart
from pyproxy.model.endpoint import Endpoint
from pyproxy.model.table import Backend

if TYPE_CHECKING:
    from pyproxy.model.addresses import Family
    from pyproxy.model.service import ServiceName, ServicePortName


class Pool:
    """The endpoints of one Service port in one family, and what is known of them.

    Every endpoint that `pick` returns is given back by one `released`: when the attempt has failed,
    or when its connection, or UDP flow, has ended.

    Invariant: _live holds the endpoints with live connections, each with how many; no others.
    """

    def __init__(
        self, backend: Backend, random: Callable[[], float], affinity: AffinityTable
    ) -> None:
        self.backend = backend
        self._random = random
        self._affinity = affinity
        self._live: dict[EndpointKey, int] = {}
        self._policy = policy_of(backend.options.balance, random, self._live)
        self._slow_start = SlowStart()
        self._outliers = Outliers()

    @property
    def ejections(self) -> int:
        """How often an endpoint was ejected."""
        return self._outliers.total

    @property
    def has_ejected(self) -> bool:
        """Whether any endpoint is ejected now."""
        return bool(self._outliers)

    def ejected(self) -> list[tuple[EndpointKey, float]]:
        """Return the endpoints that are ejected now, each with when it may be picked again."""
        return self._outliers.ejected()

    def live(self, endpoint: Endpoint) -> int:
        """Return how many connections of the endpoint are live, attempts included."""
        return self._live.get((endpoint.address, endpoint.port), 0)

    def live_counts(self) -> dict[EndpointKey, int]:
        """Return how many connections are live of each endpoint that has any."""
        return dict(self._live)

    def pick(
        self,
        endpoints: tuple[Endpoint, ...],
        client: str,
        now_s: float,
        tried: Collection[EndpointKey] = (),
        flow: str = "",
    ) -> Endpoint | None:
        """Return the endpoint for a new connection of `client`, or None when all were tried.

        endpoints: the list that the decision gave for this client. tried: the (address, port) that
        failed for this connection already; never picked again. With session affinity the pick is
        recorded, and so refreshed, for the next `affinity_seconds`.
        flow: of datagrams, the client's address and port. Where chance would decide, they do: each
        process that a flow's datagrams come to, now or after a restart, finds the same endpoint.
        """
        usable = endpoints
        if tried:
            usable = tuple([e for e in endpoints if (e.address, e.port) not in tried])
        if not usable:
            return None
        backend, outliers = self.backend, self._outliers
        has_ejected = bool(outliers)
        if has_ejected:
            usable = outliers.without_ejected(usable, now_s)
        if backend.affinity_seconds is not None:
            endpoint = self._stick(usable, client, now_s, backend.affinity_seconds)
        else:
            if self._slow_start:
                usable = self._without_resting(usable, now_s)
            if flow and backend.options.balance in BY_CHANCE:
                endpoint = flow_owner(flow, usable)
            else:
                endpoint = self._policy(usable, client)
        key = endpoint.address, endpoint.port
        self._live[key] = self._live.get(key, 0) + 1
        if has_ejected:
            outliers.picked(key, backend.options.ejection, now_s)
        return endpoint

    def connected(self, endpoint: Endpoint) -> None:
        """Note that the endpoint was connected, or has answered over UDP."""
        if self._outliers.is_watching:
            self._outliers.connected((endpoint.address, endpoint.port))

    def failed(self, client: str, endpoint: Endpoint, now_s: float) -> bool:
        """Note that the endpoint could not be connected; return whether that ejects it.

        The client is pinned elsewhere the next time.
        """
        backend = self.backend
        if backend.affinity_seconds is not None:
            self._affinity.forget(backend, client, endpoint)
        if not backend.options.ejects:
            return False
        key = endpoint.address, endpoint.port
        return self._outliers.failed(key, backend.options.ejection, _count(backend), now_s)

    def released(self, endpoint: Endpoint) -> None:
        """Note that a connection that was picked for is no more."""
        key = endpoint.address, endpoint.port
        count = self._live.pop(key, 0)
        if count > 1:
            self._live[key] = count - 1

    def update(self, backend: Backend, now_s: float) -> None:
        """Go by this state of the Service port from now on."""
        before, self.backend = self.backend, backend
        options = backend.options
        if options.balance != before.options.balance:
            self._policy = policy_of(options.balance, self._random, self._live)
        self._slow_start.update(before.serving, backend.serving, options.slow_start_s, now_s)
        if options.ejects:
            self._outliers.keep_only(backend.serving, options.ejection, _count(backend))
        else:
            self._outliers.clear()

    def _stick(
        self, endpoints: tuple[Endpoint, ...], client: str, now_s: float, timeout_s: float
    ) -> Endpoint:
        """Return the endpoint that the client is pinned to, and pin it for longer.

        A client that is not pinned gets the endpoint that its address belongs to: so processes that
        have not told each other of it yet agree.
        """
        endpoint = self._affinity.find(self.backend, client, endpoints, now_s)
        if endpoint is None:
            endpoint = owner(client, endpoints)
        self._affinity.record(self.backend, client, endpoint, now_s, timeout_s)
        return endpoint

    def _without_resting(
        self, endpoints: tuple[Endpoint, ...], now_s: float
    ) -> tuple[Endpoint, ...]:
        """Leave out what rests while it warms up; a consistent hash must not waver."""
        options = self.backend.options
        if options.balance == "consistent-hash":
            return endpoints
        return self._slow_start.taking_part(endpoints, options.slow_start_s, now_s, self._random)


def _count(backend: Backend) -> int:
    """How many endpoints a Service port has; the local ones are mostly among the others."""
    return max(len(backend.cluster), len(backend.local))


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

    def pools(self) -> list[Pool]:
        """Return the pools that are held."""
        return list(self._pools.values())

    def pools_of(self, service: "ServiceName") -> list[Pool]:
        """Return those of one Service: a look at the keys, which are many, and at few pools."""
        keys = [key for key in self._pools if key[0][:2] == service]
        return [pool for key in keys if (pool := self._pools.get(key)) is not None]

    def updated(self, backend: Backend, now_s: float) -> None:
        """Go by a new state of a Service port, whether or not its pool is held."""
        self._affinity.keep_only(backend)
        pool = self._pools.get((backend.name, backend.family))
        if pool is not None and pool.backend is not backend:
            pool.update(backend, now_s)

    def pins(self, now_s: float) -> Iterator[Pin]:
        """Every record of where clients stick."""
        return self._affinity.pins(now_s)

    def adopt(self, pins: Iterable[Pin], now_s: float) -> None:
        """Take over where clients stick from another process."""
        for pin in pins:
            self._affinity.adopt(pin, now_s)

    def removed(self, backend: Backend) -> None:
        """Forget the clients of a Service port that is gone."""
        self._affinity.remove(backend.name, backend.family)
