"""`pyproxy local`: a cluster's Services on this machine's loopback network."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyproxy.errors import ConfigError

if TYPE_CHECKING:
    import signal
    from collections.abc import Sequence

    from pyproxy.app.local import Follower, LocalSettings
    from pyproxy.app.local_served import Cluster
    from pyproxy.app.stop import Stop
    from pyproxy.config import HostPort
    from pyproxy.core.local_names import Scope
    from pyproxy.core.loopback import Rules
    from pyproxy.source.credentials import Context

HOSTS = "/etc/hosts"
_DNS_PORT = 5353

_EPILOG = """\
Each Service gets a loopback address of its own, the same one every time, with its own ports where
this user may bind them (from 1024 on, or as net.ipv4.ip_unprivileged_port_start says; port 80 is
at 8080 else). Each connection goes to a ready endpoint that is picked for it: straight to the pod
where pods can be reached from here, else by a port-forward of its own through the API server. UDP
needs the straight way. ExternalName Services are told, not forwarded.

  pyproxy local -n shop                       the Services of namespace shop
  pyproxy local -A --hosts                    all of them, by name (writes the hosts file: root)
  pyproxy local -n shop --env-file shop.env   WEB_SERVICE_HOST and so on, as pods have them
  pyproxy local -n shop --port web:9000       Service web at local port 9000

Ctrl-C ends it and leaves the machine as it was. Rights needed: deploy/local.

exit status: 0 asked to stop; 1 it could not go on; 2 wrong usage or unreadable configuration
"""


def register(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "local",
        help="reach a cluster's Services from this machine",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_selection(command.add_argument_group("which Services"))
    places = command.add_argument_group("where they are found")
    places.add_argument(
        "--port", action="append", default=[], metavar="NAME:LOCAL",
        help="a local port; also PORT:LOCAL and NAMESPACE/NAME[:PORT]=LOCAL",
    )  # fmt: skip
    places.add_argument(
        "--reserve", action="append", default=[], metavar="NAMESPACE/NAME=ADDRESS",
        help="a loopback address",
    )  # fmt: skip
    places.add_argument(
        "--reserve-file", metavar="FILE", help="lines of what --reserve and --port take"
    )
    _add_names(command.add_argument_group("names"))
    process = command.add_argument_group("process")
    process.add_argument(
        "--upstream", choices=("auto", "direct", "portforward"), default="auto",
        help="how endpoints are reached; auto tries whether pods answer from here",
    )  # fmt: skip
    process.add_argument(
        "-o", "--output", choices=("table", "json"), default="table",
        help="json: one object a line, at each change",
    )  # fmt: skip
    process.add_argument("--plain", action="store_true", help="lines, also in a terminal")
    process.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info"
    )
    process.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    command.set_defaults(main=main)


def _add_selection(group: Any) -> None:
    group.add_argument("--kubeconfig", metavar="FILE", help="else as kubectl finds it")
    group.add_argument(
        "--context", action="append", default=[], metavar="NAME", help="several may be given"
    )
    group.add_argument(
        "-n", "--namespace", action="append", default=[], metavar="NS[,NS]",
        help="else the context's own",
    )  # fmt: skip
    group.add_argument("-A", "--all-namespaces", action="store_true")
    group.add_argument("-l", "--selector", default="", metavar="SELECTOR", help="of labels")


def _add_names(group: Any) -> None:
    group.add_argument("--hosts", action="store_true", help="write names to the hosts file")
    group.add_argument(
        "--hosts-path", metavar="FILE", help="write them to this file instead of /etc/hosts"
    )
    group.add_argument("--dns", metavar="ADDRESS:PORT", help="answer DNS questions for them there")
    group.add_argument(
        "--cluster-domain", default="cluster.local", metavar="DOMAIN", help="of full names"
    )
    group.add_argument("--env-file", metavar="FILE", help="write *_SERVICE_HOST and *_PORT there")


def main(arguments: argparse.Namespace) -> int:
    """Serve until asked to stop. Raises ConfigError with what is wrong with the arguments."""
    import asyncio

    from pyproxy.app import logs
    from pyproxy.app.descriptors import raise_descriptor_limit
    from pyproxy.app.local import Local
    from pyproxy.app.loops import loop_factory
    from pyproxy.app.stop import Stop

    logs.set_up(arguments.log_level, "text")
    raise_descriptor_limit()

    async def run() -> None:
        stop = Stop()
        settings = _settings(arguments, await _contexts(arguments))
        followers = [*_followers(arguments, _scope(arguments, settings)), _view(arguments, stop)]
        with stop.on_signals(_signals()):
            await Local(settings, followers).run(stop)

    with asyncio.Runner(loop_factory=loop_factory(arguments.loop)) as runner:
        runner.run(run())
    return 0


def _signals() -> "list[signal.Signals]":
    """The signals that ask to stop: a terminal that is closed does as well, unless by nohup."""
    import signal

    from pyproxy.app.stop import SIGNALS

    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [*SIGNALS, *([] if is_ignored else [signal.SIGHUP])]


async def _contexts(arguments: argparse.Namespace) -> "list[Context]":
    from pyproxy.source.credentials import CredentialSettings, context_of

    if arguments.all_namespaces and arguments.namespace:
        raise ConfigError("-n and -A: choose one")
    _namespaces(arguments)
    wanted = list(dict.fromkeys(arguments.context)) or [None]
    return [
        await context_of(CredentialSettings(kubeconfig=arguments.kubeconfig, context=context))
        for context in wanted
    ]


def _settings(arguments: argparse.Namespace, contexts: "list[Context]") -> "LocalSettings":
    from pyproxy.app.local import LocalSettings

    return LocalSettings(
        clusters=tuple(_cluster(arguments, context) for context in contexts),
        upstream=arguments.upstream,
        rules=_rules(arguments),
    )


def _cluster(arguments: argparse.Namespace, context: "Context") -> "Cluster":
    from pyproxy.app.local_served import Cluster
    from pyproxy.source.apiserver import ApiServerSettings, Selection

    return Cluster(
        context=context.name,
        api=ApiServerSettings(
            kubeconfig=arguments.kubeconfig,
            context=context.name or None,
            selection=Selection(
                _namespaces(arguments) or _own(arguments, context), arguments.selector
            ),
        ),
    )


def _own(arguments: argparse.Namespace, context: "Context") -> tuple[str, ...]:
    return () if arguments.all_namespaces else (context.namespace,)


def _namespaces(arguments: argparse.Namespace) -> tuple[str, ...]:
    """The namespaces that are asked for. Raises ConfigError for what cannot be one's name."""
    from pyproxy.core.local_service import LABEL

    words = [word.strip() for text in arguments.namespace for word in text.split(",")]
    namespaces = tuple(dict.fromkeys(filter(None, words)))
    faults = [f"-n {word}: this is no name" for word in namespaces if not LABEL.fullmatch(word)]
    if faults:
        raise ConfigError(*faults)
    return namespaces


def _rules(arguments: argparse.Namespace) -> "Rules":
    """What holds on this machine, and what the arguments ask for. Raises ConfigError."""
    from pyproxy.core.local_options import parse_lines, parse_port_mapping, parse_reservation
    from pyproxy.core.loopback import Rules
    from pyproxy.names import machine

    reservations = [parse_reservation(text) for text in arguments.reserve]
    mappings = [parse_port_mapping(text) for text in arguments.port]
    if arguments.reserve_file:
        try:
            text = Path(arguments.reserve_file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as fault:
            raise ConfigError(f"--reserve-file {arguments.reserve_file}: {fault}") from fault
        more_reservations, more_mappings = parse_lines(text)
        reservations += more_reservations
        mappings += more_mappings
    return Rules(
        single_address=not machine.has_loopback_network(),
        first_port=machine.first_port(),
        reservations=tuple(reservations),
        mappings=tuple(mappings),
    )


def _scope(arguments: argparse.Namespace, settings: "LocalSettings") -> "Scope":
    import socket

    from pyproxy.core.local_names import Scope

    host = socket.gethostname().lower()
    namespaces: dict[str, None] = {}
    for cluster in settings.clusters:
        if cluster.api.selection is not None:
            namespaces.update(dict.fromkeys(cluster.api.selection.namespaces))
    return Scope(
        contexts=tuple(cluster.context for cluster in settings.clusters),
        namespaces=tuple(namespaces),
        domain=arguments.cluster_domain,
        taken=frozenset({host, host.partition(".")[0]}),
    )


def _followers(arguments: argparse.Namespace, scope: "Scope") -> "Sequence[Follower]":
    from pyproxy.app.local_names import DnsFollower, env_follower, hosts_follower

    followers: list[Follower] = []
    if arguments.hosts or arguments.hosts_path:
        followers.append(hosts_follower(Path(arguments.hosts_path or HOSTS), scope))
    if arguments.dns:
        followers.append(DnsFollower(*_dns(arguments.dns), scope))
    if arguments.env_file:
        followers.append(env_follower(Path(arguments.env_file), scope))
    return followers


def _dns(text: str) -> "HostPort":
    from pyproxy.cli.flags import host_port

    try:
        found = host_port(_DNS_PORT)(text)
    except ValueError as fault:
        raise ConfigError(f"--dns {text}: {fault}") from fault
    if found is None:
        raise ConfigError("--dns: it takes ADDRESS:PORT, such as 127.0.0.1:5353")
    return found


def _view(arguments: argparse.Namespace, stop: "Stop") -> "Follower":
    from pyproxy.cli.local_view import JsonLines, Lines

    if arguments.output == "json":
        return JsonLines(sys.stdout)
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not arguments.plain:
        from pyproxy.cli.keyboard import is_in_foreground
        from pyproxy.cli.local_screen import Screen

        if is_in_foreground():
            return Screen(stop)
    return Lines(sys.stdout)
