"""`pyproxy run`: serve the Services of a cluster, or of manifest files, on this host."""

import argparse
import re
from typing import TYPE_CHECKING, Any

from pyproxy.errors import ConfigError

if TYPE_CHECKING:
    from pyproxy.app.agent import AgentSettings
    from pyproxy.config import Configuration, HostPort, ProxyConfig
    from pyproxy.forward.settings import ForwardSettings
    from pyproxy.steer.reconciler import SteerSettings

_EPILOG = """\
sources, one of:
  --manifests PATH ...    Services and EndpointSlices from YAML files; no cluster needed
  --kubeconfig FILE       the API server that a kubeconfig names
  (neither)               the API server of the cluster that this pod runs in

Flags go before the configuration file. Without root, only addresses that this host has already can
be listened on. ExternalName Services need no proxy: the cluster's DNS answers for them. SCTP is not
supported.

exit status: 0 asked to stop; 1 it could not go on, or was asked twice; 2 wrong usage or unreadable
configuration
"""


def register(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "run",
        help="serve Services on this host",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_sources(command.add_argument_group("sources"))
    _add_node(command.add_argument_group("node and Services"))
    _add_forwarding(command.add_argument_group("forwarding"))
    _add_process(command.add_argument_group("process"))
    command.set_defaults(main=main)


def _add_sources(group: Any) -> None:
    group.add_argument(
        "--manifests", nargs="+", action="extend", default=[], metavar="PATH", help="see below"
    )
    group.add_argument("--kubeconfig", metavar="FILE", help="see below")
    group.add_argument("--context", metavar="NAME", help="of the kubeconfig; else its current one")
    group.add_argument("--master", metavar="URL", help="the API server, instead of the one named")


def _add_node(group: Any) -> None:
    group.add_argument(
        "--config", metavar="FILE", help="a KubeProxyConfiguration, a PyproxyConfiguration, or both"
    )
    group.add_argument(
        "--hostname-override", metavar="NAME", help="the node's name; else this host's name"
    )
    group.add_argument(
        "--bind-address", metavar="IP", help="the node's primary address, instead of the Node's"
    )
    group.add_argument(
        "--nodeport-addresses",
        metavar="LIST",
        help="CIDRs, primary or localhost, by commas: where node ports are served; else everywhere",
    )
    group.add_argument(
        "--cluster-cidr", metavar="CIDR[,CIDR]", help="the pods' networks, one of a family"
    )
    group.add_argument(
        "--detect-local-mode",
        choices=("ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"),
        help="how pods are told from others (ClusterCIDR)",
    )
    group.add_argument(
        "--masquerade-all",
        action="store_true",
        default=None,
        help="every connection to a ClusterIP has the node's address as its source",
    )
    group.add_argument(
        "--service-proxy-name",
        metavar="NAME",
        help="serve only Services with the label service.kubernetes.io/service-proxy-name: NAME",
    )


def _add_forwarding(group: Any) -> None:
    group.add_argument(
        "--steer",
        choices=("none", "nft"),
        help="none: listen on this host's addresses (the default); nft: bring packets for all"
        " Services here by nftables and a policy route; takes CAP_NET_ADMIN",
    )
    group.add_argument(
        "--source-address",
        choices=("auto", "node"),
        help="whose address endpoints see when steering: auto, the client's where it can be kept",
    )
    group.add_argument("--workers", type=int, choices=(0,), help="0: forward in this process")
    for flag, text in (
        ("--connect-timeout", "of one attempt (1)"),
        ("--connect-deadline", "of all attempts of a connection (5)"),
        ("--udp-timeout", "of a flow without a reply (30)"),
        ("--udp-stream-timeout", "of a flow with replies (120)"),
        ("--drain-timeout", "at the end (30)"),
    ):
        group.add_argument(flag, type=_seconds, metavar="SECONDS", help=text)


def _add_process(group: Any) -> None:
    group.add_argument(
        "--metrics-bind-address",
        metavar="IP:PORT",
        help="of /metrics; port 0 takes a free one (127.0.0.1:10249)",
    )
    group.add_argument(
        "--healthz-bind-address",
        metavar="IP:PORT",
        help="of /healthz and /livez (0.0.0.0:10256)",
    )
    group.add_argument("--log-level", choices=("debug", "info", "warning", "error"))
    group.add_argument("--log-format", choices=("text", "json"))
    group.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")


def main(arguments: argparse.Namespace) -> int:
    """Run until asked to stop. Raises ConfigError with every fault of the arguments."""
    from pyproxy.app import agent, logs
    from pyproxy.cli.settings import read_configuration

    logs.set_up(arguments.log_level or "info", arguments.log_format or "text")
    configuration = read_configuration(arguments.config)
    logs.set_up(
        arguments.log_level or configuration.log_level,
        arguments.log_format or configuration.log_format,
    )
    return 0 if agent.run(settings(arguments, configuration), arguments.loop) else 1


def settings(arguments: argparse.Namespace, configuration: "Configuration") -> "AgentSettings":
    """What the arguments and the file ask for; arguments go first. Raises ConfigError."""
    from pyproxy.app.agent import AgentSettings
    from pyproxy.source.apiserver import ApiServerSettings

    if arguments.manifests and (arguments.kubeconfig or arguments.master):
        raise ConfigError("--manifests and --kubeconfig or --master: choose one source")
    proxy = _proxy_config(arguments, configuration)
    own = configuration.pyproxy
    steer = _steer(arguments, configuration)
    return AgentSettings(
        proxy=proxy,
        config_file=arguments.config,
        manifests=tuple(arguments.manifests),
        api=ApiServerSettings(
            kubeconfig=arguments.kubeconfig or configuration.kubeconfig,
            context=arguments.context,
            master=arguments.master,
            node_name=proxy.node_name,
            proxy_name=proxy.proxy_name,
        ),
        forward=_forward(arguments, configuration, is_steered=steer is not None),
        steer=steer,
        metrics=_host_port("--metrics-bind-address", arguments, configuration.metrics),
        health=_host_port("--healthz-bind-address", arguments, configuration.health),
        drain_timeout_s=_chosen(arguments.drain_timeout, own.drain_timeout_s),
        min_sync_period_s=configuration.min_sync_period_s,
        sync_period_s=configuration.sync_period_s,
    )


def _steer(arguments: argparse.Namespace, configuration: "Configuration") -> "SteerSettings | None":
    from pyproxy.app.agent import steer_settings

    if (arguments.steer or configuration.pyproxy.steer) == "none":
        return None
    return steer_settings(configuration.pyproxy.steering)


def _forward(
    arguments: argparse.Namespace, configuration: "Configuration", *, is_steered: bool
) -> "ForwardSettings":
    from pyproxy.forward.settings import ForwardSettings

    own, conntrack = configuration.pyproxy, configuration.kube_proxy.conntrack
    defaults = ForwardSettings()
    # Answers to a client's own address come back here only where they are steered.
    source = (arguments.source_address or own.source_address) if is_steered else "node"
    return ForwardSettings(
        transparent=is_steered,
        source_address=source,
        connect_timeout_s=_chosen(arguments.connect_timeout, own.connect_timeout_s),
        connect_deadline_s=_chosen(arguments.connect_deadline, own.connect_deadline_s),
        max_connections=own.max_connections,
        max_udp_flows=own.max_udp_flows,
        # 0 in kube-proxy's file leaves the kernel's time as it is, which is our default.
        udp_unreplied_timeout_s=_chosen(
            arguments.udp_timeout, conntrack.udp_timeout_s or defaults.udp_unreplied_timeout_s
        ),
        udp_replied_timeout_s=_chosen(
            arguments.udp_stream_timeout,
            conntrack.udp_stream_timeout_s or defaults.udp_replied_timeout_s,
        ),
    )


def _chosen(argument: float | None, configured: float) -> float:
    return configured if argument is None else argument


def _proxy_config(arguments: argparse.Namespace, configuration: "Configuration") -> "ProxyConfig":
    """What the decisions depend on."""
    import socket

    import msgspec

    from pyproxy.config import parse_cluster_cidr, parse_node_port_addresses

    config = configuration.proxy
    if arguments.hostname_override is not None and not arguments.hostname_override.strip():
        raise ConfigError("--hostname-override: the name is blank")
    # Kubernetes names a node in lower case (PARITY 9.1).
    name = arguments.hostname_override or config.node_name or socket.gethostname()
    changes: dict[str, Any] = {"node_name": name.strip().lower()}
    if arguments.nodeport_addresses is not None:
        words = [word for word in arguments.nodeport_addresses.split(",") if word.strip()]
        changes["node_port_addresses"] = parse_node_port_addresses(words)
    if arguments.cluster_cidr is not None:
        changes["cluster_cidr"] = parse_cluster_cidr(arguments.cluster_cidr)
    if arguments.bind_address is not None:
        changes["bind_address"] = _address("--bind-address", arguments.bind_address)
    given = {
        "proxy_name": arguments.service_proxy_name,
        "detect_local_mode": arguments.detect_local_mode,
        "masquerade_all": arguments.masquerade_all,
    }
    changes |= {field: value for field, value in given.items() if value is not None}
    return msgspec.structs.replace(config, **changes)


def _address(flag: str, text: str) -> str:
    from pyproxy.model.addresses import parse_address

    try:
        address = parse_address(text)
    except ValueError as fault:
        raise ConfigError(f"{flag}: {fault}") from fault
    return "" if address in {"0.0.0.0", "::"} else address  # noqa: S104  nothing is bound


_HOST_PORT = re.compile(
    r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<v4>[^:\[\]]*))"
    r"(?::(?P<port>[0-9]{1,9}))?"
)


def _host_port(flag: str, arguments: argparse.Namespace, configured: "HostPort") -> "HostPort":
    """Parse IP or IP:PORT; IPv6 with a port in brackets. Raises ConfigError."""
    from pyproxy.config import HostPort
    from pyproxy.model.addresses import parse_address

    text = getattr(arguments, flag[2:].replace("-", "_"))
    if not text:
        return configured  # an empty value leaves the default in force (20.11)
    found = _HOST_PORT.fullmatch(text)
    try:
        # A bare IPv6 address is one host; with a port it stands in brackets.
        address = parse_address((found["v6"] or found["v4"]) if found else text)
    except ValueError as fault:
        raise ConfigError(f"{flag} {text}: {fault}; give IP:PORT") from fault
    port = int((found and found["port"]) or configured.port)
    if port > 65535:
        raise ConfigError(f"{flag} {text}: the port is not within 0 to 65535")
    return HostPort(address, port)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, 0 or more")
    return value
