"""A coarse timer that runs only while there is something to wait for."""

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger(__name__)


class Ticker:
    """Calls `tick` every `interval_s` seconds from `wake` on, until it returns False.

    One of these watches thousands of deadlines. A loop timer for each connection would be made and
    cancelled at every connection, and hardly ever fire.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, interval_s: float, tick: Callable[[], bool]
    ) -> None:
        self._loop = loop
        self._interval_s = interval_s
        self._tick = tick
        self._timer: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        """Start ticking, if it is not; the first tick comes after one interval."""
        if self._timer is None:
            self._timer = self._loop.call_later(self._interval_s, self._run)

    def stop(self) -> None:
        """Tick no more until the next `wake`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _run(self) -> None:
        self._timer = None
        try:
            goes_on = self._tick()
        except Exception:  # the deadlines that it watches must not be lost with one fault
            log.exception("a fault in a timer; its next tick goes on")
            goes_on = True
        if goes_on:
            self.wake()
