"""Live connections of one Service over several processes."""

import os
from collections.abc import Iterator

import pytest

from pyproxy.forward.live_counts import OwnCounts
from pyproxy.forward.shared_counts import SLOTS, SharedCounts, SharedMemory, Slots
from pyproxy.model.service import ServiceName

WEB, API = ServiceName("default", "web"), ServiceName("default", "api")


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    made = SharedMemory(2)
    yield made
    made.close()
    made.close()


@pytest.fixture
def counts(memory: SharedMemory) -> list[SharedCounts]:
    made = [SharedCounts(memory, number) for number in range(2)]
    for one in made:
        one.assign([(WEB, 3), (API, SLOTS - 1)])
    return made


def test_a_process_alone_counts_its_own() -> None:
    assert OwnCounts().publish(WEB, 7) == 7


def test_processes_see_each_other_s_connections(counts: list[SharedCounts]) -> None:
    first, second = counts
    assert first.publish(WEB, 2) == 2
    assert second.publish(WEB, 3) == 5
    assert first.publish(WEB, 1) == 4
    assert second.publish(API, 1) == 1


def test_the_memory_is_the_same_behind_another_descriptor(
    memory: SharedMemory, counts: list[SharedCounts]
) -> None:
    other = SharedMemory(2, os.dup(memory.fd))
    seen = SharedCounts(other, 1)
    seen.assign([(WEB, 3)])
    counts[0].publish(WEB, 2)
    assert seen.publish(WEB, 1) == 3
    other.close()


def test_connections_of_a_dead_process_are_cleared(
    memory: SharedMemory, counts: list[SharedCounts]
) -> None:
    counts[0].publish(WEB, 2)
    counts[1].publish(WEB, 3)
    memory.clear(0)
    assert counts[1].publish(WEB, 3) == 3


def test_without_a_slot_a_process_counts_its_own(counts: list[SharedCounts]) -> None:
    counts[0].publish(WEB, 2)
    counts[0].assign([(WEB, None)])
    assert counts[0].publish(WEB, 9) == 9
    assert counts[1].publish(WEB, 1) == 1


def test_a_slot_that_is_given_on_starts_at_nothing(counts: list[SharedCounts]) -> None:
    for one in counts:
        one.publish(WEB, 5)
        one.assign([(WEB, None), (ServiceName("default", "next"), 3)])
    assert counts[0].publish(ServiceName("default", "next"), 1) == 1


def test_each_service_has_a_slot_of_its_own_until_it_is_gone() -> None:
    slots = Slots()
    first = slots.take(WEB)
    assert slots.take(WEB) is None
    assert slots.take(API) != first
    slots.free(WEB)
    assert slots.taken.keys() == {API}
    assert slots.take(WEB) == first


def test_slots_are_bounded() -> None:
    slots = Slots()
    for number in range(SLOTS):
        assert slots.take(ServiceName("default", str(number))) is not None
    assert slots.take(WEB) is None
