"""The live table of `pyproxy local` in a terminal: what there is, and what goes through it now.

It has the alternate screen as long as it runs, so that the terminal is afterwards what it was.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.live import Live

from pyproxy.cli.keyboard import keys
from pyproxy.cli.local_choices import Choices, keys_of
from pyproxy.cli.local_picture import picture
from pyproxy.cli.local_traffic import Meter

if TYPE_CHECKING:
    from pyproxy.app.local import State

_INTERVAL_S = 1.0
_NEWS = 5


class Asked(Protocol):
    """Who is told that the user wants to end."""

    asked: asyncio.Event


class Screen:
    """A follower that draws. stop: is told when the user presses `q`."""

    def __init__(self, stop: Asked, console: Console | None = None) -> None:
        self._stop = stop
        self._console = Console() if console is None else console
        self._choices = Choices()
        self._meter = Meter()
        self._news = _News()
        self._state: State | None = None
        self._live: Live | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._to_restore = contextlib.ExitStack()

    async def follow(self, state: "State") -> None:
        """Draw this from now on."""
        is_first, self._state = self._state is None, state
        if is_first:
            self._to_restore.enter_context(self._news.instead_of_the_log())
            self._to_restore.enter_context(keys(self._on_input))
            live = Live(console=self._console, screen=True, auto_refresh=False)
            self._live = self._to_restore.enter_context(live)
            self._tick()
        self._draw()

    async def close(self) -> None:
        """Give the terminal back."""
        if self._timer is not None:
            self._timer.cancel()
        self._live = None
        self._to_restore.close()

    def _tick(self) -> None:
        """Read the counters, and draw."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_INTERVAL_S, self._tick)
        if self._state is not None:
            self._meter.read(self._state, loop.time())
        self._draw()

    def _on_input(self, text: str) -> None:
        for key in keys_of(text):
            self._choices.press(key)
        if self._choices.has_quit:
            self._stop.asked.set()
        self._draw()

    def _draw(self) -> None:
        if self._live is None or self._state is None:
            return
        width, height = self._console.size
        news = (
            [*self._news.lines, "stopping ..."] if self._stop.asked.is_set() else self._news.lines
        )
        drawn = picture(self._state, self._meter, self._choices, news, width=width, height=height)
        self._live.update(drawn, refresh=True)


class _News(logging.Handler):
    """Keeps the last lines of the log: they would tear the table apart."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=_NEWS)

    @contextlib.contextmanager
    def instead_of_the_log(self) -> Iterator[None]:
        """Take the place of the log's handlers, while the block runs."""
        root = logging.getLogger()
        before, root.handlers = root.handlers, [self]
        try:
            yield
        finally:
            root.handlers = before

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.lines.append(f"{record.levelname.lower()}: {record.getMessage()}")
