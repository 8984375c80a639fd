"""Which endpoints may be used: readiness, policy, zone and node hints (PARITY section 3)."""

import re

import pytest

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
