"""The time from a change to its being programmed (PARITY section 18)."""

from datetime import UTC, datetime, timedelta

import pytest

from pyproxy.core.programming_latency import MAX_PENDING, ProgrammingLatency
from pyproxy.model.events import Applied, Deleted, Event, Listed
from tests.support.builders import applied, local, make_service, make_slice

START = datetime(2026, 1, 1, tzinfo=UTC)
ANNOTATION = "endpoints.kubernetes.io/last-change-trigger-time"


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def trigger(seconds: float) -> str:
    """As Go writes it."""
    return at(seconds).isoformat().replace("+00:00", "Z")


def changed(
    seconds: float | str, *addresses: str, name: str = "web-1", service: str | None = "web"
) -> Applied:
    """The event of a slice that was changed because of something at that time."""
    text = seconds if isinstance(seconds, str) else trigger(seconds)
    endpoints = [local(address) for address in addresses]
    return applied(
        make_slice(*endpoints, name=name, service=service, annotations={ANNOTATION: text})
    )


def tracker(*events: Event) -> ProgrammingLatency:
    made = ProgrammingLatency(START)
    for event in events:
        made.apply(event)
    return made


def listed(*events: Applied) -> Listed:
    return Listed("endpointslices", tuple(event.value for event in events))


def test_it_is_the_time_from_the_trigger_to_the_update() -> None:
    found = tracker(changed(1, "10.0.0.1"))
    assert found.programmed(at(3)) == [2.0]
    assert found.programmed(at(4)) == []


def test_several_changes_before_an_update_each_count() -> None:
    found = tracker(
        changed(1, "10.0.0.1"),
        changed(2, "10.0.0.1", "10.0.0.2"),
        changed(2, "10.0.0.9", name="web-2"),
        changed(3, "10.0.1.1", name="api-1", service="api"),
    )
    assert sorted(found.programmed(at(5))) == [2.0, 3.0, 3.0, 4.0]


def test_saying_the_same_again_is_no_change() -> None:
    found = tracker(changed(1, "10.0.0.1"), changed(1, "10.0.0.1"), listed(changed(1, "10.0.0.1")))
    assert found.programmed(at(2)) == [1.0]


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "2026-13-01T00:00:00Z", "2026-01-01T00:00:05", trigger(0), trigger(-10)],
)
def test_a_time_that_is_missing_unreadable_or_from_before_the_start_is_left_out(text: str) -> None:
    found = tracker(changed(text, "10.0.0.1"))
    assert found.programmed(at(9)) == []


def test_nanoseconds_are_read() -> None:
    found = tracker(changed("2026-01-01T00:00:01.123456789Z", "10.0.0.1"))
    assert found.programmed(at(2)) == [pytest.approx(0.876544)]


def test_a_slice_without_the_annotation_counts_nothing() -> None:
    assert tracker(applied(make_slice(local()))).programmed(at(1)) == []


def test_a_slice_that_feeds_no_service_counts_nothing() -> None:
    assert tracker(changed(1, "10.0.0.1", service=None)).programmed(at(2)) == []


def test_deleting_a_slice_forgets_what_waits_of_its_service_only() -> None:
    found = tracker(
        changed(1, "10.0.0.1"),
        changed(1, "10.0.0.2", name="web-2"),
        changed(1, "10.0.1.1", name="api-1", service="api"),
        Deleted("endpointslices", ("default", "web-2")),
    )
    assert found.programmed(at(2)) == [1.0]
    found.apply(Deleted("endpointslices", ("default", "unheard-of")))


def test_a_list_deletes_what_is_not_in_it_and_applies_the_rest() -> None:
    found = tracker(changed(1, "10.0.0.1"), changed(1, "10.0.1.1", name="api-1", service="api"))
    found.apply(listed(changed(2, "10.0.1.2", name="api-1", service="api")))
    assert sorted(found.programmed(at(3))) == [1.0, 2.0]


def test_without_an_update_that_succeeds_they_wait_but_not_without_end() -> None:
    found = tracker()
    for number in range(MAX_PENDING + 5):
        found.apply(changed(1 + number, "10.0.0.1"))
    assert len(found.programmed(at(1000))) == MAX_PENDING
    found.apply(changed(900, "10.0.0.1"))
    assert found.programmed(at(1000)) == [100.0]


def test_a_trigger_from_the_future_took_no_time() -> None:
    assert tracker(changed(5, "10.0.0.1")).programmed(at(4)) == [0.0]


def test_other_resources_do_not_matter() -> None:
    found = tracker(applied(make_service()), Listed("services", ()), Listed("nodes", ()))
    assert found.programmed(at(1)) == []
