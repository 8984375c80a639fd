"""The ways of choosing an endpoint for a new connection, of those that may be chosen.

A policy knows nothing of session affinity, retries, ejection or slow start: the pool leaves out
what must not be chosen before it asks. `random` returns a float in [0, 1), as random.random does.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from pyproxy.core.affinity import EndpointKey
from pyproxy.core.rendezvous import owner
from pyproxy.model.endpoint import Endpoint
from pyproxy.model.options import Balance

# How far above the mean load an endpoint may go before its clients overflow to their next one, as
# HAProxy's `hash-balance-factor 125` and Envoy's `hash_balance_factor` recommend at the least.
# Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2018.
LOAD_BOUND = 1.25
# The policies that draw lots.
BY_CHANCE = frozenset[Balance](("least-connections", "random"))

Live = Mapping[EndpointKey, int]


class Policy(Protocol):
    """Chooses. `live` of a policy is the pool's own count of live connections, by endpoint."""

    def __call__(self, endpoints: tuple[Endpoint, ...], client: str) -> Endpoint:
        """Return one of the endpoints, of which there is at least one."""


class LeastConnections:
    """The less loaded of two endpoints that are drawn at random.

    "The power of two choices" (Mitzenmacher, 2001): nearly as even as to search for the least
    loaded of all, in constant time, and without the herd that runs to a single one.
    """

    def __init__(self, random: Callable[[], float], live: Live) -> None:
        self._random = random
        self._live = live

    def __call__(self, endpoints: tuple[Endpoint, ...], client: str) -> Endpoint:  # noqa: ARG002
        """Return one of the endpoints."""
        count = len(endpoints)
        at = int(self._random() * count)
        one = endpoints[at]
        if count == 1:
            return one
        other_at = int(self._random() * (count - 1))
        other = endpoints[other_at + (other_at >= at)]
        live = self._live
        if live.get((one.address, one.port), 0) <= live.get((other.address, other.port), 0):
            return one
        return other


class RoundRobin:
    """One endpoint after the other, in the order of their list.

    It begins anywhere: otherwise all processes of a cluster would begin with the same one.
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._turn: int | None = None

    def __call__(self, endpoints: tuple[Endpoint, ...], client: str) -> Endpoint:  # noqa: ARG002
        """Return one of the endpoints."""
        turn = int(self._random() * len(endpoints)) if self._turn is None else self._turn
        if turn >= len(endpoints):
            turn = 0
        self._turn = turn + 1
        return endpoints[turn]


class Random:
    """Any endpoint, as kube-proxy does."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random

    def __call__(self, endpoints: tuple[Endpoint, ...], client: str) -> Endpoint:  # noqa: ARG002
        """Return one of the endpoints."""
        return endpoints[int(self._random() * len(endpoints))]


class ConsistentHash:
    """The endpoint that the client's address belongs to, unless that has far more than its part.

    Invariant: no endpoint gets more than LOAD_BOUND times the mean of live connections, rounded up.
    """

    def __init__(self, live: Live) -> None:
        self._live = live

    def __call__(self, endpoints: tuple[Endpoint, ...], client: str) -> Endpoint:
        """Return one of the endpoints."""
        loads = [self._live.get((e.address, e.port), 0) for e in endpoints]
        bound = LOAD_BOUND * (sum(loads) + 1) / len(endpoints)
        # Below the bound before the new one is below the bound rounded up after it. The least
        # loaded is always: it has the mean at most.
        below = [e for e, load in zip(endpoints, loads, strict=True) if load < bound]
        return owner(client, tuple(below))


def policy_of(balance: Balance, random: Callable[[], float], live: Live) -> Policy:
    """Make a policy by the name that users give it."""
    if balance == "least-connections":
        return LeastConnections(random, live)
    if balance == "round-robin":
        return RoundRobin(random)
    return Random(random) if balance == "random" else ConsistentHash(live)
