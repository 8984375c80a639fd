"""Endpoints that cannot be connected are left out, probed by one client, and taken back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.core.affinity import EndpointKey
from pyproxy.core.outlier import Outliers
from pyproxy.model.endpoint import Endpoint
from pyproxy.model.options import EjectionSettings

ENDPOINTS = tuple(Endpoint(f"10.0.0.{n}", 80) for n in range(1, 11))
KEYS: list[EndpointKey] = [(e.address, e.port) for e in ENDPOINTS]
A, B, C = KEYS[:3]
SETTINGS = EjectionSettings(consecutive_failures=3, base_time_s=10, max_time_s=60, max_percent=50)


class World:
    """Ten endpoints and a clock."""

    def __init__(self) -> None:
        self.outliers = Outliers()
        self.now_s = 0.0

    def fail(self, key: EndpointKey, times: int = 3, count: int = 10) -> list[bool]:
        return [self.outliers.failed(key, SETTINGS, count, self.now_s) for _ in range(times)]

    def usable(self) -> set[EndpointKey]:
        found = self.outliers.without_ejected(ENDPOINTS, self.now_s)
        return {(e.address, e.port) for e in found}

    def is_out(self, key: EndpointKey) -> bool:
        return key not in self.usable()

    def pick(self, key: EndpointKey) -> None:
        self.outliers.picked(key, SETTINGS, self.now_s)

    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    def left_s(self, key: EndpointKey) -> float:
        return dict(self.outliers.ejected())[key] - self.now_s


def test_three_failures_in_a_row_eject_an_endpoint() -> None:
    world = World()
    assert world.fail(A, 2) == [False, False]
    assert not world.is_out(A)
    assert world.fail(A, 1) == [True]
    assert world.usable() == set(KEYS) - {A}
    assert world.outliers.ejected() == [(A, 10.0)]
    assert world.outliers.total == 1


def test_a_success_in_between_begins_the_row_anew() -> None:
    world = World()
    watching = []
    for _ in range(2):
        watching.append(world.outliers.is_watching)
        world.fail(A, 1)
        watching.append(world.outliers.is_watching)
        world.outliers.connected(A)
    assert watching == [False, True] * 2
    world.fail(A, 2)
    world.outliers.connected(A)
    assert world.fail(A) == [False, False, True]


def test_failures_of_others_do_not_count() -> None:
    world = World()
    world.fail(A, 2)
    world.fail(B, 2)
    assert not world.outliers


def test_when_the_time_is_over_one_probe_is_let_through() -> None:
    world = World()
    world.fail(A)
    world.wait(9.9)
    assert world.is_out(A)
    world.wait(0.1)
    assert not world.is_out(A)
    world.pick(A)
    assert world.is_out(A)


def test_picks_before_the_time_is_over_are_no_probes() -> None:
    world = World()
    world.fail(A)
    world.pick(A)  # where all were ejected
    assert world.fail(A, 5) == [False] * 5
    assert world.left_s(A) == 10


def test_a_probe_that_connects_ends_the_ejection() -> None:
    world = World()
    world.fail(A)
    world.wait(10)
    world.pick(A)
    world.outliers.connected(A)
    assert not world.outliers
    assert world.usable() == set(KEYS)


def test_each_probe_that_fails_ejects_for_twice_as_long_up_to_a_limit() -> None:
    world = World()
    world.fail(A)
    times = []
    for _ in range(40):
        times.append(world.left_s(A))
        world.wait(times[-1])
        world.pick(A)
        assert world.fail(A, 2) == [True, False]  # the second attempt began earlier
    assert times[:5] == [10, 20, 40, 60, 60]
    assert times[-1] == 60
    assert world.outliers.total == 41


def test_attempts_that_began_before_the_ejection_do_not_prolong_it() -> None:
    world = World()
    world.fail(A)
    world.wait(1)
    assert world.fail(A, 10) == [False] * 10
    assert world.left_s(A) == 9


def test_a_success_of_an_earlier_attempt_ends_the_ejection() -> None:
    world = World()
    world.fail(A)
    world.outliers.connected(A)
    assert not world.outliers


def test_an_endpoint_that_fails_soon_after_it_came_back_is_ejected_for_longer() -> None:
    world = World()
    world.fail(A)
    world.wait(10)
    world.pick(A)
    world.outliers.connected(A)
    world.wait(15)
    world.fail(A)
    assert world.left_s(A) == 20


@pytest.mark.parametrize(
    ("served_s", "expected_s"), [(5, 60), (10, 40), (29, 20), (30, 10), (1e6, 10)]
)
def test_each_base_time_of_service_takes_back_one_doubling(
    served_s: float, expected_s: float
) -> None:
    world = World()
    world.fail(A)
    for _ in range(2):
        world.wait(world.left_s(A))
        world.pick(A)
        world.fail(A, 1)
    assert world.left_s(A) == 40
    world.wait(40)
    world.pick(A)
    world.outliers.connected(A)
    # The time of a probe counts as ejected.
    world.wait(10 + served_s)
    world.fail(A)
    assert world.left_s(A) == expected_s


def test_a_probe_that_is_not_heard_of_makes_way_for_another_pick_and_a_trial() -> None:
    """Its client went away, or it is a flow to a UDP server that never answers, as statsd."""
    world = World()
    world.fail(A)
    world.wait(10)
    world.pick(A)
    world.wait(9.9)
    assert world.is_out(A)
    world.wait(0.1)
    assert not world.is_out(A)
    world.pick(A)
    assert not world.outliers
    assert world.fail(A, 1) == [True]
    assert world.left_s(A) == 20


def test_at_most_the_set_part_of_the_endpoints_is_ejected() -> None:
    world = World()
    assert [world.fail(key)[-1] for key in KEYS] == [True] * 5 + [False] * 5
    assert world.usable() == set(KEYS[5:])
    world.outliers.connected(A)
    assert world.fail(KEYS[9], 1) == [True]  # as soon as there is room


@pytest.mark.parametrize(("count", "expected"), [(1, 0), (2, 1), (3, 1), (4, 2)])
def test_one_of_several_may_always_be_ejected_but_never_the_only_one(
    count: int, expected: int
) -> None:
    world = World()
    ejected = [world.fail(key, count=count)[-1] for key in KEYS[:count]]
    assert sum(ejected) == expected


def test_where_all_are_ejected_all_are_used() -> None:
    world = World()
    world.fail(A)
    only = ENDPOINTS[:1]
    assert world.outliers.without_ejected(only, world.now_s) == only


def test_endpoints_that_have_left_are_forgotten() -> None:
    world = World()
    world.fail(A)
    world.fail(B, 2)
    world.fail(C)
    world.outliers.connected(C)
    world.outliers.keep_only(frozenset(KEYS[3:]), SETTINGS, 7)
    assert not world.outliers
    assert world.fail(B, 1) == [False]
    world.fail(C)
    assert world.left_s(C) == 10
    world.outliers.keep_only(frozenset(KEYS), SETTINGS, 10)
    assert world.is_out(C)


def test_when_few_endpoints_are_left_those_nearest_their_end_come_back() -> None:
    world = World()
    for key in (A, B, C):
        world.fail(key)
        world.wait(1)
    world.outliers.keep_only(frozenset(KEYS[:4]), SETTINGS, 4)
    assert [key for key, _ in world.outliers.ejected()] == [B, C]
    world.outliers.keep_only(frozenset(KEYS[:1]), SETTINGS, 1)
    assert not world.outliers


def test_all_can_be_forgotten() -> None:
    world = World()
    world.fail(A)
    world.fail(B, 2)
    world.outliers.clear()
    assert not world.outliers
    assert world.fail(B, 1) == [False]


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["fail", "connect", "pick", "wait"]), st.integers(0, 9), st.floats(0, 40)
    ),
    max_size=80,
)


@given(_STEPS, st.integers(2, 10))
def test_never_are_more_endpoints_ejected_than_allowed(
    steps: list[tuple[str, int, float]], count: int
) -> None:
    world = World()
    for step, number, seconds in steps:
        key = KEYS[number % count]
        match step:
            case "fail":
                world.fail(key, 1, count)
            case "connect":
                world.outliers.connected(key)
            case "pick":
                world.pick(key)
            case _:
                world.wait(seconds)
        assert len(world.outliers.ejected()) <= max(1, count // 2)
        assert all(until_s - world.now_s <= 60 for _, until_s in world.outliers.ejected())
