"""`pyproxy explain`: what happens to a connection to a Service address, and why."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from pyproxy.cli import control_client
from pyproxy.errors import ConfigError

if TYPE_CHECKING:
    from pyproxy.config import ProxyConfig
    from pyproxy.core.explanation import Explanation
    from pyproxy.core.store import Store
    from pyproxy.core.target import Target
    from pyproxy.model.node import Node

_EPILOG = """\
targets:
  10.96.0.10:53/UDP        an address and port (TCP when no protocol is named)
  [fd00:10:96::a]:53/UDP   likewise
  default/web              every address of a Service
  default/web:http         those of one port, by its name or number
  10.96.0.1:443,from=IP    as seen from a client's address

Without --manifests the running agent is asked; it also tries to connect the endpoints.

exit status: 0 every target is forwarded and every check well, 1 some is not, 2 wrong usage or
input, or no agent answers
"""


def register(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "explain",
        help="say where a connection to a Service goes, or why it does not",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_argument("targets", nargs="*", metavar="TARGET")
    command.add_argument("--from", dest="client", default="", metavar="IP", help="the client")
    command.add_argument(
        "--manifests",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH",
        help="files or directories of Services, EndpointSlices, Nodes and ServiceCIDRs",
    )
    command.add_argument("--node", default="", metavar="NAME", help="the node that decides")
    command.add_argument(
        "--local-address",
        nargs="+",
        action="extend",
        default=[],
        metavar="IP",
        help="further addresses of that node's interfaces",
    )
    command.add_argument("--config", metavar="FILE", help="a KubeProxyConfiguration")
    command.add_argument("-o", "--output", choices=("text", "json"), default="text")
    control_client.add_socket(command)
    command.set_defaults(main=main)


def main(arguments: argparse.Namespace) -> int:
    """Explain every target. Raises ConfigError for anything that cannot be read."""
    if not arguments.targets:
        raise ConfigError(
            "explain needs a TARGET; --manifests takes every word after it, so write the targets"
            " first, or -- before them"
        )
    targets = _targets(arguments)
    explanations = _offline(arguments, targets) if arguments.manifests else _live(arguments)
    if arguments.output == "json":
        _print_json(explanations)
    else:
        _print_text(targets, explanations)
    return 0 if all(map(_is_well, explanations)) else 1


def _is_well(explanation: "Explanation") -> bool:
    return explanation.action == "forward" and all(check.ok for check in explanation.checks)


def _offline(arguments: argparse.Namespace, targets: "list[Target]") -> "list[Explanation]":
    """What the files say."""
    from pyproxy.core.explain import explain

    store = _store(arguments)
    return [explain(store, target) for target in targets]


def _live(arguments: argparse.Namespace) -> "list[Explanation]":
    """What the running agent says, which knows its node by itself."""
    import msgspec

    from pyproxy.core.explanation import Explanation

    if arguments.node or arguments.local_address or arguments.config:
        raise ConfigError(
            "--node, --local-address and --config are for --manifests PATH: without it the running"
            " agent is asked, which has its own"
        )
    body = {"targets": arguments.targets, "client": arguments.client}
    try:
        answer = control_client.ask(arguments.control_socket, "POST", "/explain", body)
    except control_client.NoAgentError as fault:
        hint = "or explain from files, with --manifests PATH"
        raise control_client.NoAgentError(f"{fault}; {hint}") from fault
    return msgspec.convert(answer["explanations"], list[Explanation])


def _targets(arguments: argparse.Namespace) -> "list[Target]":
    from pyproxy.core.target import parse_target

    return [parse_target(text, arguments.client) for text in arguments.targets]


def _store(arguments: argparse.Namespace) -> "Store":
    from pyproxy.core.store import Store
    from pyproxy.model.node import Node
    from pyproxy.source.manifests import load

    lists, faults = load(arguments.manifests)
    nodes = {node.name: node for event in lists for node in event.values if isinstance(node, Node)}
    config = _config(arguments)
    if config.node_name and config.node_name not in nodes:
        faults.append(f"node {config.node_name}: the manifests hold no such Node")
    store = Store(config, _local_addresses(arguments, nodes.get(config.node_name)))
    for event in lists:
        faults.extend(note.text for note in store.apply(event).notes)
    for fault in faults:
        print(f"pyproxy: {fault}", file=sys.stderr)
    return store


def _config(arguments: argparse.Namespace) -> "ProxyConfig":
    import msgspec

    from pyproxy.cli.settings import read_config

    config = read_config(arguments.config)
    return msgspec.structs.replace(config, node_name=arguments.node or config.node_name)


def _local_addresses(arguments: argparse.Namespace, node: "Node | None") -> frozenset[str]:
    from pyproxy.core.nodeview import LOOPBACK
    from pyproxy.model.addresses import parse_address

    addresses = {*LOOPBACK.values(), *(node.addresses if node else ())}
    for text in arguments.local_address:
        try:
            addresses.add(parse_address(text))
        except ValueError as fault:
            raise ConfigError(f"--local-address {text}: {fault}") from fault
    return frozenset(addresses)


def _print_json(explanations: "list[Explanation]") -> None:
    import msgspec

    for explanation in explanations:
        print(msgspec.json.encode(explanation.to_json()).decode())


def _print_text(targets: "list[Target]", explanations: "list[Explanation]") -> None:
    for number, (target, explanation) in enumerate(zip(targets, explanations, strict=True)):
        if number:
            print()
        client = f" from {target.client}" if target.client else ""
        print(f"{target}{client}")
        for part in explanation.frontends or (explanation,):
            _print_part(part, is_one_of_several=explanation.frontends is not None)


def _print_part(explanation: "Explanation", *, is_one_of_several: bool) -> None:
    indent = "  "
    if is_one_of_several:
        where = explanation.target
        print(f"{indent}{_host_port(where['address'], where['port'])}/{where['protocol']}")
        indent = "    "
    print(f"{indent}{_headline(explanation)}")
    width = max(len(check.check) for check in explanation.checks)
    good, bad = _marks()
    for check in explanation.checks:
        print(f"{indent}  {good if check.ok else bad} {check.check:{width}}  {check.detail}")
        if check.fix:
            print(f"{indent}    {'':{width}}  fix: {check.fix}")


def _headline(explanation: "Explanation") -> str:
    match explanation.action:
        case "forward":
            seen = (
                "the client's address" if explanation.source == "client" else "the node's address"
            )
            text = f"forwarded to {', '.join(explanation.endpoints)} with {seen} as its source"
            if explanation.affinity_seconds is not None:
                text += f"; a client keeps its endpoint for {explanation.affinity_seconds} s"
            return text
        case "reject":
            return f"rejected at once (connection refused): {explanation.reason}"
        case "drop":
            return f"dropped in silence (the client times out): {explanation.reason}"
        case "none":
            return f"not proxied: {explanation.reason}"


def _host_port(address: str, port: int) -> str:
    from pyproxy.model.addresses import join_host_port

    return join_host_port(address, port)


def _marks() -> tuple[str, str]:
    """A tick and a cross, where the terminal's encoding has them."""
    try:
        "✓✗".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "ok", "NO"
    return "✓", "✗"
