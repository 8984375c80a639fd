"""`pyproxy top`: the busiest Services of the running agent, live."""

import argparse
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pyproxy.cli import control_client
from pyproxy.cli.paint import Paint, lines, size

if TYPE_CHECKING:
    from rich.text import Text

_INTERVAL_S = 1.0
_HEAD = ("SERVICE", "PORT", "NEW/S", "ACTIVE", "FAILED/S", "SENT/S", "RECEIVED/S", "ENDPOINTS")
# What a terminal is taken to show when it does not say.
_ROWS_PIPED = 20

Row = dict[str, Any]
_Key = tuple[str, str, str, str]


def register(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "top",
        help="watch the busiest Services of the running agent",
        description=f"{__doc__} Ends with ctrl-C; piped, it measures one second and ends.",
        allow_abbrev=False,
    )
    control_client.add_socket(command)
    command.set_defaults(main=main)


def main(arguments: argparse.Namespace) -> int:
    """Show rates until interrupted, or once."""
    rates = Rates()
    rates.read(_services(arguments), time.monotonic())
    if not sys.stdout.isatty():
        time.sleep(_INTERVAL_S)
        rates.read(_services(arguments), time.monotonic())
        for line in rates.table(_ROWS_PIPED):
            print(line)
        return 0
    from rich.console import Console
    from rich.live import Live

    console = Console()
    with Live(_picture(rates, console.height), console=console, screen=True) as live:
        while True:
            time.sleep(_INTERVAL_S)
            rates.read(_services(arguments), time.monotonic())
            live.update(_picture(rates, console.height), refresh=True)


def _services(arguments: argparse.Namespace) -> list[Row]:
    rows: list[Row] = control_client.ask(arguments.control_socket, "GET", "/services")["services"]
    return rows


def _picture(rates: "Rates", height: int) -> "Text":
    from rich.text import Text

    told = rates.table(max(1, height - 2))
    return Text.from_ansi("\n".join([*told, "", "ctrl-C ends"]), no_wrap=True)


class Rates:
    """Two readings of the counters, and what passes in a second between them."""

    def __init__(self) -> None:
        self._before: dict[_Key, Row] = {}
        self._now: dict[_Key, Row] = {}
        self._at_s = 0.0
        self._passed_s = 0.0

    def read(self, rows: list[Row], now_s: float) -> None:
        """Take in the counters as they are now."""
        self._before, self._now = self._now, {_key(row): row for row in rows}
        self._passed_s, self._at_s = now_s - self._at_s, now_s

    def table(self, most: int) -> list[str]:
        """The head, and the busiest Service ports: those with the most new or live connections."""
        rows = [row for row in self._now.values() if not row["not_proxied"]]
        rows.sort(key=lambda row: (-self._rate(row, _opened), -_active(row)))
        return lines(_HEAD, [self._words(row) for row in rows[: most - 1]], Paint())

    def _words(self, row: Row) -> list[str]:
        usable, total = row["endpoints"]["usable"], row["endpoints"]["total"]
        return [
            f"{row['namespace']}/{row['name']}",
            f"{row['port'] or '-'}/{row['protocol']}",
            f"{self._rate(row, _opened):.1f}",
            str(_active(row)),
            f"{self._rate(row, _failed):.1f}",
            size(self._rate(row, lambda row: row["bytes_to_endpoint"])),
            size(self._rate(row, lambda row: row["bytes_to_client"])),
            f"{usable}/{total}",
        ]

    def _rate(self, row: Row, count: Callable[[Row], int]) -> float:
        before = self._before.get(_key(row))
        if before is None or self._passed_s <= 0:
            return 0.0
        return max(0.0, (count(row) - count(before)) / self._passed_s)


def _key(row: Row) -> _Key:
    return row["namespace"], row["name"], row["port"], row["protocol"]


def _opened(row: Row) -> int:
    return int(row["connections"]["opened"])


def _active(row: Row) -> int:
    return int(row["connections"]["active"])


def _failed(row: Row) -> int:
    return sum(count for result, count in row["connect_attempts"].items() if result != "ok")
