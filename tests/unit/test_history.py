"""The last quarter of an hour of each Service, and quantiles of histograms."""

import math

import pytest

from pyproxy.core.history import STEPS, History, Step, quantile
from pyproxy.model.service import ServiceName

WEB, API, JOBS = (ServiceName("default", name) for name in ("web", "api", "jobs"))
BOUNDS = (1.0, 2.0, 4.0)


def add(history: History, steps: dict[ServiceName, Step]) -> int:
    """Take in a step; return how many turns others had."""
    return len(list(history.add(steps)))


def test_others_have_turns_and_see_the_step_once_it_is_whole() -> None:
    history = History()
    names = [ServiceName("default", str(number)) for number in range(600)]
    adding = history.add({name: Step(active=1.0) for name in names})
    next(adding)
    assert history.column(names[0], "active") == []
    assert len(list(adding)) == 1
    assert history.column(names[0], "active") == [1.0]


def test_a_service_without_traffic_has_no_history() -> None:
    history = History()
    add(history, {})
    assert history.column(WEB, "connections") == []
    assert math.isnan(history.last(WEB).p50_s)
    assert (history.errors(WEB), len(history)) == (0, 0)


def test_values_come_oldest_first_and_quiet_steps_are_zeros() -> None:
    history = History()
    add(history, {WEB: Step(connections=1.0, p50_s=0.5)})
    add(history, {})
    add(history, {WEB: Step(connections=3.0)})
    assert history.column(WEB, "connections") == [1.0, 0.0, 3.0]
    assert history.column(WEB, "p50_s") == [0.5, None, None]
    assert history.column(WEB, "connections", steps=2) == [0.0, 3.0]
    assert history.last(WEB).connections == 3.0


def test_what_is_older_than_the_ring_is_forgotten() -> None:
    history = History()
    for number in range(STEPS + 7):
        add(history, {WEB: Step(connections=float(number + 1))})
    found = history.column(WEB, "connections")
    assert found == [float(number + 1) for number in range(7, STEPS + 7)]


def test_errors_are_those_of_the_last_minute() -> None:
    history = History()
    add(history, {WEB: Step(errors=5)})
    add(history, {WEB: Step(errors=2)})
    assert history.errors(WEB) == 7
    for _ in range(10):
        add(history, {})
    assert history.errors(WEB) == 7
    add(history, {})
    assert history.errors(WEB) == 2
    add(history, {})
    assert history.errors(WEB) == 0


def test_a_service_that_did_nothing_for_all_of_the_time_costs_nothing() -> None:
    history = History()
    add(history, {WEB: Step(connections=1.0), API: Step(connections=1.0)})
    for _ in range(STEPS - 1):
        add(history, {API: Step(connections=1.0)})
    assert len(history) == 2
    add(history, {API: Step(connections=1.0)})
    assert len(history) == 1
    assert history.column(WEB, "connections") == []


def test_a_service_that_is_gone_is_forgotten() -> None:
    history = History()
    add(history, {WEB: Step(connections=1.0), API: Step(connections=1.0)})
    history.keep_only([API, JOBS])
    assert (len(history), history.column(WEB, "active")) == (1, [])


def test_the_one_that_is_idle_for_longest_makes_room() -> None:
    history = History(most=2)
    add(history, {WEB: Step(active=1.0)})
    add(history, {API: Step(active=1.0)})
    add(history, {JOBS: Step(active=1.0)})
    assert history.column(WEB, "active") == []
    assert history.column(API, "active") == [1.0, 0.0]
    assert history.column(JOBS, "active") == [1.0]


def test_when_all_are_busy_a_further_one_is_not_kept() -> None:
    history = History(most=1)
    add(history, {WEB: Step(active=1.0)})
    add(history, {WEB: Step(active=1.0), API: Step(active=1.0)})
    assert history.column(API, "active") == []
    assert history.column(WEB, "active") == [1.0, 1.0]


@pytest.mark.parametrize(
    ("counts", "share", "wanted"),
    [
        ([10, 0, 0, 0], 0.5, 0.5),
        ([10, 10, 0, 0], 0.5, 1.0),
        ([10, 10, 0, 0], 0.75, 1.5),
        ([0, 0, 4, 0], 0.5, 3.0),
        ([1, 0, 0, 1], 0.95, 4.0),  # above all bounds, nothing is known but that
    ],
)
def test_a_quantile_lies_within_its_bucket(counts: list[int], share: float, wanted: float) -> None:
    assert quantile([*counts, 123], BOUNDS, share) == pytest.approx(wanted)


def test_an_empty_histogram_has_no_quantile() -> None:
    assert math.isnan(quantile([0, 0, 0, 0, 0], BOUNDS, 0.5))
