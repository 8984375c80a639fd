"""`pyproxy drain` and `pyproxy log-level`: what the running agent can be told."""

import argparse
from typing import Any

from pyproxy.cli import control_client

_DRAIN = """\
Let the running agent take no new clients, as SIGTERM does, but stay: live connections go on for as
long as they like, and /healthz answers 503. For an agent beside it to take over, or before a node
is emptied. There is no way back but to start it anew; SIGTERM ends it.
"""


def register(commands: Any) -> None:
    """Add the commands to the parser."""
    drain = commands.add_parser(
        "drain",
        help="let the running agent take no new clients",
        description=_DRAIN,
        allow_abbrev=False,
    )
    control_client.add_socket(drain)
    drain.set_defaults(main=main_drain)
    level = commands.add_parser(
        "log-level",
        help="change how much the running agent logs",
        description="Let the running agent and its workers log from this level on.",
        allow_abbrev=False,
    )
    level.add_argument("level", choices=("debug", "info", "warning", "error"), metavar="LEVEL")
    control_client.add_socket(level)
    level.set_defaults(main=main_log_level)


def main_drain(arguments: argparse.Namespace) -> int:
    """Ask for it."""
    control_client.ask(arguments.control_socket, "POST", "/drain", {})
    print("draining: it takes no new clients")
    return 0


def main_log_level(arguments: argparse.Namespace) -> int:
    """Ask for it."""
    body = {"level": arguments.level}
    control_client.ask(arguments.control_socket, "POST", "/log-level", body)
    print(f"logging from level {arguments.level} on")
    return 0
