"""`pyproxy cleanup`: remove what steering has put into this host's kernel."""

import argparse
from typing import Any


def register(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "cleanup",
        help="remove pyproxy's nftables table, rule and routing table",
        description=__doc__,
        epilog="pyproxy run never removes them, so that a restart interrupts nobody.",
        allow_abbrev=False,
    )
    command.add_argument("--config", metavar="FILE", help="where mark, table and priority are set")
    command.set_defaults(main=main)


def main(arguments: argparse.Namespace) -> int:
    """Remove everything of ours. Raises PyproxyError when something cannot be removed."""
    import asyncio

    from pyproxy.app.agent import cleanup, steer_settings
    from pyproxy.cli.settings import read_configuration

    settings = steer_settings(read_configuration(arguments.config).pyproxy.steering)
    asyncio.run(cleanup(settings))
    print("removed what pyproxy had put into the kernel")
    return 0
