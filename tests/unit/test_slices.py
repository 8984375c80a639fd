"""The slices of a Service become the endpoints of a port (PARITY section 2)."""

from itertools import permutations

import pytest

from pyproxy.core.slices import count, merge
from pyproxy.model.endpoint import Endpoint, EndpointSlice
from pyproxy.model.service import ServicePort
from tests.support.builders import FAILED, LEAVING, Json, endpoint_slice, make_endpoint

HTTP = ServicePort("http", "TCP", 80)


def merged(*slices: EndpointSlice, port: ServicePort = HTTP, node: str = "node-1") -> list[str]:
    return [str(endpoint) for endpoint in merge(slices, port, "IPv4", node)]


def test_endpoints_of_all_slices_are_merged_and_sorted_by_their_text() -> None:
    first = endpoint_slice("10.0.1.1", "10.0.1.10", name="a")
    second = endpoint_slice("10.0.1.2", name="b")
    assert merged(first, second) == ["10.0.1.10:80", "10.0.1.1:80", "10.0.1.2:80"]


def test_no_slices_are_no_endpoints() -> None:
    assert merged() == []
    assert merged(endpoint_slice()) == []


def test_a_slice_port_feeds_the_service_port_of_its_name_and_protocol() -> None:
    found = endpoint_slice(
        "10.0.0.1",
        ports=[
            {"name": "http", "port": 8080},
            {"name": "http", "port": 8081, "protocol": "UDP"},
            {"name": "", "port": 8082},
        ],
    )
    assert merged(found) == ["10.0.0.1:8080"]
    assert merged(found, port=ServicePort("http", "UDP", 80)) == ["10.0.0.1:8081"]
    assert merged(found, port=ServicePort("", "TCP", 80)) == ["10.0.0.1:8082"]
    assert merged(found, port=ServicePort("other", "TCP", 80)) == []


def test_named_target_ports_that_differ_by_pod_are_mixed() -> None:
    old = endpoint_slice("10.0.0.1", "10.0.0.2", name="a", ports=[{"name": "http", "port": 80}])
    new = endpoint_slice("10.0.0.2", name="b", ports=[{"name": "http", "port": 8080}])
    assert merged(old, new) == ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.2:8080"]


def test_the_other_family_and_names_are_left_out() -> None:
    v6 = endpoint_slice("fd00::1", address_type="IPv6")
    names = endpoint_slice("a.example", address_type="FQDN")
    assert merged(v6, names) == []
    assert [str(e) for e in merge([v6, names], HTTP, "IPv6", "")] == ["[fd00::1]:80"]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        pytest.param([{}, LEAVING], {}, id="a terminating entry does not hide another"),
        pytest.param([FAILED, LEAVING], FAILED, id="of two terminating ones the first stays"),
        pytest.param(
            [{"ready": False}, {"ready": True}], {"ready": True}, id="of two others the last wins"
        ),
        pytest.param(
            [{"ready": True}, {"ready": False}], {"ready": False}, id="also when it is not ready"
        ),
    ],
)
@pytest.mark.parametrize("in_one_slice", [True, False])
def test_of_doubles_one_that_is_not_terminating_stays(
    conditions: list[Json], expected: Json, in_one_slice: bool
) -> None:
    doubles = [make_endpoint("10.0.0.1", **each) for each in conditions]
    if in_one_slice:
        slices = [endpoint_slice(*doubles)]
    else:
        slices = [endpoint_slice(double, name=f"s{i}") for i, double in enumerate(doubles)]
    wanted = {"ready": True, "serving": True, "terminating": False, **expected}
    (found,) = merge(slices, HTTP, "IPv4", "")
    assert {name: getattr(found, name) for name in wanted} == wanted


def test_a_pod_that_moves_between_slices_counts_as_not_terminating_in_either_order() -> None:
    doubles = [make_endpoint("10.0.0.1"), make_endpoint("10.0.0.1", **LEAVING)]
    for order in permutations(doubles):
        slices = [endpoint_slice(double, name=f"s{i}") for i, double in enumerate(order)]
        (found,) = merge(slices, HTTP, "IPv4", "")
        assert found.ready
        assert not found.terminating


@pytest.mark.parametrize(
    ("on", "here", "expected"),
    [
        ("node-1", "node-1", True),
        ("node-2", "node-1", False),
        (None, "node-1", False),
        ("", "", False),
        (None, "", False),
        ("node-1", "", False),
    ],
)
def test_an_endpoint_is_local_when_it_names_this_node(
    on: str | None, here: str, expected: bool
) -> None:
    (found,) = merge([endpoint_slice(make_endpoint("10.0.0.1", node=on))], HTTP, "IPv4", here)
    assert found.is_local is expected


def test_an_endpoint_keeps_what_its_slice_says() -> None:
    data = make_endpoint(
        "10.0.0.1",
        **LEAVING,
        zones=("a",),
        nodes=("n",),
        node="node-2",
        targetRef={"kind": "Pod", "name": "web-0"},
    )
    assert merge([endpoint_slice(data)], HTTP, "IPv4", "node-1") == (
        Endpoint(
            "10.0.0.1",
            80,
            ready=False,
            serving=True,
            terminating=True,
            zones=("a",),
            nodes=("n",),
            pod="web-0",
            node_name="node-2",
        ),
    )


@pytest.mark.parametrize(
    "slices",
    [
        [],
        [endpoint_slice("10.0.0.1", make_endpoint("10.0.0.2", **FAILED), name="a")],
        [endpoint_slice("10.0.0.1", make_endpoint("10.0.0.1", **FAILED), name="a")],  # twice in one
        [endpoint_slice("10.0.0.1", name="a"), endpoint_slice("10.0.0.1", "10.0.0.2", name="b")],
        [endpoint_slice("10.0.0.1", name="a", ports=[{"name": "other", "port": 80}])],
        [endpoint_slice("10.0.0.1", ports=[{"name": "http", "port": n} for n in (80, 81)])],
        [
            endpoint_slice("fd00::1", name="a", address_type="IPv6"),
            endpoint_slice("10.0.0.1", name="b"),
        ],
    ],
)
def test_counting_finds_what_merging_finds(slices: list[EndpointSlice]) -> None:
    found = merge(slices, HTTP, "IPv4", "")
    assert count(slices, HTTP, "IPv4") == (len(found), sum(e.ready for e in found))
