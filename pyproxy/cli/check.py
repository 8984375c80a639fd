"""`pyproxy check`: whether this node can run pyproxy, and what to mend where it cannot."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyproxy.ops.check import Finding

_EPILOG = """\
It looks and asks, and changes nothing. A line with ! tells what pyproxy can do without.

exit status: 0 it can run, 1 it cannot, 2 wrong usage or unreadable configuration
"""


def register(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "check",
        help="say whether this node can run pyproxy",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_argument("--config", metavar="FILE", help="a configuration file")
    command.add_argument(
        "--steer",
        choices=("none", "nft"),
        help="what it is to run with; else what the file says, else nft",
    )
    command.add_argument("--kubeconfig", metavar="FILE", help="else as pyproxy run")
    command.add_argument("--context", metavar="NAME", help="of the kubeconfig")
    command.add_argument("--master", metavar="URL", help="the API server, instead of the one named")
    command.add_argument("-o", "--output", choices=("text", "json"), default="text")
    command.set_defaults(main=main)


def main(arguments: argparse.Namespace) -> int:
    """Check everything; return 0, or 1 when something that is required is missing."""
    import asyncio

    from pyproxy.ops.check import can_run

    findings = asyncio.run(_findings(arguments))
    if arguments.output == "json":
        _print_json(findings)
    else:
        _print_text(findings)
    return 0 if can_run(findings) else 1


async def _findings(arguments: argparse.Namespace) -> "list[Finding]":
    from pyproxy.cli.settings import read_configuration
    from pyproxy.core.apiservers import ApiServers
    from pyproxy.errors import ConfigError
    from pyproxy.ops.check import Steer, ThisMachine, api_findings, no_credentials, node_findings
    from pyproxy.source.client import ApiClient
    from pyproxy.source.credentials import CredentialSettings
    from pyproxy.steer.nft import OLDEST

    configuration = read_configuration(arguments.config)
    asked = arguments.steer or configuration.pyproxy.steer
    steer: Steer = "none" if asked == "none" else "nft"
    mark = configuration.pyproxy.steering.mark
    findings = await node_findings(ThisMachine(), steer, OLDEST, mark)
    credentials = CredentialSettings(
        kubeconfig=arguments.kubeconfig or configuration.kubeconfig,
        context=arguments.context,
        master=arguments.master,
    )
    node_name = configuration.proxy.node_name
    try:
        async with ApiClient(credentials, ApiServers(), connect_timeout_s=10.0) as client:
            findings += await api_findings(client, client.credentials.origin, node_name)
    except ConfigError as fault:
        findings.append(no_credentials(fault))
    return findings


def _print_json(findings: "list[Finding]") -> None:
    import msgspec

    from pyproxy.ops.check import can_run

    print(msgspec.json.encode({"ok": can_run(findings), "checks": findings}).decode())


def _print_text(findings: "list[Finding]") -> None:
    from pyproxy.ops.check import can_run

    good, bad = _marks()
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        mark = good if finding.ok else bad if finding.required else "!".ljust(len(bad))
        print(f"{mark} {finding.check:{width}}  {finding.detail}")
        if not finding.ok:
            print(f"{'':{len(bad)}} {'':{width}}  fix: {finding.fix}")
    print("this node can run pyproxy" if can_run(findings) else "this node cannot run pyproxy")


def _marks() -> tuple[str, str]:
    """A tick and a cross, where the terminal's encoding has them."""
    try:
        "✓✗".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "ok", "NO"
    return "✓", "✗"
