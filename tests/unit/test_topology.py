"""Which endpoints may be used: readiness, policy, zone and node hints (PARITY section 3)."""

import re
from typing import Any

import pytest

from pyproxy.core.topology import categorize, topology_of
from pyproxy.model.endpoint import Endpoint
from tests.support.builders import (
    CLIENT,
    FAILED,
    LB,
    LEAVING,
    NODE,
    POD,
    UNREADY,
    VIP,
    Json,
    explained,
    hinted,
    load_balancer,
    local,
    make_service,
    make_slice,
    make_store,
    outcome,
    remote,
)

DROPPED = "drop NoLocalEndpoint"


REJECTED = "reject NoReadyEndpoint"


@pytest.mark.parametrize(
    ("endpoints", "vip", "outside", "vip_local", "outside_local"),
    [
        pytest.param(
            [local("10.180.0.1"), local("10.180.0.2", **LEAVING), remote("10.180.0.3")],
            "10.180.0.1:80, 10.180.0.3:80",
            "10.180.0.1:80, 10.180.0.3:80",
            "10.180.0.1:80",
            "10.180.0.1:80",
            id="ready ones exist: terminating ones are not used",
        ),
        pytest.param(
            [local("10.180.0.1", **LEAVING), local("10.180.0.2", **FAILED), remote("10.180.0.3")],
            "10.180.0.3:80",
            "10.180.0.3:80",
            "10.180.0.1:80",
            "10.180.0.1:80",
            id="local terminating and remote ready: each list decides for itself",
        ),
        pytest.param(
            [local("10.180.0.1", **LEAVING), remote("10.180.0.3", **LEAVING)],
            "10.180.0.1:80, 10.180.0.3:80",
            "10.180.0.1:80, 10.180.0.3:80",
            "10.180.0.1:80",
            "10.180.0.1:80",
            id="all terminating and serving: all are used",
        ),
        pytest.param(
            [local("10.180.0.1", **FAILED), remote("10.180.0.3", **LEAVING)],
            "10.180.0.3:80",
            "10.180.0.3:80",
            DROPPED,
            DROPPED,
            id="only a remote one serves",
        ),
        pytest.param(
            [local("10.180.0.1", **FAILED), remote("10.180.0.3", **FAILED)],
            REJECTED,
            REJECTED,
            REJECTED,
            REJECTED,
            id="none serves",
        ),
        pytest.param(
            [local("10.180.0.1", **UNREADY)],
            REJECTED,
            REJECTED,
            REJECTED,
            REJECTED,
            id="not ready and not terminating is never used",
        ),
        pytest.param(
            [local("10.180.0.1", **UNREADY), remote("10.180.0.3")],
            "10.180.0.3:80",
            "10.180.0.3:80",
            DROPPED,
            DROPPED,
            id="not even by policy Local with ready ones elsewhere",
        ),
    ],
)
def test_terminating_endpoints_serve_only_when_none_is_ready(
    endpoints: list[Json],
    vip: str,
    outside: str,
    vip_local: str,
    outside_local: str,
) -> None:
    for policy, on_vip, on_lb in [
        ("Cluster", vip, outside),
        ("Local", vip_local, outside_local),
    ]:
        store = make_store(
            load_balancer(internalTrafficPolicy=policy, externalTrafficPolicy=policy),
            make_slice(*endpoints),
        )
        found = outcome(store, VIP, POD)
        assert found.removeprefix("forward ").removesuffix(" as client") == on_vip, policy
        found = outcome(store, LB, CLIENT)
        assert re.sub(" as .*", "", found.removeprefix("forward ")) == on_lb, policy


@pytest.mark.parametrize(
    ("hints", "expected"),
    [
        ([("zone-a", ""), ("zone-b", "")], ["10.180.0.1:80"]),
        ([("zone-a", ""), ("", "")], ["10.180.0.1:80", "10.180.0.2:80"]),
        ([("zone-b", ""), ("zone-c", "")], ["10.180.0.1:80", "10.180.0.2:80"]),
        ([("zone-b", NODE), ("zone-a", "node-2")], ["10.180.0.1:80"]),
        ([("zone-b", "node-3"), ("zone-a", "node-2")], ["10.180.0.2:80"]),
        ([("zone-b", NODE), ("zone-a", "")], ["10.180.0.2:80"]),
    ],
)
def test_hints_choose_among_ready_endpoints(
    hints: list[tuple[str, str]], expected: list[str]
) -> None:
    store = make_store(make_service(), make_slice(*hinted(*hints)))
    assert explained(store, VIP, POD)["endpoints"] == expected


def test_hints_bind_external_policy_cluster_but_never_policy_local() -> None:
    endpoints = hinted(("zone-b", ""), ("zone-a", ""))
    store = make_store(load_balancer(), make_slice(*endpoints))
    assert outcome(store, LB, CLIENT) == "forward 10.180.0.2:80 as node"
    store = make_store(load_balancer(externalTrafficPolicy="Local"), make_slice(*endpoints))
    assert outcome(store, LB, CLIENT) == "forward 10.180.0.1:80 as client"
    assert outcome(store, LB, POD) == "forward 10.180.0.2:80 as client"


# --- categorize, the rule by itself ------------------------------------------------------------


def endpoint(address: str, **more: Any) -> Endpoint:
    return Endpoint(address, 80, **more)


READY_HERE = endpoint("ready-here", is_local=True)
READY_THERE = endpoint("ready-there")
LEAVING_HERE = endpoint("leaving-here", ready=False, terminating=True, is_local=True)
LEAVING_THERE = endpoint("leaving-there", ready=False, terminating=True)
UNREADY_HERE = endpoint("unready-here", ready=False, is_local=True)
FAILED_HERE = endpoint("failed-here", ready=False, serving=False, terminating=True, is_local=True)
# publishNotReadyAddresses: the slice controller calls a terminating pod ready.
PUBLISHED_HERE = endpoint("published-here", terminating=True, is_local=True)


@pytest.mark.parametrize(
    ("endpoints", "cluster", "here", "has_any"),
    [
        ([], [], [], False),
        ([UNREADY_HERE, FAILED_HERE], [], [], False),
        ([READY_HERE, READY_THERE], [READY_HERE, READY_THERE], [READY_HERE], True),
        ([READY_THERE, LEAVING_HERE], [READY_THERE], [LEAVING_HERE], True),
        ([READY_THERE, LEAVING_THERE], [READY_THERE], [], True),
        ([LEAVING_HERE, LEAVING_THERE], [LEAVING_HERE, LEAVING_THERE], [LEAVING_HERE], True),
        ([LEAVING_THERE, UNREADY_HERE], [LEAVING_THERE], [], True),
        ([PUBLISHED_HERE, LEAVING_HERE], [PUBLISHED_HERE], [PUBLISHED_HERE], True),
    ],
)
def test_two_lists_are_computed_each_only_where_its_policy_is_used(
    endpoints: list[Endpoint], cluster: list[Endpoint], here: list[Endpoint], has_any: bool
) -> None:
    for uses_cluster in (True, False):
        for uses_local in (True, False):
            assert categorize(
                tuple(endpoints),
                uses_cluster=uses_cluster,
                uses_local=uses_local,
                node_name="node-1",
                zone="zone-a",
            ) == (
                tuple(cluster) if uses_cluster else (),
                tuple(here) if uses_local else (),
                has_any,
            )


@pytest.mark.parametrize(
    ("nodes", "zones", "node_name", "zone", "expected"),
    [
        pytest.param([["n"], ["m"]], [["a"], ["b"]], "n", "a", "same-node", id="node hints first"),
        pytest.param([["m"], ["m"]], [["a"], ["b"]], "n", "a", "same-zone", id="none names it"),
        pytest.param(
            [["n"], []], [["a"], ["b"]], "n", "a", "same-zone", id="one lacks a node hint"
        ),
        pytest.param([[], []], [["a"], []], "n", "a", "none", id="one lacks a zone hint"),
        pytest.param([[], []], [["b"], ["c"]], "n", "a", "none", id="no hint names this zone"),
        pytest.param([[], []], [["b", "a"], ["c"]], "n", "a", "same-zone", id="several zones"),
        pytest.param([["m", "n"], ["m"]], [[], []], "n", "a", "same-node", id="several nodes"),
        pytest.param([[], []], [[""], [""]], "n", "", "none", id="the zone is not known"),
        pytest.param([[""], [""]], [[], []], "", "a", "none", id="the node is not known"),
    ],
)
def test_hints_hold_only_when_every_ready_endpoint_has_one_and_one_names_this_place(
    nodes: list[list[str]], zones: list[list[str]], node_name: str, zone: str, expected: str
) -> None:
    ready = tuple(
        endpoint(f"10.0.0.{number}", nodes=tuple(on), zones=tuple(within))
        for number, (on, within) in enumerate(zip(nodes, zones, strict=True))
    )
    assert topology_of(ready, node_name, zone) == expected


def test_without_ready_endpoints_no_hint_holds() -> None:
    assert topology_of((), "n", "a") == "none"


def test_hints_of_endpoints_that_are_not_ready_do_not_matter() -> None:
    hinted_here = endpoint("10.0.0.1", zones=("zone-a",))
    unhinted = endpoint("10.0.0.2", ready=False)
    found = categorize(
        (hinted_here, endpoint("10.0.0.3", zones=("zone-b",)), unhinted),
        uses_cluster=True,
        uses_local=False,
        node_name="node-1",
        zone="zone-a",
    )
    assert found.cluster == (hinted_here,)


def test_terminating_endpoints_step_in_cluster_wide_whatever_their_hints() -> None:
    leaving = endpoint("10.0.0.1", ready=False, terminating=True, zones=("zone-b",))
    found = categorize(
        (leaving,), uses_cluster=True, uses_local=False, node_name="n", zone="zone-a"
    )
    assert found == ((leaving,), (), True)
