"""One list of a resource out of one for each namespace."""

from pyproxy.core.merged_lists import MergedLists
from pyproxy.model.events import Applied, Deleted, Event, Listed
from pyproxy.model.service import Service


def service(namespace: str, name: str) -> Service:
    return Service(
        namespace=namespace, name=name, type="ClusterIP", cluster_ip="", cluster_ips={}, ports=()
    )


A1, A2, B1 = service("a", "1"), service("a", "2"), service("b", "1")


def listed(*services: Service) -> Listed:
    return Listed("services", services)


def test_one_part_is_passed_on_as_it_comes() -> None:
    lists = MergedLists("services", [""])
    events: list[Event] = [listed(A1), Applied("services", B1), Deleted("services", ("a", "1"))]
    assert [lists.merge("", event) for event in events] == events


def test_nothing_is_said_before_every_part_was_listed() -> None:
    lists = MergedLists("services", ["a", "b"])
    assert lists.merge("a", listed(A1)) is None
    assert lists.merge("a", Applied("services", A2)) is None
    assert lists.merge("b", listed(B1)) == listed(A1, A2, B1)


def test_a_part_that_is_listed_again_says_nothing_of_the_others() -> None:
    lists = MergedLists("services", ["a", "b"])
    lists.merge("a", listed(A1, A2))
    lists.merge("b", listed())
    assert lists.merge("b", Applied("services", B1)) == Applied("services", B1)
    assert lists.merge("a", Deleted("services", ("a", "2"))) == Deleted("services", ("a", "2"))
    assert lists.merge("a", listed()) == listed(B1)
    assert lists.merge("b", listed()) == listed()


def test_what_is_gone_before_it_was_known_is_no_error() -> None:
    lists = MergedLists("services", ["a", "b"])
    assert lists.merge("a", Deleted("services", ("a", "1"))) is None
