"""Doing something whenever it is asked for, but not more often than a minimum interval.

The rule is kube-proxy's (v1.36 `bounded_frequency_runner.go`, PARITY 17.3 to 17.7): an idle pacer
acts at once, requests during a run or its interval coalesce, and a failed run is tried again.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from pyproxy.errors import PyproxyError

log = logging.getLogger(__name__)


class Pacer:
    """Runs `action` after `request`, one run at a time.

    min_interval_s: between the end of a run and the start of the next. retry_s: after a failure.
    """

    def __init__(
        self, action: Callable[[], Awaitable[None]], *, min_interval_s: float, retry_s: float
    ) -> None:
        self._action = action
        self._min_interval_s = min_interval_s
        self._retry_s = retry_s
        self._requested = asyncio.Event()

    def request(self) -> None:
        """Ask for a run."""
        self._requested.set()

    async def run(self) -> None:
        """Run the action as asked, until cancelled."""
        while True:
            await self._requested.wait()
            self._requested.clear()
            try:
                await self._action()
            except PyproxyError as fault:
                log.warning("an update failed: %s; it is tried again in %g s", fault, self._retry_s)
                await self._wait_for_retry()
            except Exception:  # one bad table must not end the updates for good
                log.exception("an update failed; it is tried again in %g s", self._retry_s)
                await self._wait_for_retry()
            else:
                await asyncio.sleep(self._min_interval_s)

    async def _wait_for_retry(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._retry_s):
                await self._requested.wait()  # a new event may mend it sooner
        self._requested.set()
