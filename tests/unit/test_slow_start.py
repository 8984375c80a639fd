"""A new endpoint gets a share that grows from a tenth to the whole."""

import random

import pytest

from pyproxy.core.affinity import EndpointKey
from pyproxy.core.slow_start import SlowStart
from pyproxy.model.endpoint import Endpoint

A, B, NEW, NEWER = (Endpoint(f"10.0.0.{n}", 80) for n in range(1, 5))
DURATION_S = 30.0


def keys(*endpoints: Endpoint) -> frozenset[EndpointKey]:
    return frozenset((e.address, e.port) for e in endpoints)


def warming(*endpoints: Endpoint, since_s: float = 100.0) -> SlowStart:
    """A slow start where these came to A and B."""
    slow_start = SlowStart()
    slow_start.update(keys(A, B), keys(A, B, *endpoints), DURATION_S, since_s)
    return slow_start


def share(slow_start: SlowStart, endpoint: Endpoint, now_s: float) -> float:
    """In how many of the picks an endpoint takes part."""
    among, draw = (A, B, endpoint), random.Random(1).random
    found = [slow_start.taking_part(among, DURATION_S, now_s, draw) for _ in range(4000)]
    assert all(A in each and B in each for each in found)
    return sum(endpoint in each for each in found) / 4000


@pytest.mark.parametrize(
    ("age_s", "expected"), [(0, 0.1), (7.5, 0.325), (15, 0.55), (22.5, 0.775), (29.9, 1), (30, 1)]
)
def test_the_share_grows_in_a_line_from_a_tenth_to_the_whole(age_s: float, expected: float) -> None:
    assert share(warming(NEW), NEW, 100 + age_s) == pytest.approx(expected, abs=0.03)


def test_once_it_is_warm_nothing_is_looked_at_any_more() -> None:
    slow_start = warming(NEW)
    assert slow_start
    assert slow_start.taking_part((A, B, NEW), DURATION_S, 130, lambda: 1.0) == (A, B, NEW)
    assert not slow_start


def test_each_endpoint_has_its_own_time() -> None:
    slow_start = warming(NEW)
    slow_start.update(keys(A, B, NEW), keys(A, B, NEW, NEWER), DURATION_S, 115)
    among, draw = (A, B, NEW, NEWER), random.Random(1).random
    found = [slow_start.taking_part(among, DURATION_S, 115, draw) for _ in range(4000)]
    assert sum(NEW in each for each in found) == pytest.approx(2200, abs=100)
    assert sum(NEWER in each for each in found) == pytest.approx(400, abs=100)


def test_where_all_are_new_none_has_to_wait() -> None:
    slow_start = SlowStart()
    slow_start.update(keys(), keys(A, B), DURATION_S, 0)
    assert not slow_start
    slow_start.update(keys(A, B), keys(NEW, NEWER), DURATION_S, 0)
    assert not slow_start


def test_where_all_that_is_left_warms_up_all_take_part() -> None:
    slow_start = warming(NEW, NEWER)
    assert slow_start.taking_part((NEW, NEWER), DURATION_S, 100, lambda: 0.99) == (NEW, NEWER)


def test_an_endpoint_that_has_left_is_forgotten_and_new_when_it_comes_back() -> None:
    slow_start = warming(NEW)
    slow_start.update(keys(A, B, NEW), keys(A, B), DURATION_S, 110)
    assert not slow_start
    slow_start.update(keys(A, B), keys(A, B, NEW), DURATION_S, 120)
    assert share(slow_start, NEW, 120) == pytest.approx(0.1, abs=0.03)


def test_without_a_duration_nobody_warms_up() -> None:
    slow_start = warming(NEW)
    slow_start.update(keys(A, B, NEW), keys(A, B, NEW, NEWER), 0.0, 101)
    assert not slow_start
