"""`pyproxy run`: serve the Services of a cluster, or of manifest files, on this host."""

import argparse
import re
from typing import TYPE_CHECKING, Any

from pyproxy.errors import ConfigError

if TYPE_CHECKING:
    from pyproxy.app.agent import AgentSettings, HostPort
    from pyproxy.config import ProxyConfig

_EPILOG = """\
sources, one of:
  --manifests PATH ...    Services and EndpointSlices from YAML files; no cluster needed
  --kubeconfig FILE       the API server that a kubeconfig names
  (neither)               the API server of the cluster that this pod runs in

Without root, only addresses that this host has already can be listened on. ExternalName Services
need no proxy: the cluster's DNS answers for them. SCTP is not supported.

exit status: 0 asked to stop; 1 it could not go on, or was asked twice; 2 wrong usage or unreadable
configuration
"""


_HOST_PORT = re.compile(
    r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<v4>[^:\[\]]*))"
    r"(?::(?P<port>[0-9]{1,9}))?"
)


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
    group.add_argument("--config", metavar="FILE", help="a KubeProxyConfiguration")
    group.add_argument(
        "--hostname-override", metavar="NAME", help="the node's name; else this host's name"
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
        "--service-proxy-name",
        metavar="NAME",
        help="serve only Services with the label service.kubernetes.io/service-proxy-name: NAME",
    )


def _add_forwarding(group: Any) -> None:
    seconds = {"type": _seconds, "metavar": "SECONDS"}
    group.add_argument(
        "--steer", choices=("none",), default="none", help="none: listen on this host's addresses"
    )
    group.add_argument(
        "--workers", type=int, choices=(0,), default=0, help="0: forward in this process"
    )
    group.add_argument("--connect-timeout", default=1.0, help="of one attempt (1)", **seconds)
    group.add_argument(
        "--connect-deadline", default=5.0, help="of all attempts of a connection (5)", **seconds
    )
    group.add_argument(
        "--udp-timeout", default=30.0, help="of a flow without a reply (30)", **seconds
    )
    group.add_argument(
        "--udp-stream-timeout", default=120.0, help="of a flow with replies (120)", **seconds
    )
    group.add_argument("--drain-timeout", default=30.0, help="at the end (30)", **seconds)


def _add_process(group: Any) -> None:
    group.add_argument(
        "--metrics-bind-address",
        default="127.0.0.1:10249",
        metavar="IP:PORT",
        help="of /metrics; port 0 takes a free one (127.0.0.1:10249)",
    )
    group.add_argument(
        "--healthz-bind-address",
        default="0.0.0.0:10256",
        metavar="IP:PORT",
        help="of /healthz and /livez (0.0.0.0:10256)",
    )
    group.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    group.add_argument("--log-format", choices=("text", "json"), default="text")
    group.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")


def main(arguments: argparse.Namespace) -> int:
    """Run until asked to stop. Raises ConfigError with every fault of the arguments."""
    from pyproxy.app import agent, logs

    logs.set_up(arguments.log_level, arguments.log_format)
    return 0 if agent.run(settings(arguments), arguments.loop) else 1


def settings(arguments: argparse.Namespace) -> "AgentSettings":
    """The settings that the arguments ask for. Raises ConfigError with every fault."""
    from pyproxy.app.agent import AgentSettings
    from pyproxy.forward.settings import ForwardSettings
    from pyproxy.source.apiserver import ApiServerSettings

    if arguments.manifests and (arguments.kubeconfig or arguments.master):
        raise ConfigError("--manifests and --kubeconfig or --master: choose one source")
    proxy = _proxy_config(arguments)
    return AgentSettings(
        proxy=proxy,
        manifests=tuple(arguments.manifests),
        api=ApiServerSettings(
            kubeconfig=arguments.kubeconfig,
            context=arguments.context,
            master=arguments.master,
            node_name=proxy.node_name,
            proxy_name=proxy.proxy_name,
        ),
        forward=ForwardSettings(
            connect_timeout_s=arguments.connect_timeout,
            connect_deadline_s=arguments.connect_deadline,
            udp_unreplied_timeout_s=arguments.udp_timeout,
            udp_replied_timeout_s=arguments.udp_stream_timeout,
        ),
        metrics=host_port("--metrics-bind-address", arguments.metrics_bind_address, 10249),
        health=host_port("--healthz-bind-address", arguments.healthz_bind_address, 10256),
        drain_timeout_s=arguments.drain_timeout,
    )


def _proxy_config(arguments: argparse.Namespace) -> "ProxyConfig":
    """The file's settings, changed by the flags: what was typed last is meant."""
    import socket

    import msgspec

    from pyproxy.cli.settings import read_config
    from pyproxy.config import parse_cluster_cidr, parse_node_port_addresses

    config = read_config(arguments.config)
    changes: dict[str, Any] = {"proxy_name": arguments.service_proxy_name}
    if arguments.hostname_override is not None and not arguments.hostname_override.strip():
        raise ConfigError("--hostname-override: the name is blank")
    # Kubernetes names a node in lower case (PARITY 9.1).
    name = arguments.hostname_override or config.node_name or socket.gethostname()
    changes["node_name"] = name.strip().lower()
    if arguments.nodeport_addresses is not None:
        words = [word for word in arguments.nodeport_addresses.split(",") if word.strip()]
        changes["node_port_addresses"] = parse_node_port_addresses(words)
    if arguments.cluster_cidr is not None:
        changes["cluster_cidr"] = parse_cluster_cidr(arguments.cluster_cidr)
    return msgspec.structs.replace(config, **changes)


def host_port(flag: str, text: str, default_port: int) -> "HostPort":
    """Parse IP or IP:PORT; IPv6 with a port in brackets. Raises ConfigError."""
    from pyproxy.app.agent import HostPort
    from pyproxy.model.addresses import parse_address

    found = _HOST_PORT.fullmatch(text)
    try:
        # A bare IPv6 address is one host; with a port it stands in brackets.
        address = parse_address((found["v6"] or found["v4"]) if found else text)
    except ValueError as fault:
        raise ConfigError(f"{flag} {text}: {fault}; give IP:PORT") from fault
    port = int((found and found["port"]) or default_port)
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
