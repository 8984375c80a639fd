"""The flags of `pyproxy run` that stand for fields of the configuration. They go before a file."""

import argparse
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pyproxy.errors import ConfigError

if TYPE_CHECKING:
    import msgspec

    from pyproxy.config import Configuration, HostPort

_S = TypeVar("_S", bound="msgspec.Struct")


class Flag(NamedTuple):
    """A flag, the fields of the Configuration that it sets, and how its text is read.

    fields: paths such as "kube_proxy.conntrack.udp_timeout_s". read: raises ValueError with what is
    wrong with the text, or ConfigError with whole lines.
    """

    name: str
    fields: tuple[str, ...]
    help: str
    read: Callable[[str], Any] = str
    metavar: str = ""
    choices: tuple[str, ...] | None = None


def _seconds(text: str) -> float:
    from pyproxy.config.durations import parse_duration

    try:
        value = float(text)
    except ValueError:
        try:
            value = parse_duration(text)
        except ValueError:
            value = -1.0
    if not 0 <= value < 1e9:
        raise ValueError(f"{text!r} is not a number of seconds, 0 or more, nor such as 1m30s")
    return value


def _node_name(text: str) -> str:
    if not text.strip():
        raise ValueError("the name is blank")
    return text.strip().lower()  # as Kubernetes names a node (PARITY 9.1, 20.6)


def _node_port_addresses(text: str) -> Any:
    from pyproxy.config import parse_node_port_addresses

    return parse_node_port_addresses([word for word in text.split(",") if word.strip()])


def _cluster_cidr(text: str) -> Any:
    from pyproxy.config import parse_cluster_cidr

    return parse_cluster_cidr(text)


def _address(text: str) -> str:
    from pyproxy.model.addresses import parse_address

    return parse_address(text)


def _verbosity(text: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise ValueError(f"{text!r} is not a number, 0 or more")
    return int(text)


def _workers(text: str) -> int:
    from pyproxy.config.kinds import KINDS, WorkerCount

    is_number = text.isascii() and text.isdecimal()
    try:
        count: int = KINDS[WorkerCount].read(int(text) if is_number else text)
    except ValueError as fault:
        raise ValueError(f"{text!r} {fault}") from fault
    return count


_HOST_PORT = re.compile(
    r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<v4>[^:\[\]]*))"
    r"(?::(?P<port>[0-9]{1,9}))?"
)


def host_port(default_port: int) -> "Callable[[str], HostPort | None]":
    """Return what reads ADDRESS:PORT, or an address alone; "" is None. It raises ValueError."""

    def read(text: str) -> "HostPort | None":
        from pyproxy.config import HostPort
        from pyproxy.model.addresses import parse_address

        if not text:
            return None  # an empty value leaves the default in force (20.11)
        found = _HOST_PORT.fullmatch(text)
        # A bare IPv6 address is one host; with a port it stands in brackets.
        address = parse_address((found["v6"] or found["v4"]) if found else text)
        port = int((found and found["port"]) or default_port)
        if port > 65535:
            raise ValueError("the port is not within 0 to 65535")
        return HostPort(address, port)

    return read


def _page_address(text: str) -> Any:
    from pyproxy.config.kinds import NO_PAGE

    return host_port(10290)(text) if text else NO_PAGE


_LOCAL_MODES = ("ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix")
_LEVELS = ("debug", "info", "warning", "error")
_PERIOD = "sync_period_s"

NODE = (
    Flag(
        "hostname-override",
        ("kube_proxy.hostname_override",),
        "the node's name; else this host's name",
        _node_name,
        "NAME",
    ),
    Flag(
        "bind-address",
        ("kube_proxy.bind_address",),
        "the node's primary address, instead of the Node's",
        _address,
        "IP",
    ),
    Flag(
        "nodeport-addresses",
        ("kube_proxy.node_port_addresses",),
        "CIDRs, primary or localhost, by commas: where node ports are served; else everywhere",
        _node_port_addresses,
        "LIST",
    ),
    Flag(
        "cluster-cidr",
        ("kube_proxy.cluster_cidr",),
        "the pods' networks, one of a family",
        _cluster_cidr,
        "CIDR[,CIDR]",
    ),
    Flag(
        "detect-local-mode",
        ("kube_proxy.detect_local_mode",),
        "how pods are told from others (ClusterCIDR)",
        choices=_LOCAL_MODES,
    ),
    Flag(
        "pod-bridge-interface",
        ("kube_proxy.detect_local.bridge_interface",),
        "for BridgeInterface",
        metavar="NAME",
    ),
    Flag(
        "pod-interface-name-prefix",
        ("kube_proxy.detect_local.interface_name_prefix",),
        "for InterfaceNamePrefix",
        metavar="PREFIX",
    ),
    Flag(
        "service-proxy-name",
        ("pyproxy.service_proxy_name",),
        "serve only Services with the label service.kubernetes.io/service-proxy-name: NAME",
        metavar="NAME",
    ),
)
FORWARDING = (
    Flag(
        "steer",
        ("pyproxy.steer",),
        "none: listen on this host's addresses; nft: bring packets for all Services here by"
        " nftables and a policy route, which takes CAP_NET_ADMIN; auto: nft if that is there",
        choices=("auto", "none", "nft"),
    ),
    Flag(
        "source-address",
        ("pyproxy.source_address",),
        "whose address endpoints see when steering: auto, the client's where it can be kept",
        choices=("auto", "node"),
    ),
    Flag(
        "workers",
        ("pyproxy.workers",),
        "processes that forward: auto, one for each core but at most 8; 0, this process does",
        _workers,
        "N",
    ),
    Flag(
        "balance",
        ("pyproxy.balance",),
        "how endpoints are chosen, where a Service does not say (least-connections)",
        choices=("least-connections", "round-robin", "random", "consistent-hash"),
    ),
    Flag(
        "slow-start",
        ("pyproxy.slow_start_s",),
        "how long a new endpoint's share grows, where a Service does not say (0)",
        _seconds,
        "SECONDS",
    ),
    Flag(
        "on-endpoint-removed",
        ("pyproxy.on_endpoint_removed",),
        "what becomes of connections to an endpoint that has left: drain closes them after the"
        " drain time, close at once, keep never (drain)",
        choices=("drain", "keep", "close"),
    ),
    Flag(
        "connect-timeout",
        ("pyproxy.connect_timeout_s",),
        "of one attempt to connect (1)",
        _seconds,
        "SECONDS",
    ),
    Flag(
        "connect-deadline",
        ("pyproxy.connect_deadline_s",),
        "of all attempts of one connection (5)",
        _seconds,
        "SECONDS",
    ),
    Flag(
        "conntrack-udp-timeout",
        ("kube_proxy.conntrack.udp_timeout_s",),
        "of a UDP flow without a reply (30)",
        _seconds,
        "SECONDS",
    ),
    Flag(
        "conntrack-udp-timeout-stream",
        ("kube_proxy.conntrack.udp_stream_timeout_s",),
        "of a UDP flow with replies (120)",
        _seconds,
        "SECONDS",
    ),
    Flag(
        "iptables-sync-period",
        (f"kube_proxy.iptables.{_PERIOD}", f"kube_proxy.nftables.{_PERIOD}"),
        "until an update that failed is tried again (30)",
        _seconds,
        "SECONDS",
    ),
    Flag(
        "iptables-min-sync-period",
        (f"kube_proxy.iptables.min_{_PERIOD}", f"kube_proxy.nftables.min_{_PERIOD}"),
        "between two updates (50ms)",
        _seconds,
        "SECONDS",
    ),
    Flag(
        "drain-timeout",
        ("pyproxy.drain_timeout_s",),
        "for live connections, at the end (30)",
        _seconds,
        "SECONDS",
    ),
)
PROCESS = (
    Flag(
        "metrics-bind-address",
        ("kube_proxy.metrics_bind_address",),
        "of /metrics; port 0 takes a free one (127.0.0.1:10249)",
        host_port(10249),
        "IP:PORT",
    ),
    Flag(
        "healthz-bind-address",
        ("kube_proxy.healthz_bind_address",),
        "of /healthz and /livez (0.0.0.0:10256)",
        host_port(10256),
        "IP:PORT",
    ),
    Flag(
        "ui-bind-address",
        ("pyproxy.ui_bind_address",),
        "of the status page; '' for none (127.0.0.1:10290)",
        _page_address,
        "IP:PORT",
    ),
    Flag(
        "control-socket",
        ("pyproxy.control_socket",),
        "the Unix socket that pyproxy status and the like ask; '' for none"
        " (/run/pyproxy/pyproxy.sock)",
        metavar="PATH",
    ),
    Flag("log-level", ("pyproxy.log_level",), "from which level on (info)", choices=_LEVELS),
    Flag("log-format", ("pyproxy.log_format",), "of the log (text)", choices=("text", "json")),
)
OBSERVED = (
    Flag(
        "metrics-detail",
        ("pyproxy.metrics_detail",),
        "of what /metrics has series: each service port, or each endpoint as well (service)",
        choices=("service", "endpoint"),
    ),
    Flag(
        "access-log",
        ("pyproxy.access_log.mode",),
        "which ends of connections are written: off; errors; sampled, errors and one in 100 of the"
        " rest; all (errors)",
        choices=("off", "errors", "sampled", "all"),
    ),
    Flag(
        "access-log-format",
        ("pyproxy.access_log.format",),
        "of a record, one a line (that of the log)",
        choices=("text", "json"),
    ),
    Flag(
        "access-log-path",
        ("pyproxy.access_log.path",),
        "a file, opened anew when it was renamed (standard output)",
        metavar="FILE",
    ),
)
# Written with one dash, as klog has it.
VERBOSITY = Flag("v", ("kube_proxy.logging.verbosity",), "from 4 on, debug", _verbosity, "N")


def add(group: Any, flags: tuple[Flag, ...]) -> None:
    """Add flags to a group of the parser."""
    for flag in flags:
        shape: dict[str, Any] = {"metavar": flag.metavar} if flag.metavar else {}
        group.add_argument(f"--{flag.name}", choices=flag.choices, help=flag.help, **shape)


def apply(configuration: "Configuration", arguments: argparse.Namespace) -> "Configuration":
    """Return the configuration with what was typed in it. Raises ConfigError with every fault."""
    from pyproxy.config import kubeproxy, own

    faults: list[str] = []
    for flag in (*NODE, *FORWARDING, *PROCESS, *OBSERVED, VERBOSITY):
        text = getattr(arguments, flag.name.replace("-", "_"))
        if text is None:
            continue
        try:
            value = flag.read(text)
        except ConfigError as fault:
            faults += [f"--{flag.name}: {line}" for line in fault.faults]
        except ValueError as fault:
            faults.append(f"--{flag.name} {text}: {fault}")
        else:
            for path in flag.fields:
                configuration = _with(configuration, path.split("."), value)
    if arguments.masquerade_all:
        configuration = _with(configuration, ["kube_proxy", "masquerade_all"], value=True)
    if not faults:
        faults = kubeproxy.faults_of(configuration.kube_proxy) + own.faults_of(
            configuration.pyproxy
        )
    if faults:
        raise ConfigError(*faults)
    return configuration


def _with(section: _S, path: list[str], value: object) -> _S:
    """A section with one field, perhaps deep in it, replaced."""
    import msgspec

    field, *rest = path
    if rest:
        value = _with(getattr(section, field), rest, value)
    return msgspec.structs.replace(section, **{field: value})
