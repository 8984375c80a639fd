"""API objects are read as leniently as kube-proxy reads them; a bad one is refused by name."""

import contextlib
import copy
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyproxy.core.decode import convert, decode
from pyproxy.errors import DecodeError
from pyproxy.model.addresses import parse_cidr
from pyproxy.model.endpoint import SliceEndpoint, SlicePort
from pyproxy.model.events import RESOURCES, Resource, ServiceCidr, key_of
from pyproxy.model.node import Node
from pyproxy.model.service import Service, ServicePort
from tests.support.builders import (
    EXTERNAL_IP,
    LB_IP,
    Json,
    decoded,
    endpoint_slice,
    load_balancer,
    make_dual_stack_service,
    make_endpoint,
    make_node,
    make_port,
    make_service,
    make_service_cidr,
    make_slice,
    resource_of,
    service,
)

# --- Service -----------------------------------------------------------------------------------


def test_json_and_plain_data_give_the_same_value() -> None:
    for data in (load_balancer(), make_slice("10.180.0.1"), make_node(), make_service_cidr("::/8")):
        resource = resource_of(data)
        raw = json.dumps(data).encode()
        assert decode(resource, raw) == decode(resource, msgspec.Raw(raw)) == decoded(data)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param({"cluster_ip": "10.96.0.1"}, {"IPv4": "10.96.0.1"}, id="clusterIP alone"),
        pytest.param({"cluster_ip": "fd00::1"}, {"IPv6": "fd00::1"}, id="its family"),
        pytest.param({"cluster_ip": ""}, {}, id="empty"),
        pytest.param({"cluster_ip": "None"}, {}, id="None"),
        pytest.param({"cluster_ip": "10.96.0.256"}, {}, id="no address"),
        pytest.param(
            {
                "cluster_ip": "10.96.0.1",
                "clusterIPs": ["10.96.0.1", "fd00::1"],
                "ipFamilies": ["IPv4", "IPv6"],
            },
            {"IPv4": "10.96.0.1", "IPv6": "fd00::1"},
            id="dual stack",
        ),
        pytest.param(
            {
                "cluster_ip": "fd00::1",
                "clusterIPs": ["fd00::1", "10.96.0.1"],
                "ipFamilies": ["IPv6", "IPv4"],
            },
            {"IPv4": "10.96.0.1", "IPv6": "fd00::1"},
            id="dual stack, IPv6 first",
        ),
        pytest.param(
            {"cluster_ip": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"]},
            {"IPv4": "10.96.0.1"},
            id="without ipFamilies only clusterIP counts",
        ),
        pytest.param(
            {"cluster_ip": "10.96.0.1", "ipFamilies": ["IPv4"]}, {}, id="missing in clusterIPs"
        ),
        pytest.param(
            {
                "cluster_ip": "10.96.0.1",
                "clusterIPs": ["10.96.0.1"],
                "ipFamilies": ["IPv4", "IPv6"],
            },
            {"IPv4": "10.96.0.1"},
            id="one of two is missing",
        ),
        pytest.param(
            {
                "cluster_ip": "10.96.0.1",
                "clusterIPs": ["10.96.0.1", "fd00::1"],
                "ipFamilies": ["IPv4"],
            },
            {"IPv4": "10.96.0.1"},
            id="one too many",
        ),
        pytest.param(
            {"cluster_ip": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ipFamilies": ["IPv6"]},
            {},
            id="of another family than ipFamilies says",
        ),
    ],
)
def test_each_family_has_the_cluster_ip_that_ip_families_says(
    spec: Json, expected: dict[str, str]
) -> None:
    assert service(**spec).cluster_ips == expected


def test_a_duplicate_port_key_overwrites_and_protocols_differ() -> None:
    found = service(
        ports=[
            make_port(80, "a"),
            make_port(81, "a", "UDP"),
            make_port(82, "a", "SCTP"),
            make_port(90, "a", "TCP", 30090),
            {"port": 99},
        ]
    ).ports
    assert found == (
        ServicePort("a", "TCP", 90, 30090),
        ServicePort("a", "UDP", 81),
        ServicePort("a", "SCTP", 82),
        ServicePort("", "TCP", 99),
    )


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"ports": [{"port": 0}]}, "spec.ports: port 0 is not within 1 to 65535"),
        ({"ports": [{"port": 65536}]}, "spec.ports: port 65536 is not within 1 to 65535"),
        (
            {"ports": [{"port": 1, "nodePort": 65536}]},
            "spec.ports: nodePort 65536 is not within 1 to 65535",
        ),
        ({"ports": [{"port": 1, "nodePort": -1}]}, "spec.ports: nodePort -1 is not within"),
        ({"ports": [{"port": 1, "protocol": "tcp"}]}, "spec.ports: protocol 'tcp' is not TCP"),
        ({"externalIPs": ["1.2.3", " "]}, "spec.externalIPs: '1.2.3' is not an IP address"),
        ({"lb_ips": ["x"]}, "status.loadBalancer.ingress: 'x' is not an IP address"),
        ({"cluster_ip": "10.96.0.256"}, "spec.clusterIPs: '10.96.0.256' is not an IP address"),
        (
            {"cluster_ip": "::1", "clusterIPs": ["::1"], "ipFamilies": ["IPv4"]},
            "spec.clusterIPs: '::1' is not of the family IPv4",
        ),
        (
            {"loadBalancerSourceRanges": ["10.0.0.0/8", "10.0.0.0"]},
            "spec.loadBalancerSourceRanges: '10.0.0.0' is not a CIDR",
        ),
        (
            {"loadBalancerSourceRanges": ["10.0.0.0"]},
            "spec.loadBalancerSourceRanges: no usable range is left: ALL are allowed",
        ),
        (
            {
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}},
            },
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: 86401 is not within 1 to 86400",
        ),
    ],
)
def test_a_fault_in_one_element_costs_that_element_and_is_told(spec: Json, problem: str) -> None:
    found = service(**spec)
    assert any(text.startswith(problem) for text in found.problems), found.problems
    assert found.name == "web"


def test_a_service_without_faults_has_no_problems() -> None:
    assert decoded(load_balancer(loadBalancerSourceRanges=["", " 10.0.0.0/8"])).problems == ()  # type: ignore[union-attr]


def test_external_addresses_are_canonical_and_told_apart_once() -> None:
    found = service(externalIPs=["192.168.099.011", "", " ", "192.168.99.11 ", "FD00::1"])
    assert found.external_ips == ("192.168.99.11", "fd00::1")
    assert found.problems == ()


def test_only_ingress_ips_of_mode_vip_are_captured() -> None:
    found = service(
        ingress=[
            {"ip": "1.0.0.1"},
            {"ip": "1.0.0.2", "ipMode": None},
            {"ip": "1.0.0.3", "ipMode": "VIP", "ports": [{"port": 1, "protocol": "UDP"}]},
            {"ip": "1.0.0.4", "ipMode": "Proxy"},
            {"hostname": "a.example"},
            {"ip": "1.0.0.5", "ipMode": "Other"},
        ]
    )
    assert found.load_balancer_ips == ("1.0.0.1", "1.0.0.2", "1.0.0.3")
    assert found.uncaptured_ips == ("1.0.0.4",)


def test_a_service_without_status_has_no_load_balancer_ips() -> None:
    for status in (None, {}, {"loadBalancer": None}, {"loadBalancer": {"ingress": None}}):
        found = decoded(make_service() | {"status": status})
        assert isinstance(found, Service)
        assert found.load_balancer_ips == ()


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["10.0.0.0/8", " fd00::/8 "], ["10.0.0.0/8", "fd00::/8"]),
        (["10.0.0.0/8", "0.0.0.0/0", "fd00::/8"], ["fd00::/8"]),
        (["10.0.0.0/8", "::/0"], ["10.0.0.0/8"]),
        (["10.0.0.1/8", "10.0.0.0/8"], ["10.0.0.0/8"]),
        (["", " "], []),
    ],
)
def test_a_source_range_of_length_0_opens_its_family(texts: list[str], expected: list[str]) -> None:
    found = service(loadBalancerSourceRanges=texts).source_ranges
    assert found == tuple(map(parse_cidr, expected))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, None),
        ({"sessionAffinity": "None"}, None),
        (
            {"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}},
            None,
        ),
        ({"sessionAffinity": "ClientIP"}, 10800),
        ({"sessionAffinity": "ClientIP", "sessionAffinityConfig": None}, 10800),
        ({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": None}}, 10800),
        ({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {}}}, 10800),
        (
            {
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}},
            },
            5,
        ),
        (
            {
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}},
            },
            10800,
        ),
    ],
)
def test_session_affinity_has_the_api_default_of_three_hours(
    spec: Json, expected: int | None
) -> None:
    assert service(**spec).affinity_seconds == expected


def test_a_missing_policy_is_cluster_and_a_missing_namespace_default() -> None:
    found = decoded(make_service() | {"metadata": {"name": "a"}})
    assert isinstance(found, Service)
    assert (found.internal_local, found.external_local) == (False, False)
    assert key_of(found) == ("default", "a")


def test_only_annotations_of_our_own_are_kept() -> None:
    data = make_service()
    data["metadata"]["annotations"] = {"pyproxy.io/x": "1", "example.com/y": "2"}
    found = decoded(data)
    assert isinstance(found, Service)
    assert found.annotations == {"pyproxy.io/x": "1"}


def test_fields_that_a_proxy_must_not_read_change_nothing() -> None:
    """PARITY 1.11: any of them may hold anything."""
    traps = {
        "selector": {"a": "b"},
        "publishNotReadyAddresses": True,
        "trafficDistribution": "PreferClose",
        "allocateLoadBalancerNodePorts": False,
        "loadBalancerClass": "x",
        "loadBalancerIP": "9.9.9.9",
    }
    assert service(ports=[make_port(targetPort="http", appProtocol="h2c")], **traps) == service()


# --- EndpointSlice -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (None, (True, True, False)),
        ({}, (True, True, False)),
        ({"ready": None, "serving": None, "terminating": None}, (True, True, False)),
        ({"ready": False}, (False, True, False)),
        ({"ready": False, "serving": False, "terminating": True}, (False, False, True)),
        ({"serving": False}, (True, False, False)),
    ],
)
def test_missing_conditions_are_ready_serving_and_not_terminating(
    conditions: Json | None, expected: tuple[bool, bool, bool]
) -> None:
    endpoint = endpoint_slice({"addresses": ["10.0.0.1"], "conditions": conditions}).endpoints[0]
    assert (endpoint.ready, endpoint.serving, endpoint.terminating) == expected


def test_only_the_first_address_counts_and_bad_ones_cost_themselves_only() -> None:
    found = endpoint_slice(
        {"addresses": ["010.0.0.1", "10.0.0.2"]},
        {"addresses": []},
        {},
        {"addresses": ["x"]},
        {"addresses": ["fd00::1"]},
        {"addresses": ["10.0.0.3"]},
    )
    assert [endpoint.address for endpoint in found.endpoints] == ["10.0.0.1", "10.0.0.3"]
    assert found.problems == (
        "endpoints.addresses: 'x' is not an IP address",
        "endpoints.addresses: 'fd00::1' is not IPv4",
    )


@pytest.mark.parametrize("address", ["0.0.0.0", "169.254.169.254", "224.0.0.1", "255.255.255.255"])
def test_an_address_that_no_endpoint_can_have_is_left_out(address: str) -> None:
    found = endpoint_slice(address, "10.0.0.3")
    assert [endpoint.address for endpoint in found.endpoints] == ["10.0.0.3"]
    assert found.problems == (f"endpoints.addresses: {address} is no endpoint's, and left out",)


def test_an_address_that_means_every_address_is_no_external_address() -> None:
    found = decoded(load_balancer(lb_ips=["0.0.0.0", LB_IP], externalIPs=["::", EXTERNAL_IP]))
    assert isinstance(found, Service)
    assert found.load_balancer_ips == (LB_IP,)
    assert found.external_ips == (EXTERNAL_IP,)
    assert len(found.problems) == 2


def test_slice_ports_need_a_name_and_a_number() -> None:
    found = endpoint_slice(
        ports=[
            {"name": "", "port": 80},
            {"name": None, "port": 81},
            {"port": 82},
            {"name": "all", "port": None},
            {"name": "zero", "port": 0},
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "nil", "port": 54, "protocol": None},
            {"name": "bad", "port": 55, "protocol": "QUIC"},
            {"name": "big", "port": 65536},
        ]
    )
    assert found.ports == (
        SlicePort("", "TCP", 80),
        SlicePort("dns", "UDP", 53),
        SlicePort("nil", "TCP", 54),
    )
    assert found.problems == (
        "ports: protocol 'QUIC' is not TCP, UDP or SCTP",
        "ports: port 65536 is not within 1 to 65535",
    )


def test_hints_node_and_pod_are_read() -> None:
    found = endpoint_slice(
        make_endpoint(
            "10.0.0.1",
            zones=("a", "b"),
            nodes=("n",),
            zone="not read",
            targetRef={"kind": "Pod", "name": "web-0"},
        ),
        {"addresses": ["10.0.0.2"], "hints": {"forZones": None}, "targetRef": {"kind": "VM"}},
    )
    assert found.endpoints == (
        SliceEndpoint("10.0.0.1", True, True, False, "node-1", ("a", "b"), ("n",), "web-0"),
        SliceEndpoint("10.0.0.2"),
    )


def test_a_slice_of_names_has_no_endpoints() -> None:
    found = endpoint_slice({"addresses": ["a.example"]}, address_type="FQDN")
    assert found.endpoints == ()
    assert found.problems == ()


def test_labels_and_annotations_of_a_slice() -> None:
    found = endpoint_slice(
        service=None,
        name="x",
        labels={
            "service.kubernetes.io/headless": "",
            "endpointslice.kubernetes.io/managed-by": "me",
        },
        annotations={"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z"},
    )
    assert (found.service_name, found.headless) == ("", True)
    assert found.last_change == "2026-01-01T00:00:00Z"


# --- Node and ServiceCIDR ----------------------------------------------------------------------


def test_a_node_has_its_internal_addresses_before_its_external_ones() -> None:
    data = make_node(pod_cidrs=["10.1.0.0/24", "x", "fd00::/64"])
    data["status"]["addresses"] = [
        {"type": "ExternalIP", "address": "203.0.113.9"},
        {"type": "Hostname", "address": "node-1"},
        {"type": "InternalIP", "address": "192.168.0.2"},
        {"type": "InternalIP", "address": "bad"},
        {"type": "InternalIP", "address": "FD00::2"},
    ]
    found = decoded(data)
    assert isinstance(found, Node)
    assert found.addresses == ("192.168.0.2", "fd00::2", "203.0.113.9")
    assert found.pod_cidrs == (parse_cidr("10.1.0.0/24"), parse_cidr("fd00::/64"))
    assert found.zone == "zone-a"


def test_a_node_with_nothing_in_it_is_a_node() -> None:
    found = decoded({"kind": "Node", "metadata": {"name": "n"}})
    assert found == Node(name="n")
    data = {"kind": "Node", "metadata": {"name": "n"}, "spec": {"podCIDR": "10.1.0.0/24"}}
    assert decoded(data) == Node(name="n", pod_cidrs=(parse_cidr("10.1.0.0/24"),))


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, True),
        ({"taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "x"}]}, True),
        ({"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "x"}]}, False),
        ({"deletionTimestamp": "2026-01-01T00:00:00Z"}, False),
    ],
)
def test_a_node_on_its_way_out_is_not_eligible(more: Json, expected: bool) -> None:
    found = decoded(make_node(**more))
    assert isinstance(found, Node)
    assert found.is_eligible is expected


def test_service_cidrs_are_read() -> None:
    found = decoded(make_service_cidr("10.96.0.0/12", "fd00::/108", "x"))
    assert found == ServiceCidr(
        "kubernetes", (parse_cidr("10.96.0.0/12"), parse_cidr("fd00::/108"))
    )
    assert key_of(found) == ("", "kubernetes")
    assert decoded({"kind": "ServiceCIDR", "metadata": {"name": "x"}}) == ServiceCidr("x", ())


# --- what is no such object --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"", "(unknown name)"),
        (b"{", "(unknown name)"),
        (b"\xff", "(unknown name)"),
        (b'{"metadata": {"name": "\xff"}}', "(unknown name)"),
        (b'{"metadata": {"name": "\\ud800"}}', "(unknown name)"),
        (b"[" * 100_000, "(unknown name)"),
        (b"[]", "(unknown name)"),
        (b"{}", "(unknown name)"),
        (b'{"metadata": 1}', "(unknown name)"),
        (b'{"metadata": {"name": 1}}', "1"),
        (b'{"metadata": {"name": "a", "namespace": "n"}, "spec": 1}', "n/a"),
        (b'{"metadata": {"name": "a"}, "spec": {"ports": [{}]}}', "a"),
    ],
)
def test_a_bad_service_is_refused_with_its_name(data: bytes, name: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode("services", data)
    assert str(caught.value).startswith(f"services: object {name} cannot be read and is left out: ")


def test_the_message_names_the_field() -> None:
    data = make_service(ports=[make_port(), {"port": "http"}])
    with pytest.raises(DecodeError, match=r"default/web .*`\$\.spec\.ports\[1\]\.port`"):
        convert("services", data)


def test_plain_data_that_holds_itself_is_refused_or_read() -> None:
    data = make_service()
    data["metadata"]["labels"] = data["metadata"]
    with pytest.raises(DecodeError):
        convert("services", data)


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_JSON = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["metadata", "spec", "name", "ports", "labels"]) | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def _refused_or_read(resource: Resource, data: Any) -> None:
    with contextlib.suppress(DecodeError):
        key_of(convert(resource, data))
    with contextlib.suppress(DecodeError):
        key_of(decode(resource, json.dumps(data).encode()))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(RESOURCES), _JSON)
def test_any_data_is_read_or_refused_with_a_decode_error(resource: Resource, data: Any) -> None:
    _refused_or_read(resource, data)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(RESOURCES), st.binary(max_size=40))
def test_any_bytes_are_read_or_refused_with_a_decode_error(resource: Resource, data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        decode(resource, data)


_VALID = [
    load_balancer(loadBalancerSourceRanges=["10.0.0.0/8"], sessionAffinity="ClientIP"),
    make_dual_stack_service(
        sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 5}}
    ),
    make_slice(make_endpoint(zones=("a",), nodes=("b",), targetRef={"kind": "Pod", "name": "x"})),
    make_node(pod_cidrs=["10.0.0.0/24"], taints=[{"key": "x"}]),
    make_service_cidr("10.96.0.0/12"),
]


def _paths(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = data.items() if isinstance(data, dict) else enumerate(data)
    found = []
    for key, value in items:
        found.append((*path, key))
        if isinstance(value, dict | list):
            found += _paths(value, (*path, key))
    return found


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_valid_object_with_any_field_replaced_is_read_or_refused(data: st.DataObject) -> None:
    mutated = copy.deepcopy(data.draw(st.sampled_from(_VALID)))
    resource = resource_of(mutated)
    *parents, last = data.draw(st.sampled_from(_paths(mutated)))
    holder: Any = mutated
    for key in parents:
        holder = holder[key]
    holder[last] = data.draw(_JSON | st.sampled_from([-1, 0, 65536, 2**70, "None", "", "::", "/"]))
    _refused_or_read(resource, mutated)
