"""Whose address the endpoint sees: kube-proxy's rule, as far as the reply can come back.

pyproxy keeps a client's address by binding its own socket to it. Then the endpoint's reply is
addressed to the client, and is caught on its way through this node. So what kube-proxy's rule
(PARITY section 8) gives to the client gets the node's address where the reply takes another way.
"""

from typing import Literal, get_args

import msgspec

from pyproxy.core.decision import Source, is_node, source_of
from pyproxy.model.addresses import family_of
from pyproxy.model.endpoint import Endpoint
from pyproxy.model.node import NodeView
from pyproxy.model.table import Frontend

SourceReason = Literal[
    "client_kept",
    "masqueraded",  # section 8: kube-proxy shows the node's address too
    "client_is_endpoint",  # the endpoint would answer itself
    "client_is_node",  # its address is the node's already
    "endpoint_is_node",  # its reply goes straight to the client, through no hook for routed packets
    "endpoint_on_same_bridge",  # its reply would cross the bridge below the IP layer
    "reply_passes_elsewhere",  # neither client nor endpoint is on this node
    "families_differ",  # the client's address means nothing to the endpoint
    "ports_used_up",  # all source ports towards the endpoint are in use for this client
    "not_possible",  # the kernel does not let pyproxy use the client's address
]
SOURCE_REASONS: tuple[SourceReason, ...] = get_args(SourceReason)


class SourceAddress(msgspec.Struct, frozen=True):
    """Whose address is used, and why. "client" goes with "client_kept" alone."""

    source: Source
    reason: SourceReason


KEPT = SourceAddress("client", "client_kept")
_NODE: dict[SourceReason, SourceAddress] = {
    reason: SourceAddress("node", reason) for reason in SOURCE_REASONS if reason != "client_kept"
}


def source_address(
    frontend: Frontend, client: str, endpoint: Endpoint, node: NodeView
) -> SourceAddress:
    """Return whose address a connection to the endpoint has.

    client: a canonical address, or "" when it is not known; then kube-proxy's rule alone counts.

    A failure of the kernel ("ports_used_up", "not_possible") cannot be told before trying.
    """
    if source_of(frontend, client, endpoint, node) == "node":
        return _NODE["masqueraded"]
    reason = _why_not(client, endpoint, node) if client else None
    return _NODE[reason] if reason else KEPT


def _why_not(client: str, endpoint: Endpoint, node: NodeView) -> SourceReason | None:
    """Why the reply to the client's address would not come back through this node."""
    if client == endpoint.address:
        return "client_is_endpoint"
    if family_of(client) != family_of(endpoint.address):
        return "families_differ"
    if is_node(client, node):
        return "client_is_node"
    if is_node(endpoint.address, node):
        return "endpoint_is_node"
    client_is_here = any(client in network for network in node.pod_cidrs)
    if not (endpoint.is_local or client_is_here):
        return "reply_passes_elsewhere"
    # Where no podCIDRs are known, any client may be on the endpoint's bridge.
    may_be_here = client_is_here or not node.pod_cidrs
    if endpoint.is_local and may_be_here and node.is_bridge_opaque:
        return "endpoint_on_same_bridge"
    return None
