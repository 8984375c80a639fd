"""What happens to a new connection: forwarded to which endpoints, rejected or dropped; as whom.

The one place for these rules: the forwarder asks it for every connection and `explain` for every
question. kube-proxy v1.36 spreads them over the chains of nftables/proxier.go; where its backends
differ, the nftables one is followed.
"""

from typing import Literal

import msgspec

from pyproxy.model.addresses import Family, is_loopback
from pyproxy.model.endpoint import Endpoint
from pyproxy.model.node import NodeView
from pyproxy.model.table import Action, Frontend

Source = Literal["client", "node"]

DecisionReason = Literal[
    "Forwarded",
    "NoReadyEndpoint",  # 5.1: nothing usable anywhere
    "NoLocalEndpoint",  # 5.2, 5.3: usable endpoints exist, the policy is Local, and none is here
    "SourceNotAllowed",  # 7.2: outside loadBalancerSourceRanges
]


class Decision(msgspec.Struct, frozen=True):
    """The verdict on a new connection; `endpoints` is empty unless it is forwarded."""

    action: Action
    reason: DecisionReason
    endpoints: tuple[Endpoint, ...] = ()


_ANY_NODE = NodeView()
_NO_READY_ENDPOINT = Decision("reject", "NoReadyEndpoint")
_NO_LOCAL_ENDPOINT = Decision("drop", "NoLocalEndpoint")
_SOURCE_NOT_ALLOWED = Decision("drop", "SourceNotAllowed")


def decide(frontend: Frontend, client: str, node: NodeView) -> Decision:
    """Return what happens to a new connection from `client`, a canonical address ("" when unknown).

    The source ranges come first: a client outside them learns nothing of the endpoints (7.8).
    """
    backend = frontend.backend
    if frontend.kind == "LoadBalancer" and not is_allowed(frontend, client, node):
        return _SOURCE_NOT_ALLOWED
    if not backend.has_any:
        return _NO_READY_ENDPOINT
    endpoints = backend.local if uses_local(frontend, client, node) else backend.cluster
    if not endpoints:
        return _NO_LOCAL_ENDPOINT
    return Decision("forward", "Forwarded", endpoints)


def decision_for_all(frontend: Frontend) -> Decision | None:
    """Return what happens to every new connection; None where it depends on client and node."""
    backend = frontend.backend
    if frontend.kind != "ClusterIP" and (backend.source_ranges or backend.external_local):
        return None
    return decide(frontend, "", _ANY_NODE)


def uses_local(frontend: Frontend, client: str, node: NodeView) -> bool:
    """Whether only endpoints on this node may serve this client.

    Internal policy Local binds everyone (4.12). External policy Local does not bind pods and the
    node itself: they could reach every endpoint without the Service too (4.9, 4.10).
    """
    if frontend.kind == "ClusterIP":
        return frontend.backend.internal_local
    if not frontend.backend.external_local:
        return False
    return not (is_pod(client, node) or is_node(client, node))


def is_pod(client: str, node: NodeView) -> bool:
    """Whether the address counts as a pod's under detectLocalMode (8.6); False when not known."""
    return bool(client) and any(client in network for network in node.pod_networks)


def is_node(client: str, node: NodeView) -> bool:
    """Whether the address is the node's own (4.11); all of 127.0.0.0/8 is."""
    return client in node.local_addresses or is_loopback(client)


def is_allowed(frontend: Frontend, client: str, node: NodeView) -> bool:
    """Whether loadBalancerSourceRanges let the client in (section 7); an unknown one is let in.

    No ranges of this family allow everyone (7.5, 7.6). A range that holds the node's own address
    also lets in the Service's load-balancer IPs: the node's traffic may carry them (7.3).
    """
    backend = frontend.backend
    if not backend.source_ranges or not client:
        return True
    if any(client in network for network in backend.source_ranges):
        return True
    primary = node.primary.get(backend.family)
    return (
        client in backend.load_balancer_ips
        and primary is not None
        and any(primary in network for network in backend.source_ranges)
    )


def source_of(frontend: Frontend, client: str, endpoint: Endpoint, node: NodeView) -> Source:
    """Return whose address the endpoint sees as the source of the connection (section 8).

    "node" is what kube-proxy reaches by masquerading. Whether a reply to the client's own address
    can come back through this node is another question, and not asked here.
    """
    if endpoint.is_local and endpoint.address == client:
        return "node"  # hairpin: the pod would answer itself directly (8.5)
    if frontend.kind == "ClusterIP":
        is_outsider = _detects_pods(node, frontend.backend.family) and not is_pod(client, node)
        return "node" if node.masquerade_all or (client and is_outsider) else "client"
    if not frontend.backend.external_local:
        return "node"  # 8.3: the endpoint may be elsewhere, and the reply must pass here
    if is_pod(client, node):
        return "client"
    return "node" if is_node(client, node) else "client"  # 8.4


def _detects_pods(node: NodeView, family: Family) -> bool:
    """Whether pods are told from others in a family: each has its own detection (8.2, 8.6)."""
    return any(network.family == family for network in node.pod_networks)
