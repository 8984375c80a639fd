"""`pyproxy run`: serve the Services of a cluster, or of manifest files, on this host."""

import argparse
import logging
from typing import TYPE_CHECKING, Any

from pyproxy.cli import flags
from pyproxy.errors import ConfigError, PyproxyError

if TYPE_CHECKING:
    from pyproxy.app.access_log import AccessLogSettings
    from pyproxy.app.agent_settings import AgentSettings
    from pyproxy.config import Configuration, ProxyConfig
    from pyproxy.config.own import AccessLog
    from pyproxy.forward.settings import ForwardSettings

log = logging.getLogger(__name__)

# By itself it takes no more: what a node does beside proxying needs its cores more.
_MOST_WORKERS = 8

_EPILOG = """\
sources, one of:
  --manifests PATH ...    Services and EndpointSlices from YAML files; no cluster needed
  --kubeconfig FILE       the API server that a kubeconfig names
  (neither)               the API server of the cluster that this pod runs in

Flags go before the configuration file. As root it steers the addresses of all Services here; what
it puts into the kernel for that stays until `pyproxy cleanup`. Without root, or with --steer none,
it listens on the addresses that this host has already. ExternalName Services need no proxy: the
cluster's DNS answers for them. SCTP is not supported.

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
    node = command.add_argument_group("node and Services")
    flags.add(node, flags.NODE)
    node.add_argument(
        "--masquerade-all",
        action="store_true",
        help="every connection to a ClusterIP has the node's address as its source",
    )
    forwarding = command.add_argument_group("forwarding")
    flags.add(forwarding, flags.FORWARDING)
    process = command.add_argument_group("process")
    flags.add(process, flags.PROCESS)
    flags.add(process, flags.OBSERVED)
    process.add_argument("-v", metavar="N", help=flags.VERBOSITY.help)
    process.add_argument(
        "--loop",
        choices=("uvloop", "asyncio"),
        default="uvloop",
        help="the agent's event loop; workers have asyncio's, with the sockets on its own epoll",
    )
    command.set_defaults(main=main)


def _add_sources(group: Any) -> None:
    group.add_argument(
        "--config", metavar="FILE", help="a KubeProxyConfiguration, a PyproxyConfiguration, or both"
    )
    group.add_argument(
        "--manifests", nargs="+", action="extend", default=[], metavar="PATH", help="see below"
    )
    group.add_argument("--kubeconfig", metavar="FILE", help="see below")
    group.add_argument("--context", metavar="NAME", help="of the kubeconfig; else its current one")
    group.add_argument("--master", metavar="URL", help="the API server, instead of the one named")


def main(arguments: argparse.Namespace) -> int:
    """Run until asked to stop. Raises ConfigError with every fault of file and arguments."""
    from pyproxy.app import agent, logs
    from pyproxy.cli.settings import read_configuration

    logs.set_up(arguments.log_level or "info", arguments.log_format or "text")
    configuration = flags.apply(read_configuration(arguments.config), arguments)
    logs.set_up(configuration.log_level, configuration.log_format)
    return 0 if agent.run(settings(arguments, configuration), arguments.loop) else 1


def settings(arguments: argparse.Namespace, configuration: "Configuration") -> "AgentSettings":
    """What a configuration asks for, flags included. Raises ConfigError."""
    import msgspec

    from pyproxy.app.agent_settings import AgentSettings
    from pyproxy.app.steering import steer_settings
    from pyproxy.config.kinds import NO_PAGE
    from pyproxy.source.apiserver import ApiServerSettings

    if arguments.manifests and (arguments.kubeconfig or arguments.master):
        raise ConfigError("--manifests and --kubeconfig or --master: choose one source")
    own = configuration.pyproxy
    is_steered = _is_steered(configuration)
    # On a node of a cluster, pods ask Services that others write.
    refuses_loopback = is_steered and not arguments.manifests
    proxy = msgspec.structs.replace(_proxy_config(configuration), refuses_loopback=refuses_loopback)
    return AgentSettings(
        proxy=proxy,
        config_file=arguments.config,
        configz=configz(configuration),
        manifests=tuple(arguments.manifests),
        api=ApiServerSettings(
            kubeconfig=arguments.kubeconfig or configuration.kubeconfig,
            context=arguments.context,
            master=arguments.master,
            node_name=proxy.node_name,
            proxy_name=proxy.proxy_name,
        ),
        forward=_forward(configuration, is_steered=is_steered),
        workers=_workers(own.workers),
        log_format=configuration.log_format,
        access_log=_access_log(configuration.access_log),
        endpoint_series=own.metrics_max_series if own.metrics_detail == "endpoint" else 0,
        steer=steer_settings(own.steering) if is_steered else None,
        metrics=configuration.metrics,
        kubeproxy_metrics=own.kubeproxy_metrics,
        health=configuration.health,
        page=None if own.ui_bind_address == NO_PAGE else own.ui_bind_address,
        page_hosts=own.ui_hosts,
        control_sockets=_control_sockets(own.control_socket),
        drain_timeout_s=own.drain_timeout_s,
        min_sync_period_s=configuration.min_sync_period_s,
        sync_period_s=configuration.sync_period_s,
    )


def configz(configuration: "Configuration") -> dict[str, Any]:
    """What /configz answers: each document under its API group (PARITY 14.4)."""
    documents = configuration.documents()
    return {document["apiVersion"].partition("/")[0]: document for document in documents}


def _access_log(asked: "AccessLog") -> "AccessLogSettings":
    from pyproxy.app.access_log import AccessLogSettings
    from pyproxy.core.access_log import AccessRules

    rules = AccessRules(
        mode=asked.mode, sample=asked.sample, records_per_second=asked.records_per_second
    )
    return AccessLogSettings(rules=rules, format=asked.format or "text", path=asked.path or None)


def _control_sockets(wanted: str | None) -> tuple[str, ...]:
    """Where the control socket may be."""
    from pyproxy.ops.control_places import places

    if wanted is None:
        return places()
    return (wanted,) if wanted else ()


def _workers(wanted: int) -> int:
    """How many processes forward."""
    import os

    from pyproxy.config.kinds import AUTO_WORKERS

    if wanted != AUTO_WORKERS:
        return wanted
    return min(len(os.sched_getaffinity(0)), _MOST_WORKERS)


def _is_steered(configuration: "Configuration") -> bool:
    """Whether to steer. Raises ConfigError where it is asked for and cannot be."""
    from pyproxy.steer.permission import why_not

    wanted = configuration.pyproxy.steer
    if wanted == "none":
        return False
    missing = why_not()
    if missing is None:
        return True
    if wanted == "nft":
        raise PyproxyError(f"{missing}; or run with --steer none")
    log.info("listening on this host's addresses only (--steer none): %s", missing)
    return False


def _forward(configuration: "Configuration", *, is_steered: bool) -> "ForwardSettings":
    import resource

    from pyproxy.forward.settings import ForwardSettings

    own, conntrack = configuration.pyproxy, configuration.kube_proxy.conntrack
    defaults = ForwardSettings()
    return ForwardSettings(
        transparent=is_steered,
        # Answers to a client's own address come back here only where they are steered.
        source_address=own.source_address if is_steered else "node",
        connect_timeout_s=own.connect_timeout_s,
        connect_deadline_s=own.connect_deadline_s,
        drain_timeout_s=own.drain_timeout_s,
        max_connections=own.max_connections,
        max_descriptors=resource.getrlimit(resource.RLIMIT_NOFILE)[
            1
        ],  # the agent raises it to that
        max_udp_flows=own.max_udp_flows,
        # 0 leaves kube-proxy's kernel as it is: so it is our default.
        udp_unreplied_timeout_s=conntrack.udp_timeout_s or defaults.udp_unreplied_timeout_s,
        udp_replied_timeout_s=conntrack.udp_stream_timeout_s or defaults.udp_replied_timeout_s,
    )


def _proxy_config(configuration: "Configuration") -> "ProxyConfig":
    """What the decisions depend on; without a name the node has this host's (9.1)."""
    import socket

    import msgspec

    config = configuration.proxy
    name = config.node_name or socket.gethostname().strip().lower()
    return msgspec.structs.replace(config, node_name=name)
