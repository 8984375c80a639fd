"""What the decisions see of this node, from settings, the Node object and local addresses."""

from pyproxy.config import ProxyConfig
from pyproxy.model.addresses import FAMILIES, Cidr, Family, family_of, is_loopback
from pyproxy.model.node import Node, NodeView

# A link-local address means nothing without an interface, so nobody can be told to listen there.
_LINK_LOCAL = Cidr("fe80::", 10)

LOOPBACK: dict[Family, str] = {"IPv4": "127.0.0.1", "IPv6": "::1"}


def view(
    config: ProxyConfig,
    node: Node | None,
    local_addresses: frozenset[str],
    *,
    is_bridge_opaque: bool = False,
) -> NodeView:
    """Return the view of the node.

    local_addresses: every address on an interface of this host, canonical. Node is None until it
    is known; the proxy works without.
    """
    primary = primary_addresses(config, node)
    return NodeView(
        name=config.node_name,
        zone=node.zone if node else "",
        primary=primary,
        local_addresses=local_addresses,
        node_port_addresses=_node_port_addresses(config, primary, local_addresses),
        pod_networks=_pod_networks(config, node),
        pod_cidrs=node.pod_cidrs if node else (),
        masquerade_all=config.masquerade_all,
        is_bridge_opaque=is_bridge_opaque,
    )


def primary_addresses(config: ProxyConfig, node: Node | None) -> dict[Family, str]:
    """The first address of each family: bindAddress, else the Node's, else loopback (9.6)."""
    known = [config.bind_address] if config.bind_address else []
    known += node.addresses if node else ()
    primary = dict(LOOPBACK)
    for address in reversed(known):
        primary[family_of(address)] = address
    return primary


def _node_port_addresses(
    config: ProxyConfig, primary: dict[Family, str], local_addresses: frozenset[str]
) -> tuple[str, ...]:
    """The local addresses that serve node ports (section 6), sorted.

    Unlike kube-proxy's nftables mode: with nothing set it is every address, loopback included.
    """
    chosen: list[str] = []
    for family in FAMILIES:
        cidrs = _node_port_cidrs(config, primary, family)
        chosen += sorted(
            address
            for address in local_addresses
            if family_of(address) == family
            and address not in _LINK_LOCAL
            and (config.localhost_node_ports or not is_loopback(address))  # 6.7
            and (not cidrs or any(address in cidr for cidr in cidrs))
        )
    return tuple(chosen)


def _node_port_cidrs(config: ProxyConfig, primary: dict[Family, str], family: Family) -> list[Cidr]:
    """The CIDRs that restrict a family; none means no restriction (6.3 to 6.5)."""
    wanted = config.node_port_addresses
    cidrs = [cidr for cidr in wanted.cidrs if cidr.family == family]
    bits = 32 if family == "IPv4" else 128
    if wanted.primary and not is_loopback(primary[family]):
        cidrs.append(Cidr(primary[family], bits))
    if wanted.localhost:
        cidrs.append(Cidr("127.0.0.0", 8) if family == "IPv4" else Cidr("::1", 128))
    return cidrs


def _pod_networks(config: ProxyConfig, node: Node | None) -> tuple[Cidr, ...]:
    """What counts as a pod's address (8.6).

    The two modes that go by network interface cannot be told from an address; the node's podCIDRs
    stand for them.
    """
    if config.detect_local_mode == "ClusterCIDR":
        return config.cluster_cidr
    return node.pod_cidrs if node else ()
