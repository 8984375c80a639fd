"""Which endpoint a new connection goes to (PARITY 3.14, 10, 21.12)."""

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from pyproxy.core.balancer import Balancer
from pyproxy.model.endpoint import Endpoint
from pyproxy.model.service import ServicePortName
from pyproxy.model.table import Backend

ENDPOINTS = tuple(Endpoint(f"10.0.0.{n}", 80) for n in range(1, 5))
A, B, C, D = ENDPOINTS
CLIENT = "203.0.113.2"


def backend(
    *cluster: Endpoint, affinity: int | None = None, local: tuple[Endpoint, ...] = ()
) -> Backend:
    name = ServicePortName("default", "web", "http", "TCP")
    return Backend(
        name=name, family="IPv4", cluster=cluster, local=local, affinity_seconds=affinity
    )


PLAIN = backend(*ENDPOINTS)
STICKY = backend(*ENDPOINTS, affinity=100)


def first() -> float:
    return 0.0


def last() -> float:
    return 1 - 2**-53


def test_the_choice_is_uniform() -> None:
    balancer = Balancer(random.Random(1).random)
    picks = Counter(balancer.pool(PLAIN).pick(ENDPOINTS, CLIENT, 0) for _ in range(4000))
    assert len(picks) == 4
    assert all(900 < count < 1100 for count in picks.values())


def test_without_endpoints_there_is_nothing_to_pick() -> None:
    for each in (PLAIN, STICKY):
        assert Balancer(first).pool(each).pick((), CLIENT, 0) is None


def test_without_affinity_nothing_is_remembered() -> None:
    numbers = iter([0.0, 0.5, 0.99])
    balancer = Balancer(lambda: next(numbers))
    assert [balancer.pool(PLAIN).pick(ENDPOINTS, CLIENT, 0) for _ in range(3)] == [A, C, D]
    balancer.pool(PLAIN).failed(CLIENT, A, 0)


def test_with_affinity_a_client_goes_where_it_went() -> None:
    numbers = iter([0.5, 0.0, 0.99])
    balancer = Balancer(lambda: next(numbers))
    assert [balancer.pool(STICKY).pick(ENDPOINTS, CLIENT, now) for now in (0, 99, 198)] == [C, C, C]
    assert balancer.pool(STICKY).pick(ENDPOINTS, "203.0.113.3", 198) is A
    assert balancer.pool(STICKY).pick(ENDPOINTS, CLIENT, 298) is D


def test_an_endpoint_that_failed_is_not_tried_again_and_loses_the_client() -> None:
    balancer = Balancer(first)
    assert balancer.pool(STICKY).pick(ENDPOINTS, CLIENT, 0) is A
    balancer.pool(STICKY).failed(CLIENT, A, 0)
    assert balancer.pool(STICKY).pick(ENDPOINTS, CLIENT, 0, [("10.0.0.1", 80)]) is B
    assert balancer.pool(STICKY).pick(ENDPOINTS, CLIENT, 1) is B


def test_policies_share_the_records_but_each_picks_from_its_own_list() -> None:
    both = backend(*ENDPOINTS, affinity=100, local=(C, D))
    balancer = Balancer(first)
    assert balancer.pool(both).pick(both.cluster, CLIENT, 0) is A
    assert balancer.pool(both).pick(both.local, CLIENT, 1) is C
    assert balancer.pool(both).pick(both.cluster, CLIENT, 2) is A


def test_a_client_is_rebalanced_when_its_endpoint_is_gone() -> None:
    numbers = iter([0.0, 0.99])
    balancer = Balancer(lambda: next(numbers))
    assert balancer.pool(STICKY).pick(ENDPOINTS, CLIENT, 0) is A
    balancer.updated(backend(B, C, affinity=100), 0)
    balancer.updated(STICKY, 0)  # the endpoint comes back, and its clients do not
    assert balancer.pool(STICKY).pick(ENDPOINTS, CLIENT, 1) is D


def test_turning_affinity_off_forgets_and_on_starts_anew() -> None:
    numbers = iter([0.0, 0.5])
    balancer = Balancer(lambda: next(numbers))
    assert balancer.pool(STICKY).pick(ENDPOINTS, CLIENT, 0) is A
    balancer.updated(PLAIN, 0)
    assert balancer.pool(STICKY).pick(ENDPOINTS, CLIENT, 1) is C


def test_a_removed_service_port_is_forgotten() -> None:
    numbers = iter([0.0, 0.5])
    balancer = Balancer(lambda: next(numbers))
    assert balancer.pool(STICKY).pick(ENDPOINTS, CLIENT, 0) is A
    balancer.removed(STICKY)
    assert balancer.pool(STICKY).pick(ENDPOINTS, CLIENT, 1) is C


_CHOICES = st.lists(st.sampled_from(range(9)), unique=True)


@settings(deadline=None)
@given(
    _CHOICES,
    _CHOICES,
    st.lists(
        st.tuples(st.sampled_from("ab"), st.floats(0, 1, exclude_max=True), st.integers(0, 60)),
        max_size=6,
    ),
    st.sampled_from([None, 1, 100]),
)
def test_pick_returns_a_member_that_was_not_tried_or_none_when_all_were(
    listed: list[int],
    tried: list[int],
    earlier: list[tuple[str, float, int]],
    affinity: int | None,
) -> None:
    everything = tuple(Endpoint("10.0.0.1", number) for number in range(9))
    endpoints = tuple(everything[number] for number in listed)
    sticky = backend(*everything, affinity=affinity)
    now = 0
    draws = iter([number for _, number, _ in earlier])
    balancer = Balancer(lambda: next(draws, 0.3))
    for client, _, wait in earlier:
        now += wait
        balancer.pool(sticky).pick(everything, client, now)
    found = balancer.pool(sticky).pick(
        endpoints, "a", now, [("10.0.0.1", number) for number in tried]
    )
    if set(listed) <= set(tried):
        assert found is None
    else:
        assert found in endpoints
        assert found.port not in tried


@settings(deadline=None)
@given(st.integers(1, 5000))
def test_the_largest_random_number_picks_the_last_endpoint(count: int) -> None:
    endpoints = tuple(Endpoint("10.0.0.1", number) for number in range(count))
    assert Balancer(last).pool(PLAIN).pick(endpoints, CLIENT, 0) is endpoints[-1]
