"""Which address:port is served, in which family, and what the others meet (PARITY 1, 4, 5, 6)."""

import pytest

from pyproxy.config import NodePortAddresses
from tests.support.builders import (
    BLOCKED_CLIENT,
    BOTH,
    CLIENT,
    CLIENT_V6,
    CLUSTER_IP,
    CLUSTER_IP_V6,
    EXTERNAL,
    EXTERNAL_IP,
    FAILED,
    LB,
    LB_IP,
    LEAVING,
    LOCAL,
    NODE_IP,
    NODE_IP_ALT,
    NODE_IP_V6,
    NODE_PORT,
    NODE_PORT_TARGET,
    POD,
    POD_V6,
    REMOTE,
    UNREADY,
    VIP,
    Json,
    explained,
    load_balancer,
    local,
    make_dual_stack_service,
    make_endpoint,
    make_port,
    make_service,
    make_service_cidr,
    make_slice,
    make_store,
    make_table,
    node_ports,
    outcome,
    remote,
    with_config,
)


def test_the_backend_port_comes_from_the_slice_and_never_from_target_port() -> None:
    store = make_store(
        make_service(ports=[make_port(80, targetPort=9999)]),
        make_slice(LOCAL, ports=[{"name": "http", "protocol": "TCP", "port": 8080}]),
    )
    assert outcome(store, VIP, POD) == f"forward {LOCAL}:8080 as client"


@pytest.mark.parametrize(
    ("more", "cluster", "here"),
    [
        ({}, BOTH, ""),
        ({"internalTrafficPolicy": "Local"}, "", f"{LOCAL}:80"),
        ({"type": "NodePort", "externalTrafficPolicy": "Local"}, BOTH, ""),
        ({"externalIPs": [EXTERNAL_IP], "externalTrafficPolicy": "Local"}, BOTH, f"{LOCAL}:80"),
        ({"externalIPs": [EXTERNAL_IP], "internalTrafficPolicy": "Local"}, BOTH, f"{LOCAL}:80"),
        ({"lb_ips": [LB_IP], "internalTrafficPolicy": "Local"}, BOTH, f"{LOCAL}:80"),
        (
            {"ports": [make_port(node_port=NODE_PORT)], "internalTrafficPolicy": "Local"},
            BOTH,
            f"{LOCAL}:80",
        ),
    ],
)
def test_a_list_is_computed_only_where_its_policy_is_used(
    more: Json, cluster: str, here: str
) -> None:
    table = make_table(make_service(**more), make_slice(local(), remote()))
    backend = table.frontends[CLUSTER_IP, 80, "TCP"].backend
    assert ", ".join(map(str, backend.cluster)) == cluster
    assert ", ".join(map(str, backend.local)) == here


def test_a_backend_knows_every_serving_endpoint_usable_or_not() -> None:
    table = make_table(
        make_service(),
        make_slice(
            local(),
            remote(**LEAVING),
            remote("10.180.0.3", **UNREADY),
            remote("10.180.0.4", **FAILED),
        ),
    )
    assert table.frontends[CLUSTER_IP, 80, "TCP"].backend.serving == {
        (LOCAL, 80),
        (REMOTE, 80),
        ("10.180.0.3", 80),
    }


def test_tcp_and_udp_on_one_port_number_are_served_side_by_side() -> None:
    store = make_store(
        make_service(ports=[make_port(80, "web"), make_port(80, "voice", "UDP")]),
        make_slice(
            LOCAL,
            ports=[
                {"name": "web", "protocol": "TCP", "port": 8080},
                {"name": "voice", "protocol": "UDP", "port": 9090},
            ],
        ),
    )
    assert outcome(store, f"{VIP}/TCP", POD) == f"forward {LOCAL}:8080 as client"
    assert outcome(store, f"{VIP}/UDP", POD) == f"forward {LOCAL}:9090 as client"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (f"{CLUSTER_IP}:81", "reject UnknownPort"),
        (f"{CLUSTER_IP}:80/UDP", "reject ProtocolMismatch"),
        (f"{CLUSTER_IP}:80/SCTP", "reject ProtocolMismatch"),
    ],
)
def test_other_ports_of_a_cluster_ip_are_rejected(target: str, expected: str) -> None:
    store = make_store(make_service(), make_slice(LOCAL))
    assert outcome(store, target, POD) == expected


def test_a_port_of_a_cluster_ip_is_rejected_also_where_the_service_has_no_endpoints() -> None:
    store = make_store(make_service(), make_service_cidr("172.30.0.0/16"))
    assert outcome(store, f"{CLUSTER_IP}:81", POD) == "reject UnknownPort"
    assert outcome(store, VIP, POD) == "reject NoEndpointSlice"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("172.30.0.99:80", "drop UnallocatedAddress"),
        ("172.30.0.99:80/UDP", "drop UnallocatedAddress"),
        ("172.31.0.99:80", "none NotAService"),
        ("10.99.0.1:443", "drop UnallocatedAddress"),
        ("[fd00:172:30::99]:80", "drop UnallocatedAddress"),
        ("[fd00:172:31::99]:80", "none NotAService"),
    ],
)
def test_unallocated_addresses_of_every_service_cidr_are_dropped(
    target: str, expected: str
) -> None:
    store = make_store(
        make_service(),
        make_slice(LOCAL),
        make_service_cidr("172.30.0.0/16", "fd00:172:30::/64"),
        make_service_cidr("10.99.0.0/24", name="second"),
    )
    assert outcome(store, target, POD) == expected
    assert outcome(store, VIP, POD) == f"forward {LOCAL}:80 as client"


def test_without_service_cidrs_unallocated_addresses_are_left_alone() -> None:
    assert outcome(make_store(make_service()), "172.30.0.99:80", POD) == "none NotAService"


@pytest.mark.parametrize(
    ("service", "target"),
    [
        pytest.param({"externalIPs": ["172.30.0.77"]}, "172.30.0.77:81", id="externalIP"),
        pytest.param({"lb_ips": ["172.30.0.77"]}, "172.30.0.77:81", id="LB IP"),
        pytest.param(
            {"ingress": [{"ip": "172.30.0.77", "ipMode": "Proxy"}]}, "172.30.0.77:80", id="Proxy"
        ),
    ],
)
def test_an_address_of_a_service_cidr_that_is_no_cluster_ip_is_dropped_whoever_lists_it(
    service: Json, target: str
) -> None:
    store = make_store(
        make_service(**service),
        make_slice(LOCAL),
        make_service_cidr("172.30.0.0/16"),
    )
    assert outcome(store, target, CLIENT).startswith("drop ")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (f"{EXTERNAL_IP}:81", "none UnknownPort"),
        (f"{LB_IP}:81", "none UnknownPort"),
        (f"{LB_IP}:80/UDP", "none ProtocolMismatch"),
        (f"{EXTERNAL_IP}:{NODE_PORT}", "none UnknownPort"),
        (f"{NODE_IP}:80", "none NotAService"),
        (f"{NODE_IP}:{NODE_PORT + 1}", "none NotAService"),
        (f"{NODE_IP}:{NODE_PORT}/UDP", "none ProtocolMismatch"),
        (f"{CLIENT}:{NODE_PORT}", "none AddressNotServed"),
    ],
)
def test_other_ports_of_external_addresses_and_of_the_node_are_left_alone(
    target: str, expected: str
) -> None:
    store = make_store(load_balancer(), make_slice(LOCAL))
    assert outcome(store, target, CLIENT) == expected


def test_load_balancer_ips_of_mode_proxy_and_hostnames_are_not_captured() -> None:
    store = make_store(
        make_service(
            type="LoadBalancer",
            ingress=[
                {"ip": LB_IP, "ipMode": "Proxy"},
                {"hostname": "lb.example"},
                {"ip": "5.6.7.8", "ipMode": "VIP"},
                {"ip": "5.6.7.9"},
            ],
        ),
        make_slice(LOCAL),
    )
    assert outcome(store, LB, CLIENT) == "none NotCaptured"
    assert outcome(store, "5.6.7.8:80", CLIENT) == f"forward {LOCAL}:80 as node"
    assert outcome(store, "5.6.7.9:80", CLIENT) == f"forward {LOCAL}:80 as node"


def test_load_balancer_ips_and_node_ports_count_whatever_the_type_says() -> None:
    store = make_store(
        make_service(type="ClusterIP", lb_ips=[LB_IP], ports=[make_port(node_port=NODE_PORT)]),
        make_slice(LOCAL),
    )
    assert outcome(store, LB, CLIENT) == f"forward {LOCAL}:80 as node"
    assert outcome(store, NODE_PORT_TARGET, CLIENT) == f"forward {LOCAL}:80 as node"


@pytest.mark.parametrize(
    ("service_type", "external_ips", "expected"),
    [
        ("LoadBalancer", [], f"forward {LOCAL}:80 as client"),
        ("NodePort", [], f"forward {LOCAL}:80 as client"),
        ("ClusterIP", [EXTERNAL_IP], f"forward {LOCAL}:80 as client"),
        ("ClusterIP", [], f"forward {BOTH} as node"),
        ("", [EXTERNAL_IP], f"forward {BOTH} as node"),
        (None, [EXTERNAL_IP], f"forward {BOTH} as node"),
    ],
)
def test_external_policy_local_counts_by_type_only(
    service_type: str | None, external_ips: list[str], expected: str
) -> None:
    store = make_store(
        make_service(
            type=service_type,
            externalIPs=external_ips,
            ports=[make_port(node_port=NODE_PORT)],
            externalTrafficPolicy="Local",
        ),
        make_slice(local(), remote()),
    )
    assert outcome(store, NODE_PORT_TARGET, CLIENT) == expected


SERVED_V4 = {NODE_IP, NODE_IP_ALT, "127.0.0.1"}


SERVED_V6 = {NODE_IP_V6, "::1"}


@pytest.mark.parametrize(
    ("addresses", "served"),
    [
        pytest.param(node_ports(), SERVED_V4 | SERVED_V6, id="nothing set: all, loopback too"),
        pytest.param(node_ports(primary=True), {NODE_IP, NODE_IP_V6}, id="primary"),
        pytest.param(
            node_ports("192.168.0.0/24"), {NODE_IP} | SERVED_V6, id="the other family is free"
        ),
        pytest.param(
            node_ports("192.168.0.0/24", "::/0"), {NODE_IP} | SERVED_V6, id="a /0 in IPv6"
        ),
        pytest.param(
            node_ports("192.168.0.0/24", "0.0.0.0/0", "2001:db8::/64"),
            SERVED_V4 | {NODE_IP_V6},
            id="a /0 beside others",
        ),
        pytest.param(
            node_ports("192.168.0.0/24", "192.168.1.0/24", "::1/128"),
            {NODE_IP, NODE_IP_ALT, "::1"},
            id="several",
        ),
        pytest.param(node_ports("172.16.0.0/12"), SERVED_V6, id="no address of this range"),
        pytest.param(
            node_ports(primary=True, localhost=True),
            {NODE_IP, NODE_IP_V6, "127.0.0.1", "::1"},
            id="primary and localhost",
        ),
        pytest.param(
            node_ports("192.168.1.0/24", localhost=True),
            {NODE_IP_ALT, "127.0.0.1", "::1"},
            id="a range and localhost",
        ),
    ],
)
def test_node_ports_are_served_on_the_chosen_addresses_only(
    addresses: NodePortAddresses, served: set[str]
) -> None:
    store = make_store(
        make_dual_stack_service(type="NodePort", ports=[make_port(node_port=NODE_PORT)]),
        make_slice(LOCAL),
        make_slice("fd00:10:180::1", name="web-6", address_type="IPv6"),
        config=with_config(node_port_addresses=addresses),
    )
    for address in SERVED_V4 | SERVED_V6:
        host = f"[{address}]" if ":" in address else address
        found = outcome(store, f"{host}:{NODE_PORT}")
        expected = "forward" if address in served else "none AddressNotServed"
        assert found.startswith(expected), address


def test_node_ports_of_one_number_and_two_protocols_are_two() -> None:
    store = make_store(
        make_service("web", ports=[make_port(80, node_port=NODE_PORT)]),
        make_service("dns", cluster_ip="172.30.0.42", ports=[make_port(53, "d", "UDP", NODE_PORT)]),
        make_slice(LOCAL),
        make_slice(REMOTE, service="dns", ports=[{"name": "d", "protocol": "UDP", "port": 5353}]),
    )
    assert outcome(store, NODE_PORT_TARGET) == f"forward {LOCAL}:80 as node"
    assert outcome(store, f"{NODE_PORT_TARGET}/UDP") == f"forward {REMOTE}:5353 as node"


def test_a_dual_stack_service_has_its_own_endpoints_in_each_family() -> None:
    store = make_store(
        make_dual_stack_service(
            type="LoadBalancer",
            externalIPs=[EXTERNAL_IP, "2001:db8:99::1"],
            lb_ips=[LB_IP, "2001:db8:1::4"],
        ),
        make_slice(LOCAL),
        make_slice("fd00:10:180::1", name="web-6", address_type="IPv6"),
    )
    v6 = "forward [fd00:10:180::1]:80 as"
    assert outcome(store, VIP, POD) == f"forward {LOCAL}:80 as client"
    assert outcome(store, f"[{CLUSTER_IP_V6}]:80", POD_V6) == f"{v6} client"
    assert outcome(store, f"[{CLUSTER_IP_V6}]:80", NODE_IP_V6) == f"{v6} node"
    assert outcome(store, EXTERNAL, CLIENT) == f"forward {LOCAL}:80 as node"
    assert outcome(store, "[2001:db8:99::1]:80", CLIENT_V6) == f"{v6} node"
    assert outcome(store, LB, CLIENT) == f"forward {LOCAL}:80 as node"
    assert outcome(store, "[2001:db8:1::4]:80", CLIENT_V6) == f"{v6} node"


def test_external_addresses_of_a_family_without_cluster_ip_are_not_served() -> None:
    store = make_store(
        make_service(
            externalIPs=["2001:db8:99::1"],
            lb_ips=["2001:db8:1::4"],
            ports=[make_port(node_port=NODE_PORT)],
        ),
        make_slice("fd00:10:180::1", address_type="IPv6"),
    )
    for target in ("[2001:db8:99::1]:80", "[2001:db8:1::4]:80", f"[{NODE_IP_V6}]:{NODE_PORT}"):
        assert outcome(store, target) == "none AddressNotServed", target
    fix = explained(store, "[2001:db8:99::1]:80")["checks"][0]["fix"]
    assert fix == "give the Service a ClusterIP of IPv6 too (spec.ipFamilyPolicy)"


def test_an_external_address_of_one_family_does_not_open_policy_local_in_the_other() -> None:
    store = make_store(
        make_dual_stack_service(internalTrafficPolicy="Local", externalIPs=["2001:db8:99::1"]),
        make_slice(remote()),
        make_slice(
            make_endpoint("fd00:10:180::1", node="node-2"), name="web-6", address_type="IPv6"
        ),
    )
    assert outcome(store, VIP) == "drop NoLocalEndpoint"
    assert outcome(store, "[2001:db8:99::1]:80") == "forward [fd00:10:180::1]:80 as node"


def test_bad_ips_with_leading_zeros_are_the_addresses_they_mean() -> None:
    store = make_store(
        make_service(
            type="LoadBalancer",
            cluster_ip="172.30.0.041",
            externalIPs=["192.168.099.011"],
            lb_ips=["1.2.3.004"],
            loadBalancerSourceRanges=["203.0.113.000/025"],
            ports=[make_port(node_port=NODE_PORT)],
        ),
        make_slice("10.180.00.001"),
    )
    assert outcome(store, VIP, POD) == f"forward {LOCAL}:80 as client"
    assert outcome(store, "172.30.0.041:80", POD) == f"forward {LOCAL}:80 as client"
    assert outcome(store, EXTERNAL, CLIENT) == f"forward {LOCAL}:80 as node"
    assert outcome(store, LB, CLIENT) == f"forward {LOCAL}:80 as node"
    assert outcome(store, LB, BLOCKED_CLIENT) == "drop SourceNotAllowed"
    assert outcome(store, NODE_PORT_TARGET, CLIENT) == f"forward {LOCAL}:80 as node"
