"""The command line: argv to one command each. Every command imports what it needs when it runs."""

import argparse
import sys
from collections.abc import Sequence

from pyproxy import __version__
from pyproxy.cli import (
    check,
    cleanup,
    completion,
    config,
    demo,
    explain,
    lists,
    local,
    orders,
    status,
    top,
)
from pyproxy.cli import run as run_command
from pyproxy.cli.control_client import NoAgentError
from pyproxy.errors import ConfigError, PyproxyError

EXIT_FAILED = 1
EXIT_USAGE = 2


def parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    root = argparse.ArgumentParser(
        prog="pyproxy",
        description="A userspace Service proxy for Kubernetes.",
        epilog="Documentation: README.md and docs/ of the project.",
        allow_abbrev=False,
    )
    root.add_argument("--version", action="version", version=f"pyproxy {__version__}")
    commands = root.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in (run_command, local, status, lists, top, explain, orders):
        command.register(commands)
    for command in (demo, check, config, cleanup, completion):
        command.register(commands)
    return root


def run(argv: Sequence[str]) -> int:
    """Run one command; return its status: 1 when it failed, 2 for wrong usage or no agent."""
    arguments = parser().parse_args(argv)
    try:
        exit_status: int = arguments.main(arguments)
    except ConfigError as fault:
        for line in fault.faults:
            print(f"pyproxy: {line}", file=sys.stderr)
        return EXIT_USAGE
    except NoAgentError as fault:
        print(f"pyproxy: {fault}", file=sys.stderr)
        return EXIT_USAGE
    except PyproxyError as fault:
        print(f"pyproxy: {fault}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Keep the interpreter's last flush quiet too.
        sys.stderr.close()
        return EXIT_FAILED
    return exit_status
