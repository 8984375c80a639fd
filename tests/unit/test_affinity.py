"""ClientIP session affinity (PARITY section 10)."""

from typing import Any

import msgspec
import pytest

from pyproxy.core.affinity import AffinityTable, Pin
from pyproxy.model.endpoint import Endpoint
from pyproxy.model.service import ServicePortName
from pyproxy.model.table import Backend

A, B, C = (Endpoint(f"10.0.0.{n}", 80, is_local=n == 1) for n in (1, 2, 3))
NAME = ServicePortName("default", "web", "http", "TCP")
CLIENT, OTHER = "203.0.113.2", "203.0.113.3"


def backend(*cluster: Endpoint, **more: Any) -> Backend:
    return Backend(
        **{
            "name": NAME,
            "family": "IPv4",
            "cluster": cluster,
            "has_any": True,
            "affinity_seconds": 100,
            **more,
        }
    )


WEB = backend(A, B, C)


@pytest.fixture
def table() -> AffinityTable:
    return AffinityTable()


def test_an_unknown_client_sticks_to_nobody(table: AffinityTable) -> None:
    assert table.find(WEB, CLIENT, WEB.cluster, 0) is None
    table.record(WEB, CLIENT, B, 0, 100)
    assert table.find(WEB, OTHER, WEB.cluster, 0) is None


def test_a_client_sticks_until_the_time_is_over(table: AffinityTable) -> None:
    table.record(WEB, CLIENT, B, 1000, 100)
    assert table.find(WEB, CLIENT, WEB.cluster, 1099.9) is B
    assert table.find(WEB, CLIENT, WEB.cluster, 1100) is None


def test_each_new_connection_starts_the_time_anew(table: AffinityTable) -> None:
    table.record(WEB, CLIENT, B, 0, 100)
    table.record(WEB, CLIENT, B, 90, 100)
    assert table.find(WEB, CLIENT, WEB.cluster, 189) is B


def test_looking_does_not_start_the_time_anew(table: AffinityTable) -> None:
    table.record(WEB, CLIENT, B, 0, 100)
    table.find(WEB, CLIENT, WEB.cluster, 99)
    assert table.find(WEB, CLIENT, WEB.cluster, 101) is None


def test_a_record_outside_of_the_chosen_list_is_ignored_and_kept(table: AffinityTable) -> None:
    table.record(WEB, CLIENT, B, 0, 100)
    assert table.find(WEB, CLIENT, (A,), 1) is None
    assert table.find(WEB, CLIENT, (A, B), 1) is B


def test_of_several_records_the_first_in_the_order_of_endpoints_wins(table: AffinityTable) -> None:
    table.record(WEB, CLIENT, C, 0, 100)
    table.record(WEB, CLIENT, B, 1, 100)
    assert table.find(WEB, CLIENT, WEB.cluster, 2) is B
    assert table.find(WEB, CLIENT, (A, C), 2) is C


def test_an_expired_record_makes_way_for_one_that_holds(table: AffinityTable) -> None:
    table.record(WEB, CLIENT, A, 0, 100)
    table.record(WEB, CLIENT, B, 50, 100)
    assert table.find(WEB, CLIENT, WEB.cluster, 120) is B


@pytest.mark.parametrize(
    "other",
    [
        backend(A, B, C, name=NAME._replace(port="admin")),
        backend(A, B, C, name=NAME._replace(protocol="UDP")),
        backend(A, B, C, name=NAME._replace(name="other")),
        backend(A, B, C, family="IPv6"),
    ],
)
def test_ports_protocols_and_families_share_nothing(table: AffinityTable, other: Backend) -> None:
    table.record(WEB, CLIENT, B, 0, 100)
    assert table.find(other, CLIENT, other.cluster, 1) is None
    table.remove(other.name, other.family)
    table.keep_only(other)
    assert table.find(WEB, CLIENT, WEB.cluster, 1) is B


def test_records_go_with_their_endpoint(table: AffinityTable) -> None:
    table.record(WEB, CLIENT, A, 0, 100)
    table.record(WEB, CLIENT, B, 0, 100)
    table.record(WEB, OTHER, A, 0, 100)
    table.keep_only(backend(B, C))
    assert table.find(WEB, CLIENT, WEB.cluster, 1) is B
    assert table.find(WEB, OTHER, WEB.cluster, 1) is None
    assert len(table) == 1


def test_an_endpoint_with_another_port_is_another_endpoint(table: AffinityTable) -> None:
    table.record(WEB, CLIENT, B, 0, 100)
    moved = msgspec.structs.replace(B, port=81)
    assert table.find(WEB, CLIENT, (moved,), 1) is None
    table.keep_only(backend(moved))
    assert len(table) == 0


def test_an_endpoint_of_either_list_keeps_its_records(table: AffinityTable) -> None:
    table.record(WEB, CLIENT, A, 0, 100)
    table.record(WEB, OTHER, B, 0, 100)
    table.keep_only(backend(B, local=(A,)))
    assert table.find(WEB, CLIENT, (A,), 1) is A
    assert table.find(WEB, OTHER, (B,), 1) is B


@pytest.mark.parametrize("after", [backend(), backend(A, B, affinity_seconds=None)])
def test_without_endpoints_or_without_affinity_all_records_go(
    table: AffinityTable, after: Backend
) -> None:
    table.record(WEB, CLIENT, B, 0, 100)
    table.keep_only(after)
    assert len(table) == 0
    assert table.find(WEB, CLIENT, WEB.cluster, 1) is None


def test_removing_a_service_port_drops_its_records(table: AffinityTable) -> None:
    table.record(WEB, CLIENT, B, 0, 100)
    table.remove(NAME, "IPv4")
    assert table.find(WEB, CLIENT, WEB.cluster, 1) is None


def test_a_pin_that_failed_is_taken_back_alone(table: AffinityTable) -> None:
    table.forget(WEB, CLIENT, B)
    table.record(WEB, CLIENT, A, 0, 100)
    table.record(WEB, CLIENT, B, 0, 100)
    table.forget(WEB, CLIENT, A)
    table.forget(WEB, CLIENT, C)
    assert table.find(WEB, CLIENT, WEB.cluster, 1) is B


def test_the_client_longest_unseen_goes_first_when_the_table_is_full() -> None:
    table = AffinityTable(max_clients=2)
    table.record(WEB, "a", A, 0, 100)
    table.record(WEB, "b", A, 1, 100)
    table.record(WEB, "a", A, 2, 100)
    table.record(WEB, "c", A, 3, 100)
    assert [client for client in "abc" if table.find(WEB, client, (A,), 4)] == ["a", "c"]
    assert len(table) == 2


def test_a_full_service_port_takes_no_room_from_another() -> None:
    table = AffinityTable(max_clients=1)
    other = backend(A, name=NAME._replace(name="other"))
    table.record(WEB, CLIENT, A, 0, 100)
    table.record(other, OTHER, A, 0, 100)
    assert table.find(WEB, CLIENT, (A,), 1) is A
    assert table.find(other, OTHER, (A,), 1) is A


class Watched:
    """A table and what it has told."""

    def __init__(self) -> None:
        self.told: list[Pin] = []
        self.table = AffinityTable(observer=self.told.append)


def pin(at: Endpoint, remaining_s: float, client: str = CLIENT) -> Pin:
    return Pin(NAME, "IPv4", client, (at.address, at.port), remaining_s)


def test_a_new_pin_is_told_and_a_fresh_one_not_again() -> None:
    watched = Watched()
    for now_s in (1000, 1001, 1010, 1024.9):
        watched.table.record(WEB, CLIENT, B, now_s, 100)
    assert watched.told == [pin(B, 100)]


def test_a_pin_is_told_again_once_a_quarter_of_its_time_has_passed() -> None:
    watched = Watched()
    for now_s in range(1000, 1100):
        watched.table.record(WEB, CLIENT, B, now_s, 100)
    assert watched.told == [pin(B, 100)] * 4


def test_who_is_told_never_lags_by_more_than_a_quarter_of_the_time() -> None:
    other = AffinityTable()
    now_s = 0.0
    table = AffinityTable(observer=lambda told: other.adopt(told, now_s))
    for step in range(1, 1000):
        now_s = step * 0.7
        table.record(WEB, CLIENT, B, now_s, 100)
        assert other.find(WEB, CLIENT, WEB.cluster, now_s + 74.9) is B


def test_a_pin_that_is_taken_back_is_told() -> None:
    watched = Watched()
    watched.table.record(WEB, CLIENT, B, 0, 100)
    watched.table.forget(WEB, CLIENT, B)
    watched.table.forget(WEB, CLIENT, B)
    assert watched.told == [pin(B, 100), pin(B, 0)]


def test_an_adopted_pin_holds_for_what_remains_and_is_told_to_nobody() -> None:
    watched = Watched()
    watched.table.adopt(pin(B, 30), 1000)
    assert watched.table.find(WEB, CLIENT, WEB.cluster, 1029) is B
    assert watched.table.find(WEB, CLIENT, WEB.cluster, 1030) is None
    assert watched.told == []


def test_an_adopted_pin_never_shortens_one_of_our_own(table: AffinityTable) -> None:
    table.record(WEB, CLIENT, B, 1000, 100)
    table.adopt(pin(B, 30), 1000)
    assert table.find(WEB, CLIENT, WEB.cluster, 1099) is B


def test_a_pin_without_time_takes_the_record_back(table: AffinityTable) -> None:
    table.adopt(pin(B, 0), 0)
    table.record(WEB, CLIENT, B, 0, 100)
    table.record(WEB, CLIENT, C, 0, 100)
    table.adopt(pin(B, 0), 1)
    assert table.find(WEB, CLIENT, WEB.cluster, 1) is C


def test_adopting_is_bounded_like_recording() -> None:
    table = AffinityTable(max_clients=2)
    for number in range(5):
        table.adopt(pin(B, 30, f"192.0.2.{number}"), 0)
    assert len(table) == 2


def test_another_table_can_take_over_every_pin_that_holds(table: AffinityTable) -> None:
    table.record(WEB, CLIENT, A, 0, 10)
    table.record(WEB, CLIENT, B, 0, 100)
    table.record(WEB, OTHER, C, 0, 100)
    assert list(table.pins(20)) == [pin(B, 80), pin(C, 80, OTHER)]
