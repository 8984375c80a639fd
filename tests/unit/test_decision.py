"""What happens to a new connection, by who opens it: forwarded to whom and as whom, or not at all.

The scenarios are those that kube-proxy plays through its packet tracer, asked of `explain`, which
asks `decide`. Expectations follow nftables mode (PARITY sections 4, 5, 7, 8).
"""

from typing import Any

import pytest

from pyproxy.core.decision import decide, decision_for_all
from pyproxy.model.addresses import parse_cidr
from tests.support.builders import (
    BLOCKED_CLIENT,
    BOTH,
    CLIENT,
    CLIENT_V6,
    CLUSTER_IP_V6,
    CONFIG,
    EXTERNAL,
    EXTERNAL_IP,
    LB,
    LB_IP,
    LOCAL,
    NODE_IP,
    NODE_IP_ALT,
    NODE_PORT_TARGET,
    POD,
    POD_V6,
    REMOTE,
    VIP,
    explained,
    load_balancer,
    local,
    make_dual_stack_service,
    make_node,
    make_service,
    make_slice,
    make_store,
    make_table,
    outcome,
    remote,
    with_config,
)

DETECT_NONE = with_config(cluster_cidr=())


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        pytest.param(POD, f"forward {BOTH} as client", id="a pod is seen as itself"),
        pytest.param(NODE_IP, f"forward {BOTH} as node", id="the node is masqueraded"),
        pytest.param(CLIENT, f"forward {BOTH} as node", id="an outsider is masqueraded"),
        pytest.param(LOCAL, f"forward {BOTH} as node", id="a hairpin is masqueraded"),
        pytest.param(REMOTE, f"forward {BOTH} as client", id="an endpoint elsewhere is no hairpin"),
        pytest.param("", f"forward {BOTH} as client", id="an unknown client"),
    ],
)
def test_a_cluster_ip_leads_to_every_ready_endpoint(client: str, expected: str) -> None:
    store = make_store(make_service(), make_slice(local(), remote()))
    assert outcome(store, VIP, client) == expected


CLUSTER_POLICY = [
    pytest.param(VIP, POD, f"forward {BOTH} as client", id="pod to ClusterIP"),
    pytest.param(VIP, NODE_IP, f"forward {BOTH} as node", id="node to ClusterIP"),
    pytest.param(NODE_PORT_TARGET, CLIENT, f"forward {BOTH} as node", id="outside to node port"),
    pytest.param(NODE_PORT_TARGET, POD, f"forward {BOTH} as node", id="pod to node port"),
    pytest.param(NODE_PORT_TARGET, NODE_IP, f"forward {BOTH} as node", id="node to node port"),
    pytest.param(NODE_PORT_TARGET, LOCAL, f"forward {BOTH} as node", id="hairpin by node port"),
    pytest.param(LB, CLIENT, f"forward {BOTH} as node", id="outside to LB"),
    pytest.param(LB, POD, f"forward {BOTH} as node", id="pod to LB"),
    pytest.param(LB, NODE_IP, f"forward {BOTH} as node", id="node to LB"),
    pytest.param(EXTERNAL, CLIENT, f"forward {BOTH} as node", id="outside to externalIP"),
    pytest.param(EXTERNAL, POD, f"forward {BOTH} as node", id="pod to externalIP"),
]


@pytest.mark.parametrize(("target", "client", "expected"), CLUSTER_POLICY)
def test_with_external_policy_cluster_every_client_is_masqueraded(
    target: str, client: str, expected: str
) -> None:
    store = make_store(load_balancer(), make_slice(local(), remote()))
    assert outcome(store, target, client) == expected


@pytest.mark.parametrize("target", [NODE_PORT_TARGET, LB, EXTERNAL])
@pytest.mark.parametrize(
    ("client", "expected"),
    [
        pytest.param(CLIENT, f"forward {LOCAL}:80 as client", id="outside: local, source kept"),
        pytest.param(POD, f"forward {BOTH} as client", id="pod: all, source kept"),
        pytest.param(NODE_IP, f"forward {BOTH} as node", id="node: all, masqueraded"),
        pytest.param(NODE_IP_ALT, f"forward {BOTH} as node", id="node by its other address"),
        pytest.param("127.0.0.1", f"forward {BOTH} as node", id="node by loopback"),
        pytest.param("127.0.0.53", f"forward {BOTH} as node", id="all of 127.0.0.0/8 is local"),
        pytest.param(LOCAL, f"forward {BOTH} as node", id="hairpin"),
        pytest.param("", f"forward {LOCAL}:80 as client", id="an unknown client is an outsider"),
    ],
)
def test_external_policy_local_binds_outsiders_only(
    target: str, client: str, expected: str
) -> None:
    store = make_store(load_balancer(externalTrafficPolicy="Local"), make_slice(local(), remote()))
    assert outcome(store, target, client) == expected


def test_an_address_of_the_node_within_the_pod_network_counts_as_a_pod() -> None:
    """kube-proxy asks for a pod first: a bridge's own address is one to it."""
    store = make_store(
        load_balancer(externalTrafficPolicy="Local"),
        make_slice(local(), remote()),
        local_addresses=(NODE_IP, "10.0.0.1"),
    )
    assert outcome(store, LB, "10.0.0.1") == f"forward {BOTH} as client"
    assert outcome(store, VIP, "10.0.0.1") == f"forward {BOTH} as client"


@pytest.mark.parametrize("target", [NODE_PORT_TARGET, LB, EXTERNAL])
@pytest.mark.parametrize(
    ("client", "expected"),
    [
        (CLIENT, "drop NoLocalEndpoint"),
        (POD, f"forward {REMOTE}:80 as client"),
        (NODE_IP, f"forward {REMOTE}:80 as node"),
    ],
)
def test_external_policy_local_without_local_endpoints_drops_outsiders_only(
    target: str, client: str, expected: str
) -> None:
    store = make_store(load_balancer(externalTrafficPolicy="Local"), make_slice(remote()))
    assert outcome(store, target, client) == expected
    assert outcome(store, VIP, POD) == f"forward {REMOTE}:80 as client"


@pytest.mark.parametrize(
    ("target", "client", "expected"),
    [
        (VIP, POD, "client"),
        (VIP, NODE_IP, "client"),
        (VIP, CLIENT, "client"),
        (NODE_PORT_TARGET, POD, "node"),
        (NODE_PORT_TARGET, CLIENT, "node"),
        (LB, NODE_IP, "node"),
        (VIP, LOCAL, "node"),
    ],
)
def test_without_detect_local_nothing_to_a_cluster_ip_is_masqueraded_but_a_hairpin(
    target: str, client: str, expected: str
) -> None:
    store = make_store(load_balancer(), make_slice(local(), remote()), config=DETECT_NONE)
    assert outcome(store, target, client) == f"forward {BOTH} as {expected}"


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        pytest.param(POD, f"forward {LOCAL}:80 as client", id="a pod is an outsider like any"),
        pytest.param(CLIENT, f"forward {LOCAL}:80 as client", id="outside"),
        pytest.param(NODE_IP, f"forward {BOTH} as node", id="the node is known all the same"),
    ],
)
def test_without_detect_local_external_policy_local_binds_pods_too(
    client: str, expected: str
) -> None:
    store = make_store(
        load_balancer(externalTrafficPolicy="Local"),
        make_slice(local(), remote()),
        config=DETECT_NONE,
    )
    assert outcome(store, LB, client) == expected
    assert outcome(store, NODE_PORT_TARGET, client) == expected


@pytest.mark.parametrize("config", [CONFIG, DETECT_NONE])
@pytest.mark.parametrize("client", [POD, NODE_IP, CLIENT])
def test_masquerade_all_masquerades_everything_to_a_cluster_ip(config: object, client: str) -> None:
    cluster_cidr = getattr(config, "cluster_cidr", ())
    store = make_store(
        make_service(),
        make_slice(LOCAL),
        config=with_config(masquerade_all=True, cluster_cidr=cluster_cidr),
    )
    assert outcome(store, VIP, client) == f"forward {LOCAL}:80 as node"


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        (CLIENT, f"forward {LOCAL}:80 as client"),
        (POD, f"forward {BOTH} as client"),
        (NODE_IP, f"forward {BOTH} as node"),
    ],
)
def test_masquerade_all_does_not_touch_external_policy_local(client: str, expected: str) -> None:
    store = make_store(
        load_balancer(externalTrafficPolicy="Local"),
        make_slice(local(), remote()),
        config=with_config(masquerade_all=True),
    )
    assert outcome(store, LB, client) == expected


def test_in_mode_node_cidr_only_pods_of_this_node_are_pods() -> None:
    store = make_store(
        make_service(),
        make_slice(LOCAL),
        make_node(pod_cidrs=["10.0.0.0/24"]),
        config=with_config(detect_local_mode="NodeCIDR", cluster_cidr=()),
    )
    assert outcome(store, VIP, POD) == f"forward {LOCAL}:80 as client"
    assert outcome(store, VIP, "10.0.1.2") == f"forward {LOCAL}:80 as node"


@pytest.mark.parametrize(
    ("target", "client", "expected"),
    [
        (f"[{CLUSTER_IP_V6}]:80", CLIENT_V6, "client"),
        (f"[{CLUSTER_IP_V6}]:80", POD_V6, "client"),
        (VIP, CLIENT, "node"),
        (VIP, POD, "client"),
    ],
)
def test_a_cluster_cidr_of_one_family_detects_nothing_in_the_other(
    target: str, client: str, expected: str
) -> None:
    """PARITY 8.6: local detection is set up for each family; 8.2: without it nothing is SNATed."""
    store = make_store(
        make_dual_stack_service(),
        make_slice(LOCAL),
        make_slice("fd00:10:180::1", name="web-6", address_type="IPv6"),
        config=with_config(cluster_cidr=(parse_cidr("10.0.0.0/8"),)),
    )
    assert outcome(store, target, client).endswith(f" as {expected}")


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        (POD, f"forward {LOCAL}:80 as client"),
        (NODE_IP, f"forward {LOCAL}:80 as node"),
        (CLIENT, f"forward {LOCAL}:80 as node"),
        (LOCAL, f"forward {LOCAL}:80 as node"),
    ],
)
def test_internal_policy_local_binds_every_client(client: str, expected: str) -> None:
    store = make_store(make_service(internalTrafficPolicy="Local"), make_slice(local(), remote()))
    assert outcome(store, VIP, client) == expected


@pytest.mark.parametrize("client", [POD, NODE_IP, CLIENT])
def test_internal_policy_local_without_local_endpoints_drops(client: str) -> None:
    store = make_store(make_service(internalTrafficPolicy="Local"), make_slice(remote()))
    assert outcome(store, VIP, client) == "drop NoLocalEndpoint"


@pytest.mark.parametrize(
    ("internal", "external", "vip", "load_balancer_ip"),
    [
        ("Cluster", "Cluster", f"forward {REMOTE}:80 as client", f"forward {REMOTE}:80 as node"),
        ("Local", "Cluster", "drop NoLocalEndpoint", f"forward {REMOTE}:80 as node"),
        ("Cluster", "Local", f"forward {REMOTE}:80 as client", "drop NoLocalEndpoint"),
        ("Local", "Local", "drop NoLocalEndpoint", "drop NoLocalEndpoint"),
    ],
)
def test_the_two_policies_are_independent(
    internal: str, external: str, vip: str, load_balancer_ip: str
) -> None:
    store = make_store(
        load_balancer(internalTrafficPolicy=internal, externalTrafficPolicy=external),
        make_slice(remote()),
    )
    assert outcome(store, VIP, POD) == vip
    assert outcome(store, LB, CLIENT) == load_balancer_ip


def test_both_policies_local_still_let_pods_reach_every_endpoint_by_external_addresses() -> None:
    store = make_store(
        load_balancer(internalTrafficPolicy="Local", externalTrafficPolicy="Local"),
        make_slice(local(), remote()),
    )
    assert outcome(store, VIP, POD) == f"forward {LOCAL}:80 as client"
    assert outcome(store, LB, POD) == f"forward {BOTH} as client"


POLICIES = [("Cluster", "Cluster"), ("Local", "Local")]


@pytest.mark.parametrize("target", [VIP, NODE_PORT_TARGET, LB, EXTERNAL])
@pytest.mark.parametrize("client", [POD, NODE_IP, CLIENT])
@pytest.mark.parametrize(("internal", "external"), POLICIES)
def test_without_any_usable_endpoint_every_front_end_rejects_whatever_the_policy(
    target: str, client: str, internal: str, external: str
) -> None:
    store = make_store(
        load_balancer(internalTrafficPolicy=internal, externalTrafficPolicy=external),
        make_slice(),
    )
    assert outcome(store, target, client) == "reject NoEndpoint"


RANGES = ["203.0.113.0/25", "192.168.0.0/24"]


@pytest.mark.parametrize(
    ("target", "client", "expected"),
    [
        pytest.param(LB, CLIENT, f"forward {BOTH} as node", id="inside"),
        pytest.param(LB, BLOCKED_CLIENT, "drop SourceNotAllowed", id="outside"),
        pytest.param(LB, POD, "drop SourceNotAllowed", id="pods are blocked too"),
        pytest.param(LB, LOCAL, "drop SourceNotAllowed", id="a hairpin is blocked too"),
        pytest.param(LB, NODE_IP, f"forward {BOTH} as node", id="the node by its range"),
        pytest.param(LB, LB_IP, f"forward {BOTH} as node", id="LB IP, as the node's is allowed"),
        pytest.param(LB, "", f"forward {BOTH} as node", id="an unknown client"),
        pytest.param(NODE_PORT_TARGET, BLOCKED_CLIENT, f"forward {BOTH} as node", id="node port"),
        pytest.param(EXTERNAL, BLOCKED_CLIENT, f"forward {BOTH} as node", id="external IP"),
        pytest.param(VIP, BLOCKED_CLIENT, f"forward {BOTH} as node", id="ClusterIP"),
    ],
)
def test_source_ranges_bind_load_balancer_ips_only(target: str, client: str, expected: str) -> None:
    store = make_store(
        load_balancer(loadBalancerSourceRanges=RANGES), make_slice(local(), remote())
    )
    assert outcome(store, target, client) == expected


def test_the_load_balancer_ip_as_a_source_is_blocked_when_the_node_is() -> None:
    store = make_store(
        load_balancer(loadBalancerSourceRanges=RANGES[:1]), make_slice(local(), remote())
    )
    assert outcome(store, LB, LB_IP) == "drop SourceNotAllowed"
    assert outcome(store, LB, NODE_IP) == "drop SourceNotAllowed"


@pytest.mark.parametrize(
    ("client", "expected"), [(CLIENT, "reject NoEndpoint"), (POD, "drop SourceNotAllowed")]
)
def test_source_ranges_come_before_the_question_of_endpoints(client: str, expected: str) -> None:
    store = make_store(load_balancer(loadBalancerSourceRanges=RANGES), make_slice())
    assert outcome(store, LB, client) == expected


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        (CLIENT, "drop NoLocalEndpoint"),
        (BLOCKED_CLIENT, "drop SourceNotAllowed"),
        (NODE_IP, f"forward {REMOTE}:80 as node"),
    ],
)
def test_source_ranges_and_external_policy_local_together(client: str, expected: str) -> None:
    store = make_store(
        load_balancer(loadBalancerSourceRanges=RANGES, externalTrafficPolicy="Local"),
        make_slice(remote()),
    )
    assert outcome(store, LB, client) == expected


@pytest.mark.parametrize(
    "ranges",
    [
        pytest.param([], id="none"),
        pytest.param(["203.0.113.0/25", "0.0.0.0/0"], id="a /0 opens the family"),
        pytest.param(["rubbish", "203.0.113.2"], id="none can be read: by design all are allowed"),
        pytest.param(["2001:db8::/32"], id="none of this family: likewise"),
        pytest.param([" 203.0.113.0/24 "], id="trimmed, and it holds the client"),
    ],
)
def test_a_family_without_usable_ranges_allows_everybody(ranges: list[str]) -> None:
    store = make_store(load_balancer(loadBalancerSourceRanges=ranges), make_slice(LOCAL))
    assert outcome(store, LB, BLOCKED_CLIENT) == f"forward {LOCAL}:80 as node"


def test_an_address_that_is_external_and_load_balancer_ip_has_its_source_ranges() -> None:
    store = make_store(
        load_balancer(loadBalancerSourceRanges=RANGES)
        | {"status": {"loadBalancer": {"ingress": [{"ip": EXTERNAL_IP}]}}},
        make_slice(LOCAL),
    )
    assert outcome(store, EXTERNAL, BLOCKED_CLIENT) == "drop SourceNotAllowed"
    assert explained(store, EXTERNAL, CLIENT)["frontend"] == "LoadBalancer"


@pytest.mark.parametrize(
    ("spec", "depends_on_client"),
    [
        ({}, set()),
        ({"internalTrafficPolicy": "Local"}, set()),
        ({"loadBalancerSourceRanges": RANGES}, {"ExternalIP", "LoadBalancer", "NodePort"}),
        ({"externalTrafficPolicy": "Local"}, {"ExternalIP", "LoadBalancer", "NodePort"}),
    ],
)
@pytest.mark.parametrize("endpoints", [(local(), remote()), (remote(),), ()])
def test_what_is_decided_for_all_is_decided_for_each_client(
    spec: dict[str, Any], depends_on_client: set[str], endpoints: tuple[Any, ...]
) -> None:
    service = load_balancer(externalIPs=[EXTERNAL_IP], **spec)
    table = make_table(service, make_slice(*endpoints))
    for_all = {key: decision_for_all(frontend) for key, frontend in table.frontends.items()}
    assert {table.frontends[key].kind for key in for_all if not for_all[key]} == depends_on_client
    for key, decision in for_all.items():
        for client in (POD, NODE_IP, CLIENT, BLOCKED_CLIENT, REMOTE, LB_IP):
            assert decision in {None, decide(table.frontends[key], client, table.node)}
