"""The live table of `pyproxy local` in a terminal: what there is, and what goes through it now.

Keys: `/` begins a filter (Enter ends it, Escape clears it), `s` sorts by the next column, `q` ends.
"""

import asyncio
import contextlib
import logging
import os
import sys
import termios
import tty
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType

    from pyproxy.app.local import State
    from pyproxy.core.local_table import Row
    from pyproxy.metrics import Metrics

_INTERVAL_S = 1.0
_SORTS = ("name", "connections", "rate", "errors")
_NEWS = 5
_ESCAPE = "\x1b"


class Asked(Protocol):
    """Who is told that the user wants to end."""

    asked: asyncio.Event


class Traffic(NamedTuple):
    """What went through a Service, so far."""

    active: int = 0
    opened: int = 0
    size: int = 0
    errors: int = 0


class _News(logging.Handler):
    """Keeps the last lines of the log: they would tear the table apart."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=_NEWS)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname.lower()}: {record.getMessage()}")


class Screen:
    """A follower that draws. stop: is told when the user presses `q`."""

    def __init__(self, stop: Asked, console: Console | None = None) -> None:
        self._stop = stop
        self._console = Console() if console is None else console
        self._state: State | None = None
        self._live: Live | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._before: dict[Row, Traffic] = {}
        self._rates: dict[Row, Traffic] = {}
        self._filter = ""
        self._is_typing = False
        self._sort = 0
        self._news = _News()
        self._handlers: list[logging.Handler] = []
        self._mode: list[object] | None = None

    async def follow(self, state: "State") -> None:
        """Draw this from now on."""
        self._state = state
        if self._live is None:
            self._start()
        self._draw()

    async def close(self) -> None:
        """Give the terminal back, with the last table on it."""
        if self._timer is not None:
            self._timer.cancel()
        if self._live is None:
            return
        self._live.stop()
        logging.getLogger().handlers = self._handlers
        if self._mode is not None:
            asyncio.get_running_loop().remove_reader(sys.stdin)
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._mode)  # type: ignore[arg-type]

    def on_key(self, key: str) -> None:
        """Do what a key stands for."""
        if self._is_typing:
            self._type(key)
        elif key == "q":
            self._stop.asked.set()
        elif key == "s":
            self._sort = (self._sort + 1) % len(_SORTS)
        elif key == "/":
            self._is_typing = True
        elif key == _ESCAPE:
            self._filter = ""
        self._draw()

    def render(self) -> "RenderableType":
        """What stands in the terminal now."""
        state = self._state
        if state is None:
            return Text("waiting for the cluster ...", style="dim")
        rows = [row for row in state.rows if self._filter in str(row.claimant)]
        rows.sort(key=self._rank)
        room = max(3, self._console.height - 6 - len(self._news.lines))
        parts: list[RenderableType] = [_table(rows[:room], state, self._rates, self._traffic)]
        if len(rows) > room:
            parts.append(Text(f"and {len(rows) - room} more; / filters", style="dim"))
        parts += [Text(line, style="yellow", overflow="ellipsis") for line in self._news.lines]
        return Group(*parts, self._status(state))

    def _start(self) -> None:
        root = logging.getLogger()
        self._handlers, root.handlers = root.handlers, [self._news]
        if sys.stdin.isatty():
            self._mode = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
            asyncio.get_running_loop().add_reader(sys.stdin, self._on_input)
        self._live = Live(self.render(), console=self._console, auto_refresh=False)
        self._live.start()
        self._tick()

    def _tick(self) -> None:
        """Take the rates of the last interval, and draw."""
        if self._state is not None:
            now = {row: self._traffic(row) for row in self._state.rows}
            self._rates = {
                row: Traffic(*(a - b for a, b in zip(t, self._before.get(row, t), strict=True)))
                for row, t in now.items()
            }
            self._before = now
        self._draw()
        self._timer = asyncio.get_running_loop().call_later(_INTERVAL_S, self._tick)

    def _draw(self) -> None:
        if self._live is not None:
            self._live.update(self.render(), refresh=True)

    def _on_input(self) -> None:
        with contextlib.suppress(OSError):
            for key in os.read(sys.stdin.fileno(), 64).decode(errors="ignore"):
                self.on_key(key)

    def _type(self, key: str) -> None:
        if key in {"\n", "\r"}:
            self._is_typing = False
        elif key == _ESCAPE:
            self._is_typing, self._filter = False, ""
        elif key in {"\x7f", "\b"}:
            self._filter = self._filter[:-1]
        elif key.isprintable():
            self._filter += key

    def _rank(self, row: "Row") -> tuple[int, object]:
        traffic, rate = self._traffic(row), self._rates.get(row, Traffic())
        first = (0, -traffic.active, -rate.size, -traffic.errors)[self._sort]
        return first, row.claimant

    def _traffic(self, row: "Row") -> Traffic:
        assert self._state is not None
        metrics = self._state.metrics.get(row.claimant.context)
        return Traffic() if metrics is None else _traffic_of(row, metrics)

    def _status(self, state: "State") -> Text:
        ways = ", ".join(f"{context or 'cluster'} {way}" for context, way in state.ways.items())
        cursor = "_" if self._is_typing else ""
        chosen = f"  filter: {self._filter}{cursor}" if self._filter or self._is_typing else ""
        keys = f"/ filter  s sort ({_SORTS[self._sort]})  q quit"
        return Text(f"upstream: {ways}   {keys}{chosen}", style="dim")


def _traffic_of(row: "Row", metrics: "Metrics") -> Traffic:
    """The counters of a row's ports. `LocalCluster` serves a pod as Service NAME.POD."""
    claimant = row.claimant
    name = f"{claimant.name}.{claimant.pod}" if claimant.pod else claimant.name
    active = opened = size = errors = 0
    for key, counters in metrics.service_ports():
        if (key.namespace, key.name) == (claimant.namespace, name):
            active += counters.active
            opened += counters.opened
            size += counters.bytes_to_client + counters.bytes_to_endpoint
            errors += sum(n for why, n in counters.closed.items() if why in _ERRORS)
    return Traffic(active, opened, size, errors)


_ERRORS = frozenset({"no_endpoint", "connect_failed", "endpoint_reset", "error"})


def _table(
    rows: "Iterable[Row]",
    state: "State",
    rates: "dict[Row, Traffic]",
    traffic: "object",
) -> Table:
    """One line for each row."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    several = len(state.ways) > 1
    for heading in (("CONTEXT",) if several else ()) + ("SERVICE", "ADDRESS", "PORTS"):
        table.add_column(heading, overflow="fold")
    for heading in ("READY", "CONNS", "NEW/S", "BYTES/S", "ERRORS"):
        table.add_column(heading, justify="right")
    table.add_column("NOTE", style="dim", overflow="ellipsis", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row, rates.get(row, Traffic()), traffic(row), several=several))  # type: ignore[operator]
    return table


def _cells(row: "Row", rate: Traffic, now: Traffic, *, several: bool) -> "list[RenderableType]":
    ports = " ".join(
        (str(p.local) if p.local == p.port else f"{p.port}->{p.local}")
        + ("" if p.protocol == "TCP" else f"/{p.protocol}")
        for p in row.ports
    )
    ready = Text(str(row.endpoints), style="green" if row.endpoints else "red")
    cells: list[RenderableType] = [Text(row.claimant.context)] if several else []
    return [
        *cells,
        Text(str(row.claimant)),
        Text(row.address or "-"),
        Text(ports or "-"),
        ready,
        str(now.active),
        str(rate.opened),
        _size(rate.size),
        Text(str(now.errors), style="red" if now.errors else ""),
        Text(row.note),
    ]


def _size(size: float) -> str:
    for unit in ("", "K", "M"):
        if size < 1000:
            return f"{size:.0f}{unit}"
        size /= 1000
    return f"{size:.1f}G"
