"""Whose address the endpoint sees, and why it is not the client's: one case for each reason."""

import msgspec
import pytest

from pyproxy.core.nodeview import view
from pyproxy.core.source_address import SOURCE_REASONS, SourceReason, source_address
from pyproxy.model.addresses import Family, parse_cidr
from pyproxy.model.endpoint import Endpoint
from pyproxy.model.node import Node, NodeView
from pyproxy.model.service import ServicePortName
from pyproxy.model.table import Backend, Frontend, FrontendKind
from tests.support.builders import CONFIG

NODE_IP, NODE_IP_V6 = "192.168.7.1", "fd00:192::1"
POD, POD_V6 = "10.244.1.11", "fd00:244:1::11"
PODS_ELSEWHERE = "10.244.2.11"
OUTSIDE = "192.168.7.100"

NODE = NodeView(
    name="here",
    local_addresses=frozenset({NODE_IP, NODE_IP_V6, "127.0.0.1", "::1"}),
    pod_networks=(parse_cidr("10.244.0.0/16"), parse_cidr("fd00:244::/32")),
    pod_cidrs=(parse_cidr("10.244.1.0/24"), parse_cidr("fd00:244:1::/64")),
)
# No way to tell pods: then kube-proxy masquerades nobody who asks a ClusterIP (PARITY 8.2).
DETECTS_NOBODY = msgspec.structs.replace(NODE, pod_networks=())
BRIDGE = msgspec.structs.replace(NODE, is_bridge_opaque=True)

HERE = Endpoint("10.244.1.12", 80, is_local=True)
HERE_V6 = Endpoint("fd00:244:1::12", 80, is_local=True)
THERE = Endpoint("10.244.2.12", 80)
HOST_NETWORK = Endpoint(NODE_IP, 80, is_local=True)


def frontend(kind: FrontendKind = "ClusterIP", family: Family = "IPv4") -> Frontend:
    """A Service port with external traffic policy Local."""
    name = ServicePortName("default", "web", "main", "TCP")
    backend = Backend(name=name, family=family, external_local=True)
    return Frontend("10.96.0.10", 80, "TCP", kind, backend)


CLUSTER_IP, NODE_PORT = frontend(), frontend("NodePort")


@pytest.mark.parametrize(
    ("served", "client", "endpoint", "node", "reason"),
    [
        pytest.param(CLUSTER_IP, POD, HERE, NODE, "client_kept", id="pod to pod here"),
        pytest.param(CLUSTER_IP, POD, THERE, NODE, "client_kept", id="pod here to pod elsewhere"),
        pytest.param(
            CLUSTER_IP, PODS_ELSEWHERE, HERE, NODE, "client_kept", id="pod elsewhere to pod here"
        ),
        pytest.param(
            frontend(family="IPv6"), POD_V6, HERE_V6, NODE, "client_kept", id="pod to pod, IPv6"
        ),
        pytest.param(NODE_PORT, OUTSIDE, HERE, NODE, "client_kept", id="outside, policy Local"),
        pytest.param(CLUSTER_IP, "", HERE, NODE, "client_kept", id="nobody in particular"),
        pytest.param(CLUSTER_IP, OUTSIDE, HERE, NODE, "masqueraded", id="outside to ClusterIP"),
        pytest.param(NODE_PORT, NODE_IP, HERE, NODE, "masqueraded", id="node, policy Local"),
        pytest.param(
            CLUSTER_IP, HERE.address, HERE, NODE, "masqueraded", id="hairpin of a pod here"
        ),
        pytest.param(
            CLUSTER_IP, THERE.address, THERE, NODE, "client_is_endpoint", id="hairpin elsewhere"
        ),
        pytest.param(CLUSTER_IP, POD, HERE_V6, NODE, "families_differ", id="IPv4 to IPv6"),
        pytest.param(
            CLUSTER_IP, NODE_IP, HERE, DETECTS_NOBODY, "client_is_node", id="node to ClusterIP"
        ),
        pytest.param(
            CLUSTER_IP, "127.0.0.2", HERE, DETECTS_NOBODY, "client_is_node", id="loopback"
        ),
        pytest.param(
            CLUSTER_IP, POD, HOST_NETWORK, NODE, "endpoint_is_node", id="hostNetwork pod here"
        ),
        pytest.param(
            CLUSTER_IP,
            PODS_ELSEWHERE,
            THERE,
            NODE,
            "reply_passes_elsewhere",
            id="between other nodes, by this one",
        ),
        pytest.param(
            CLUSTER_IP, POD, HERE, BRIDGE, "endpoint_on_same_bridge", id="two pods on a bridge"
        ),
        pytest.param(
            CLUSTER_IP,
            POD,
            HERE,
            msgspec.structs.replace(BRIDGE, pod_cidrs=()),
            "endpoint_on_same_bridge",
            id="perhaps two pods on a bridge",
        ),
        pytest.param(CLUSTER_IP, POD, THERE, BRIDGE, "client_kept", id="off the bridge"),
        pytest.param(CLUSTER_IP, PODS_ELSEWHERE, HERE, BRIDGE, "client_kept", id="onto the bridge"),
    ],
)
def test_the_clients_address_is_kept_where_the_reply_comes_back(
    served: Frontend, client: str, endpoint: Endpoint, node: NodeView, reason: SourceReason
) -> None:
    chosen = source_address(served, client, endpoint, node)
    assert chosen.reason == reason
    assert chosen.source == ("client" if reason == "client_kept" else "node")
    assert reason in SOURCE_REASONS


def test_the_pods_of_this_node_are_known_from_its_pod_cidrs() -> None:
    cidrs = (parse_cidr("10.244.1.0/24"),)
    assert view(CONFIG, Node(name="here", pod_cidrs=cidrs), frozenset()).pod_cidrs == cidrs
    assert view(CONFIG, None, frozenset()).pod_cidrs == ()
