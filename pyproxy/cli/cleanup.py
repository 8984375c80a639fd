"""`pyproxy cleanup`: remove what steering has put into this host's kernel, or names from a file."""

import argparse
from pathlib import Path
from typing import Any

from pyproxy.errors import ConfigError, PyproxyError


def register(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "cleanup",
        help="remove pyproxy's nftables table, rule and routing table; or its names (--hosts)",
        description=__doc__,
        epilog="pyproxy run never removes what it has put into the kernel, so that a restart"
        " interrupts nobody. pyproxy local takes its names out of the hosts file when it ends; what"
        " it left there when it was killed goes with its next start, or with --hosts.",
        allow_abbrev=False,
    )
    command.add_argument("--config", metavar="FILE", help="where mark, table and priority are set")
    command.add_argument(
        "--hosts",
        action="store_true",
        help="only what a dead pyproxy local has left in the hosts file",
    )
    command.add_argument("--hosts-path", metavar="FILE", help="this file instead of /etc/hosts")
    command.set_defaults(main=main)


def main(arguments: argparse.Namespace) -> int:
    """Remove everything of ours. Raises PyproxyError when something cannot be removed."""
    if arguments.hosts or arguments.hosts_path:
        if arguments.config:
            raise ConfigError("--config and --hosts: choose one")
        return _clean_hosts(Path(arguments.hosts_path or "/etc/hosts"))
    return _clean_kernel(arguments.config)


def _clean_kernel(config: str | None) -> int:
    import asyncio

    from pyproxy.app.steering import cleanup, steer_settings
    from pyproxy.cli.settings import read_configuration

    settings = steer_settings(read_configuration(config).pyproxy.steering)
    asyncio.run(cleanup(settings))
    print("removed what pyproxy had put into the kernel")
    return 0


def _clean_hosts(path: Path) -> int:
    from pyproxy.names.hosts import cleanup_hosts

    alive = cleanup_hosts(path)
    if alive:
        running = ", ".join(sorted(str(author.pid) for author in alive))
        raise PyproxyError(
            f"{path}: the names of processes {running} stay, because these run: end them"
        )
    print(f"no names of pyproxy are in {path}")
    return 0
