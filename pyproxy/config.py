"""The settings that decisions depend on, and the configuration file that sets them.

A file is a KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1), as kube-proxy's ConfigMap
holds it. Parsing takes text and reads no file. All faults of a file are reported at once.
"""

from typing import Any, Literal, cast, get_args

import msgspec
import yaml

from pyproxy.errors import ConfigError
from pyproxy.model.addresses import Cidr, parse_address, parse_cidr

DetectLocalMode = Literal["ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"]

KUBE_PROXY_API = "kubeproxy.config.k8s.io/v1alpha1"
PRIMARY = "primary"  # the node's own first address of each family
LOCALHOST = "localhost"  # 127.0.0.0/8 and ::1

# What PyYAML raises for a text that it cannot read: its own errors, and those that escape from its
# constructors, as for `!!int x`, `!!int`, `!!timestamp x`, or nesting without end.
UNREADABLE_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError)


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
    """

    node_name: str = ""
    proxy_name: str | None = None
    node_port_addresses: NodePortAddresses = NodePortAddresses()
    cluster_cidr: tuple[Cidr, ...] = ()
    detect_local_mode: DetectLocalMode = "ClusterCIDR"
    masquerade_all: bool = False
    bind_address: str = ""


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


def parse_config(text: str) -> tuple[ProxyConfig, tuple[str, ...]]:
    """Parse a configuration file's text; return the settings, and the fields that were not used.

    Raises ConfigError with every fault in it.
    """
    try:
        document = yaml.safe_load(text)
    except UNREADABLE_YAML as fault:
        raise ConfigError(f"not YAML: {' '.join(str(fault).split())}") from fault
    if not isinstance(document, dict):
        raise ConfigError(f"not a {KUBE_PROXY_API} KubeProxyConfiguration: it is no mapping")
    found = (document.get("apiVersion"), document.get("kind"))
    if found != (KUBE_PROXY_API, "KubeProxyConfiguration"):
        raise ConfigError(
            f"apiVersion {found[0]!r} and kind {found[1]!r} are not"
            f" {KUBE_PROXY_API} and KubeProxyConfiguration"
        )
    return _KubeProxyFields(document).parse()


class _KubeProxyFields:
    """Reads the fields of one document, and gathers faults and unused fields on the way."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._left = {k: v for k, v in document.items() if k not in {"apiVersion", "kind"}}
        self._faults: list[str] = []

    def parse(self) -> tuple[ProxyConfig, tuple[str, ...]]:
        mode = self._take("mode", str, "")
        node_ports = self._take("nodePortAddresses", list, [])
        cluster_cidr = self._take("clusterCIDR", str, "")
        config = ProxyConfig(
            node_name=self._node_name(),
            node_port_addresses=self._parsed(
                parse_node_port_addresses, [str(text) for text in node_ports], NodePortAddresses()
            ),
            cluster_cidr=self._parsed(parse_cluster_cidr, cluster_cidr, ()),
            detect_local_mode=self._detect_local_mode(),
            masquerade_all=self._masquerade_all(mode),
            bind_address=self._bind_address(),
        )
        if self._faults:
            raise ConfigError(*self._faults)
        return config, tuple(sorted(self._left))

    def _take(self, field: str, kind: type, default: Any) -> Any:
        value = self._left.pop(field, None)
        if value is None:
            return default
        if not isinstance(value, kind):
            self._faults.append(f"{field}: {value!r} is not a {kind.__name__}")
            return default
        return value

    def _parsed(self, parse: Any, value: Any, default: Any) -> Any:
        try:
            return parse(value)
        except ConfigError as fault:
            self._faults.extend(fault.faults)
            return default

    def _node_name(self) -> str:
        text = self._take("hostnameOverride", str, "")
        if text and not text.strip():  # 9.1
            self._faults.append(f"hostnameOverride: {text!r} is blank")
        return str(text.strip().lower())

    def _detect_local_mode(self) -> DetectLocalMode:
        mode = self._take("detectLocalMode", str, "") or "ClusterCIDR"
        if mode not in get_args(DetectLocalMode):
            allowed = ", ".join(get_args(DetectLocalMode))
            self._faults.append(f"detectLocalMode: {mode!r} is none of {allowed}")
        return cast(DetectLocalMode, mode)

    def _masquerade_all(self, mode: str) -> bool:
        """The mode's own section counts (19.1); without a mode, either of the two."""
        sections = {name: self._take(name, dict, {}) for name in ("iptables", "nftables")}
        for name, section in sections.items():
            value = section.get("masqueradeAll")
            if not isinstance(value, bool | None):
                self._faults.append(f"{name}.masqueradeAll: {value!r} is not a bool")
        chosen = [sections[mode]] if mode in sections else list(sections.values())
        return any(section.get("masqueradeAll") is True for section in chosen) or self._take(
            "masqueradeAll", bool, default=False
        )

    def _bind_address(self) -> str:
        text = self._take("bindAddress", str, "")
        try:
            address = parse_address(text) if text else ""
        except ValueError as fault:
            self._faults.append(f"bindAddress: {fault}")
            return ""
        return "" if address in {"0.0.0.0", "::"} else address  # noqa: S104  nothing is bound
