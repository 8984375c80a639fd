"""This node: what the API says of it, and what the proxy makes of that and of its settings."""

import msgspec

from pyproxy.model.addresses import Cidr, Family

ZONE_LABEL = "topology.kubernetes.io/zone"
AUTOSCALER_TAINT = "ToBeDeletedByClusterAutoscaler"


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A Node object.

    addresses: its InternalIPs, then its ExternalIPs, in the API's order (PARITY 9.5).
    is_eligible: whether load balancers should send it new traffic (12.14).
    """

    name: str
    zone: str = ""
    addresses: tuple[str, ...] = ()
    pod_cidrs: tuple[Cidr, ...] = ()
    is_eligible: bool = True
    uid: str = ""


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """What the decisions need to know of the node that they are made on.

    primary: the node's first address of each family.
    local_addresses: every address on an interface of the node, loopback included.
    node_port_addresses: those of them that serve node ports (section 6).
    pod_networks: what counts as a pod's address (detectLocalMode, 8.6); empty when it is not known.
    pod_cidrs: where the addresses of this node's own pods are from, as the Node object says.
    is_bridge_opaque: what its pods say to each other may pass below the IP layer (on a bridge), and
        so by the proxy.
    masquerade_all: every connection to a ClusterIP gets the node's address as its source.
    """

    name: str = ""
    zone: str = ""
    primary: dict[Family, str] = {}
    local_addresses: frozenset[str] = frozenset()
    node_port_addresses: tuple[str, ...] = ()
    pod_networks: tuple[Cidr, ...] = ()
    pod_cidrs: tuple[Cidr, ...] = ()
    is_bridge_opaque: bool = False
    masquerade_all: bool = False
