"""The settings that decisions depend on."""

from typing import Literal

import msgspec

from pyproxy.errors import ConfigError
from pyproxy.model.addresses import Cidr, parse_cidr
from pyproxy.model.options import DEFAULT_OPTIONS, ServiceOptions

DetectLocalMode = Literal["ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"]

PRIMARY = "primary"  # the node's own first address of each family
LOCALHOST = "localhost"  # 127.0.0.0/8 and ::1


class NodePortAddresses(msgspec.Struct, frozen=True):
    """Which of the node's addresses serve node ports; all of them when nothing is set."""

    cidrs: tuple[Cidr, ...] = ()
    primary: bool = False
    localhost: bool = False


class ProxyConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the decision core is set to; the defaults are kube-proxy's.

    proxy_name: serve the Services with this service-proxy-name label; None: those without one.
    cluster_cidr: the pods' networks, for detectLocalMode ClusterCIDR; at most one of a family.
    bind_address: overrides the node's primary address when it is set (PARITY 9.6).
    localhost_node_ports: whether loopback addresses may serve node ports at all (6.7).
    options: of Services without annotations.
    refuses_loopback: leave out endpoints with loopback addresses, which are the node's own; where
    one user writes both the node's files and its Services there is nobody to keep out.
    """

    node_name: str = ""
    proxy_name: str | None = None
    node_port_addresses: NodePortAddresses = NodePortAddresses()
    cluster_cidr: tuple[Cidr, ...] = ()
    detect_local_mode: DetectLocalMode = "ClusterCIDR"
    masquerade_all: bool = False
    bind_address: str = ""
    localhost_node_ports: bool = True
    options: ServiceOptions = DEFAULT_OPTIONS
    refuses_loopback: bool = False


def parse_node_port_addresses(texts: list[str]) -> NodePortAddresses:
    """Parse CIDRs, or `primary` alone (6.1), each also beside `localhost`. Raises ConfigError."""
    words = [text.strip() for text in texts]
    cidrs, faults = [], []
    for word in words:
        if word in {PRIMARY, LOCALHOST}:
            continue
        try:
            cidrs.append(parse_cidr(word))
        except ValueError as fault:
            faults.append(f"nodePortAddresses: {fault}, nor the word primary or localhost")
    if PRIMARY in words and (cidrs or words.count(PRIMARY) > 1):
        faults.append("nodePortAddresses: primary cannot be mixed with CIDRs")
    if faults:
        raise ConfigError(*faults)
    return NodePortAddresses(tuple(cidrs), PRIMARY in words, LOCALHOST in words)


def format_node_port_addresses(value: NodePortAddresses) -> list[str]:
    """Return the texts that parse to a value."""
    words = {PRIMARY: value.primary, LOCALHOST: value.localhost}
    return [*map(str, value.cidrs), *(word for word, is_set in words.items() if is_set)]


def parse_cluster_cidr(text: str) -> tuple[Cidr, ...]:
    """Parse one CIDR, or a dual-stack pair "a,b"; "" is none. Raises ConfigError."""
    found: list[Cidr] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(parse_cidr(part))
        except ValueError as fault:
            raise ConfigError(f"clusterCIDR: {fault}") from fault
    if len({cidr.family for cidr in found}) < len(found):
        raise ConfigError(f"clusterCIDR: {text!r} holds more than one CIDR of a family")
    return tuple(found)
