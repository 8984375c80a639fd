"""How much each Service does: the counters, looked at every few seconds, as rates.

The history is always kept, in steps of five seconds; rates of the last seconds only while somebody
watches. Both passes go over the counters of the Service ports in use, with turns for others.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from pyproxy.app.recent_errors import error_count
from pyproxy.core.history import STEP_S, History, Step, quantile
from pyproxy.metrics import Metrics
from pyproxy.metrics.histogram import CONNECT_BOUNDS_S
from pyproxy.model.service import ServiceName

_IN_A_TURN = 250
# Workers report twice a second: over three of them, a late report moves a rate by a sixth.
_WINDOW = 4


class _Sum:
    """The counts of a Service, over its ports."""

    __slots__ = (
        "active",
        "connect_times",
        "ejected",
        "errors",
        "opened",
        "to_client",
        "to_endpoint",
    )

    def __init__(self) -> None:
        self.opened = self.to_endpoint = self.to_client = self.active = self.ejected = 0
        self.errors = 0
        self.connect_times: list[int] = []


_NOTHING = _Sum()
_Sums = dict[ServiceName, _Sum]


class Rates(NamedTuple):
    """Of one Service: connections and bytes of a second, and what is open and left out now."""

    connections: float = 0.0
    to_endpoint: float = 0.0
    to_client: float = 0.0
    active: int = 0
    ejected: int = 0


class Traffic:
    """Follows the counters. clock: monotonic. steps: how many the history has been given."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float]) -> None:
        self.history = History()
        self.steps = 0
        self._metrics = metrics
        self._clock = clock
        self._step: tuple[float, _Sums] = (clock(), {})
        self._window: deque[tuple[float, _Sums]] = deque(maxlen=_WINDOW)

    async def keep_history(self) -> None:
        """Add a step every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(STEP_S)
            await self.step()

    async def step(self) -> None:
        """Add one step to the history: what came since the last one."""
        before_s, before = self._step
        sums = await self._sums(is_whole=True)
        now_s = self._clock()
        self._step = now_s, sums
        elapsed_s = max(now_s - before_s, 0.001)
        steps: dict[ServiceName, Step] = {}
        for number, (name, total) in enumerate(sums.items(), start=1):
            step = _difference(before.get(name, _NOTHING), total, elapsed_s)
            if step is not None:
                steps[name] = step
            if not number % _IN_A_TURN:
                await asyncio.sleep(0)
        self.history.keep_only(sums)
        for _ in self.history.add(steps):
            await asyncio.sleep(0)
        self.steps += 1

    async def rates(self) -> dict[ServiceName, Rates]:
        """The rates of the last seconds, of each Service that ever had a client."""
        sums, now_s = await self._sums(is_whole=False), self._clock()
        if self._window and now_s - self._window[-1][0] > _WINDOW:
            self._window.clear()  # nobody has watched for a while
        before_s, before = self._window[0] if self._window else self._step
        self._window.append((now_s, sums))
        elapsed_s = max(now_s - before_s, 0.001)
        rates: dict[ServiceName, Rates] = {}
        for number, (name, total) in enumerate(sums.items(), start=1):
            rates[name] = _rates(before.get(name, _NOTHING), total, elapsed_s)
            if not number % _IN_A_TURN:
                await asyncio.sleep(0)
        return rates

    async def _sums(self, *, is_whole: bool) -> _Sums:
        """Add up. is_whole: errors and connect times too."""
        sums: _Sums = {}
        for number, (name, counters) in enumerate(self._metrics.service_ports(), start=1):
            if not number % _IN_A_TURN:
                await asyncio.sleep(0)
            if not counters.opened and not counters.attempts:
                continue  # most of 10,000 Service ports never had a client
            total = sums.setdefault(name.service, _Sum())
            total.opened += counters.opened
            total.to_endpoint += counters.bytes_to_endpoint
            total.to_client += counters.bytes_to_client
            total.active += counters.active
            total.ejected += counters.ejected
            if is_whole:
                total.errors += error_count(counters)
                times = total.connect_times or [0] * len(counters.connect_times)
                pairs = zip(times, counters.connect_times, strict=True)
                total.connect_times = [one + other for one, other in pairs]
        return sums


def _rates(before: _Sum, now: _Sum, elapsed_s: float) -> Rates:
    """A Service that was made anew counts from nothing, and so can go down."""
    return Rates(
        max(0, now.opened - before.opened) / elapsed_s,
        max(0, now.to_endpoint - before.to_endpoint) / elapsed_s,
        max(0, now.to_client - before.to_client) / elapsed_s,
        now.active,
        now.ejected,
    )


def _difference(before: _Sum, now: _Sum, elapsed_s: float) -> Step | None:
    """A step, or None of a Service that did nothing."""
    rates = _rates(before, now, elapsed_s)
    errors = max(0, now.errors - before.errors)
    if not any((*rates[:4], errors)):
        return None
    times_before = before.connect_times or [0] * len(now.connect_times)
    pairs = zip(now.connect_times, times_before, strict=True)
    times = [max(0, one - other) for one, other in pairs]
    return Step(
        *rates[:4],
        errors=errors,
        p50_s=quantile(times, CONNECT_BOUNDS_S, 0.5),
        p95_s=quantile(times, CONNECT_BOUNDS_S, 0.95),
    )
