"""The answer of `explain`: its shape, its reasons and its words."""

import re
from pathlib import Path

import pytest

from pyproxy.core.explanation import REASONS
from pyproxy.core.store import Store
from tests.support.builders import (
    BLOCKED_CLIENT,
    CLIENT,
    CLUSTER_IP,
    EXTERNAL,
    EXTERNAL_IP,
    FAILED,
    LB,
    LEAVING,
    LOCAL,
    NODE,
    NODE_IP,
    NODE_IP_ALT,
    NODE_IP_V6,
    NODE_PORT,
    POD,
    REMOTE,
    UNREADY,
    VIP,
    Json,
    explained,
    hinted,
    load_balancer,
    local,
    make_endpoint,
    make_node,
    make_port,
    make_service,
    make_slice,
    make_store,
    node_ports,
    outcome,
    remote,
    with_config,
)


@pytest.mark.parametrize(
    ("slices", "reason"),
    [
        pytest.param([], "NoEndpointSlice", id="no slice"),
        pytest.param([make_slice(LOCAL, service="other")], "NoEndpointSlice", id="of another"),
        pytest.param([make_slice(LOCAL, namespace="n")], "NoEndpointSlice", id="other namespace"),
        pytest.param(
            [make_slice("fd00::1", address_type="IPv6")], "NoEndpointSlice", id="other family"
        ),
        pytest.param(
            [make_slice(LOCAL, labels={"service.kubernetes.io/headless": ""})],
            "NoEndpointSlice",
            id="marked headless",
        ),
        pytest.param([make_slice()], "NoEndpoint", id="an empty slice"),
        pytest.param(
            [make_slice({"addresses": []}, {"addresses": ["x"]})], "NoEndpoint", id="no address"
        ),
        pytest.param([make_slice(LOCAL, ports=[])], "PortNameMismatch", id="no ports"),
        pytest.param(
            [make_slice(LOCAL, ports=[{"name": "x", "port": 80}])], "PortNameMismatch", id="name"
        ),
        pytest.param(
            [make_slice(LOCAL, ports=[{"name": "http", "port": 80, "protocol": "UDP"}])],
            "PortProtocolMismatch",
            id="protocol",
        ),
        pytest.param(
            [make_slice(LOCAL, ports=[{"name": "http", "port": None}])],
            "PortNameMismatch",
            id="all ports",
        ),
        pytest.param([make_slice(local(**UNREADY))], "NoReadyEndpoint", id="not ready"),
    ],
)
def test_the_reason_names_the_first_thing_that_is_missing(slices: list[Json], reason: str) -> None:
    store = make_store(make_service(), *slices)
    assert outcome(store, VIP, POD) == f"reject {reason}"
    assert explained(store, VIP, POD)["checks"][-1]["ok"] is False


def test_conditions_are_counted_over_the_slices_that_have_the_port() -> None:
    other = [{"name": "other", "protocol": "TCP", "port": 81}]
    store = make_store(
        make_service(),
        make_slice(local(**UNREADY), remote(**FAILED)),
        make_slice("10.180.0.3", "10.180.0.4", name="web-2", ports=other),
    )
    assert outcome(store, VIP) == "reject NoReadyEndpoint"
    detail = explained(store, VIP)["checks"][-1]["detail"]
    assert "2 not ready, 1 of them terminating" in detail


def test_a_node_port_on_an_address_that_is_not_served_says_what_to_do() -> None:
    store = make_store(
        make_service(type="NodePort", ports=[make_port(node_port=NODE_PORT)]),
        config=with_config(node_port_addresses=node_ports(primary=True)),
    )
    check = explained(store, f"{NODE_IP_ALT}:{NODE_PORT}")["checks"][0]
    assert f"nodePortAddresses leaves {NODE_IP_ALT} out" in check["detail"]
    check = explained(store, f"{CLIENT}:{NODE_PORT}")["checks"][0]
    assert f"{CLIENT} is no address of this node" in check["detail"]
    check = explained(store, f"[{NODE_IP_V6}]:{NODE_PORT}")["checks"][0]
    assert "not served in IPv6" in check["detail"]


def test_the_text_tells_of_hints() -> None:
    def policy(store: Store) -> str:
        checks = {c["check"]: c["detail"] for c in explained(store, VIP, POD)["checks"]}
        return str(checks["TrafficPolicy"])

    store = make_store(make_service(), make_slice(*hinted(("zone-a", ""), ("zone-b", ""))))
    assert "zone hints keep it in zone zone-a: 1 endpoint" in policy(store)
    store = make_store(make_service(), make_slice(*hinted(("", NODE), ("", "node-2"))))
    assert "node hints keep it on node node-1: 1 endpoint" in policy(store)
    store = make_store(make_service(), make_slice(LOCAL, REMOTE))
    assert policy(store) == "internalTrafficPolicy Cluster: 2 endpoints"


def test_an_address_target_of_ipv4_mapped_ipv6_is_the_ipv4_address() -> None:
    store = make_store(make_service(), make_slice(LOCAL))
    assert outcome(store, f"[::ffff:{CLUSTER_IP}]:80", POD) == f"forward {LOCAL}:80 as client"


def test_sctp_is_told_as_not_supported() -> None:
    sctp = make_port(90, "s", "SCTP", node_port=30090)
    store = make_store(make_service(ports=[make_port(), sctp]), make_slice(LOCAL))
    assert outcome(store, f"{CLUSTER_IP}:90/SCTP") == "reject ProtocolNotSupported"
    assert outcome(store, f"{CLUSTER_IP}:90/TCP") == "reject ProtocolMismatch"
    assert outcome(store, f"{NODE_IP}:30090/SCTP") == "none ProtocolNotSupported"
    assert outcome(store, "default/web:s") == "none ProtocolNotSupported"
    assert outcome(store, "default/web:90") == "none ProtocolNotSupported"
    store = make_store(make_service(ports=[sctp]))
    assert outcome(store, "default/web") == "none ProtocolNotSupported"


def test_of_two_services_with_one_external_ip_the_older_one_holds_it() -> None:
    store = make_store(
        make_service("new", externalIPs=[EXTERNAL_IP], created="2026-02-01T00:00:00Z"),
        make_service("old", cluster_ip="172.30.0.42", externalIPs=[EXTERNAL_IP]),
        make_slice(LOCAL, service="new"),
        make_slice(REMOTE, service="old"),
    )
    assert outcome(store, EXTERNAL) == f"forward {REMOTE}:80 as node"
    answer = explained(store, EXTERNAL)
    assert answer["service"]["name"] == "old"
    assert "default/new:http also claims it" in answer["checks"][0]["detail"]
    by_name = explained(store, "default/new")
    assert (by_name["action"], by_name["reason"]) == ("none", "AddressContested")
    assert [part["action"] for part in by_name["frontends"]] == ["forward", "none"]
    assert "default/old" in by_name["checks"][0]["detail"]


def test_a_service_by_name_is_explained_for_each_of_its_addresses() -> None:
    store = make_store(
        load_balancer(externalTrafficPolicy="Local"),
        make_slice(remote()),
        config=with_config(node_port_addresses=node_ports(primary=True)),
    )
    answer = explained(store, "default/web", CLIENT)
    assert answer["target"] == {"namespace": "default", "name": "web", "port": None}
    assert [(part["frontend"], part["action"]) for part in answer["frontends"]] == [
        ("ClusterIP", "forward"),
        ("ExternalIP", "drop"),
        ("LoadBalancer", "drop"),
        ("NodePort", "drop"),
    ]
    assert (answer["frontend"], answer["reason"]) == ("ExternalIP", "NoLocalEndpoint")
    answer = explained(store, "default/web", POD)
    assert (answer["frontend"], answer["action"]) == ("ClusterIP", "forward")
    assert answer["endpoints"] == [f"{REMOTE}:80"]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("default/web:http", f"forward {LOCAL}:80 as client"),
        ("default/web:80", f"forward {LOCAL}:80 as client"),
        ("default/web:81", "none UnknownPort"),
        ("default/wob", "none NoSuchService"),
        ("other/web", "none NoSuchService"),
        ("other/nothing", "none NoSuchService"),
    ],
)
def test_a_port_is_asked_for_by_name_or_by_number(target: str, expected: str) -> None:
    store = make_store(make_service(), make_slice(LOCAL))
    assert outcome(store, target, POD) == expected


@pytest.mark.parametrize(
    ("more", "detail"),
    [
        ({"cluster_ip": ""}, "has no ClusterIP yet"),
        ({"cluster_ip": "1.2.3"}, "has clusterIP '1.2.3', which is no address"),
        ({"ipFamilies": ["IPv4"]}, f"has clusterIP '{CLUSTER_IP}', which is no address, or not in"),
    ],
)
def test_a_service_without_a_usable_cluster_ip_says_why(more: Json, detail: str) -> None:
    answer = explained(make_store(make_service(**more)), "default/web")
    assert answer["reason"] == "NoClusterIP"
    assert detail in answer["checks"][0]["detail"]


def test_an_unknown_service_gets_a_suggestion() -> None:
    store = make_store(make_service(), make_service("zz", namespace="kube-system"))
    for target in ("default/wob", "other/web"):
        assert explained(store, target)["checks"][0]["fix"] == "did you mean default/web?"
    assert explained(store, "x/q")["checks"][0]["fix"] == "create it, or check its name"


def test_a_service_without_ports_has_nothing_to_explain() -> None:
    store = make_store(make_service(ports=[]))
    assert outcome(store, "default/web") == "none UnknownPort"


def test_the_json_of_an_address_has_the_documented_shape() -> None:
    store = make_store(
        make_service(sessionAffinity="ClientIP", ports=[make_port(53, "dns", "UDP")]),
        make_slice("10.180.0.10", LOCAL, ports=[{"name": "dns", "protocol": "UDP", "port": 5353}]),
    )
    answer = explained(store, f"{CLUSTER_IP}:53/UDP", POD)
    checks = answer.pop("checks")
    assert answer == {
        "target": {"address": CLUSTER_IP, "port": 53, "protocol": "UDP"},
        "service": {"namespace": "default", "name": "web", "port": "dns", "protocol": "UDP"},
        "frontend": "ClusterIP",
        "action": "forward",
        "endpoints": ["10.180.0.10:5353", "10.180.0.1:5353"],
        "source": "client",
        "affinity_seconds": 10800,
        "reason": "Forwarded",
    }
    assert [check["check"] for check in checks] == [
        "Address",
        "Readiness",
        "TrafficPolicy",
        "Source",
    ]
    assert all(set(check) == {"check", "ok", "detail", "fix"} for check in checks)


def test_an_address_that_is_not_served_has_the_same_shape() -> None:
    answer = explained(make_store(), "9.9.9.9:99", POD)
    checks = answer.pop("checks")
    assert answer == {
        "target": {"address": "9.9.9.9", "port": 99, "protocol": "TCP"},
        "service": None,
        "frontend": None,
        "action": "none",
        "endpoints": [],
        "source": None,
        "affinity_seconds": None,
        "reason": "NotAService",
    }
    assert len(checks) == 1
    assert "9.9.9.9" in checks[0]["detail"]


@pytest.mark.parametrize(
    ("target", "client", "config", "expected"),
    [
        (VIP, POD, {}, "the endpoint sees the client's own address"),
        (VIP, LOCAL, {}, f"{LOCAL}:80 is the client itself and sees the node's address"),
        (VIP, NODE_IP, {}, f"the node's address: {NODE_IP} is this node"),
        (VIP, CLIENT, {}, f"the node's address: {CLIENT} is no pod"),
        (VIP, POD, {"masquerade_all": True}, "masqueradeAll is set"),
        (LB, CLIENT, {}, "externalTrafficPolicy is Cluster"),
    ],
)
def test_the_source_check_says_why(target: str, client: str, config: Json, expected: str) -> None:
    store = make_store(load_balancer(), make_slice(local(), remote()), config=with_config(**config))
    assert expected in explained(store, target, client)["checks"][-1]["detail"]


def test_the_source_check_tells_of_a_client_that_is_the_only_endpoint() -> None:
    store = make_store(make_service(), make_slice(local()))
    detail = explained(store, VIP, LOCAL)["checks"][-1]["detail"]
    assert detail.endswith("the client is the endpoint itself")


@pytest.mark.parametrize(
    ("target", "client", "name", "expected"),
    [
        (LB, POD, "TrafficPolicy", f"is Local, but {POD} is a pod: every endpoint counts"),
        (LB, NODE_IP, "TrafficPolicy", f"{NODE_IP} is this node: every endpoint counts"),
        (LB, CLIENT, "TrafficPolicy", "externalTrafficPolicy Local: 1 endpoint on node node-1"),
        (LB, CLIENT, "SourceRanges", f"{CLIENT} is let in by 203.0.113.0/25"),
        (LB, "", "SourceRanges", "only clients of 203.0.113.0/25"),
        (LB, BLOCKED_CLIENT, "SourceRanges", f"{BLOCKED_CLIENT} is not in spec.loadBalancer"),
        (VIP, POD, "Readiness", "2 of 3 endpoints are ready, 1 more serve while they terminate"),
    ],
)
def test_the_checks_tell_what_was_looked_at(
    target: str, client: str, name: str, expected: str
) -> None:
    store = make_store(
        load_balancer(
            externalTrafficPolicy="Local",
            loadBalancerSourceRanges=["203.0.113.0/25", "10.0.0.0/24", "192.168.0.0/24"],
        ),
        make_slice(local(), remote(), remote("10.180.0.3", **LEAVING)),
    )
    details = {c["check"]: c["detail"] for c in explained(store, target, client)["checks"]}
    assert expected in details[name]


def test_the_checks_tell_that_terminating_endpoints_stepped_in() -> None:
    store = make_store(make_service(), make_slice(local(**LEAVING)))
    details = {c["check"]: c["detail"] for c in explained(store, VIP, POD)["checks"]}
    assert details["Readiness"].endswith("with none ready, those are used")


def test_policy_local_on_an_unknown_node_asks_for_its_name() -> None:
    store = make_store(
        make_service(internalTrafficPolicy="Local"),
        make_slice(local()),
        config=with_config(node_name=""),
    )
    assert outcome(store, VIP) == "drop NoLocalEndpoint"
    assert "give --node" in explained(store, VIP)["checks"][-1]["detail"]


def test_every_reason_is_documented_and_no_other() -> None:
    text = (Path(__file__).parents[2] / "docs" / "explain.md").read_text(encoding="utf-8")
    documented = re.findall(r"^### `(\w+)`$", text, re.MULTILINE)
    assert sorted(documented) == sorted(REASONS)


@pytest.mark.parametrize(
    ("endpoint", "client", "source", "detail"),
    [
        pytest.param(
            make_endpoint(NODE_IP), POD, "node", "the endpoint is the node itself", id="hostNetwork"
        ),
        pytest.param(
            make_endpoint("10.9.9.9", node="node-2"),
            "10.8.8.8",
            "node",
            "the endpoint would reply past this node",
            id="from a pod elsewhere to a pod elsewhere",
        ),
        pytest.param(
            make_endpoint("10.9.9.9", node="node-2"),
            POD,
            "client",
            "the client's own address",
            id="from a pod here to a pod elsewhere",
        ),
    ],
)
def test_the_source_is_the_node_where_the_reply_would_not_come_back(
    endpoint: Json, client: str, source: str, detail: str
) -> None:
    node = make_node(pod_cidrs=["10.0.0.0/24"])
    answer = explained(make_store(make_service(), make_slice(endpoint), node), VIP, client)
    assert answer["source"] == source
    assert detail in answer["checks"][-1]["detail"]


def test_without_pod_cidrs_nobody_knows_where_a_pod_is_and_kube_proxys_rule_stands() -> None:
    far = make_slice(make_endpoint("10.9.9.9", node="node-2"))
    assert explained(make_store(make_service(), far), VIP, "10.8.8.8")["source"] == "client"


def test_endpoints_that_see_the_node_for_several_reasons_are_told_one_by_one() -> None:
    endpoints = make_slice(make_endpoint(NODE_IP), make_endpoint(LOCAL), make_endpoint("10.3.3.3"))
    detail = explained(make_store(make_service(), endpoints), VIP, LOCAL)["checks"][-1]["detail"]
    assert f"{LOCAL}:80 is the client itself" in detail
    assert f"{NODE_IP}:80 is the node itself" in detail
    assert "other endpoints see the client's" in detail


def test_endpoints_that_were_left_out_are_told_as_the_reason() -> None:
    store = make_store(make_service(), make_slice("169.254.169.254"))
    (check,) = [c for c in explained(store, VIP)["checks"] if not c["ok"]]
    assert "169.254.169.254 is no endpoint's, and left out" in check["detail"]
