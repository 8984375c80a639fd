"""When connections to an endpoint that has left have to go (kubernetes issue 108523)."""

from pyproxy.core.departures import Departures

A, B = ("10.0.0.1", 80), ("10.0.0.2", 80)
DRAIN_S = 30.0


def left(*keys: tuple[str, int], at_s: float = 0.0) -> Departures:
    departures = Departures()
    departures.update({A, B}, {A, B} - set(keys), at_s)
    return departures


def test_a_serving_endpoint_keeps_its_connections() -> None:
    departures = left()
    assert not departures
    assert departures.due("close", 1e9, DRAIN_S) == set()


def test_drain_waits_for_the_drain_time() -> None:
    departures = left(A, at_s=100)
    assert departures
    assert departures.due("drain", 129.9, DRAIN_S) == set()
    assert departures.due("drain", 130, DRAIN_S) == {A}


def test_close_does_not_wait_and_keep_never_closes() -> None:
    departures = left(A, B, at_s=100)
    assert departures.due("close", 100, DRAIN_S) == {A, B}
    assert departures.due("keep", 1e9, DRAIN_S) == set()


def test_an_endpoint_that_comes_back_in_time_keeps_its_connections() -> None:
    departures = left(A, at_s=0)
    departures.update({A, B}, {A, B}, 29)
    assert not departures
    departures.update({A, B}, {B}, 50)
    assert departures.due("drain", 79, DRAIN_S) == set()


def test_the_time_counts_from_when_it_left_not_from_the_last_change() -> None:
    departures = left(A, at_s=0)
    departures.update({A, B}, set(), 20)
    assert departures.due("drain", 30, DRAIN_S) == {A}
    assert departures.due("drain", 50, DRAIN_S) == {A, B}


def test_an_endpoint_without_connections_is_of_no_concern() -> None:
    departures = Departures()
    departures.update({B}, {B}, 0)
    assert departures.due("close", 0, DRAIN_S) == set()
