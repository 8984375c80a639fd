"""asyncio's own event loop, with a way past it for descriptors that have thousands of events.

Such descriptors are often put on an epoll of their own, nested in the loop's: then every wake-up
takes two `epoll_wait` and a round of the loop. Here they are on the loop's epoll, and its selector
hands their events to one callee before the loop sees any. Only when the loop itself has something
to do (a descriptor or a timer of its own, a callback) does `select` return to it.
"""

import asyncio
import math
import select
import selectors
import time
from collections.abc import Callable
from contextvars import Context
from typing import TypeVarTuple, cast

_Ts = TypeVarTuple("_Ts")

Events = list[tuple[int, int]]  # descriptor, epoll's event mask
# Takes all events of a wake-up, and returns those that are not for it.
Dispatch = Callable[[Events], Events]

# Bounds how long one wake-up keeps the loop from its own.
_MAX_EVENTS = 256


class _Selector(selectors.EpollSelector):
    """The loop's selector. has_work: the loop has got a callback or a timer since it was asked."""

    def __init__(self) -> None:
        super().__init__()
        # Not public, but what `fileno` belongs to, since Python 3.4.
        self.epoll = cast(select.epoll, self._selector)  # type: ignore[attr-defined]
        self.dispatch: Dispatch | None = None
        self.has_work = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As of any selector. Waits for events that are for the loop; passes the others on."""
        dispatch, poll = self.dispatch, self.epoll.poll
        if dispatch is None:
            return super().select(timeout)
        until_s = math.inf if timeout is None else time.monotonic() + timeout
        wait_s: float | None = timeout if timeout is None or timeout > 0 else 0
        self.has_work = False
        while True:
            try:
                events = poll(wait_s, _MAX_EVENTS)  # rounds up to milliseconds
            except InterruptedError:
                return []
            others = dispatch(events)
            if others:
                return self._ready(others)
            if self.has_work or not events:
                return []
            if timeout is not None:
                wait_s = until_s - time.monotonic()
                if wait_s <= 0:
                    return []

    def _ready(self, events: Events) -> list[tuple[selectors.SelectorKey, int]]:
        ready = []
        for fd, mask in events:
            key = self.get_map().get(fd)
            if key is not None:
                read = selectors.EVENT_READ if mask & ~select.EPOLLOUT else 0
                write = selectors.EVENT_WRITE if mask & ~select.EPOLLIN else 0
                ready.append((key, (read | write) & key.events))
        return ready


class DirectLoop(asyncio.SelectorEventLoop):
    """The loop. `epoll` is for the descriptors of who calls `set_dispatch`."""

    def __init__(self) -> None:
        self._direct = _Selector()
        super().__init__(self._direct)

    @property
    def epoll(self) -> select.epoll:
        """The loop's epoll. Register descriptors that the loop does not know."""
        return self._direct.epoll

    def set_dispatch(self, dispatch: Dispatch | None) -> None:
        """Pass the events of such descriptors to this."""
        self._direct.dispatch = dispatch
        self._direct.has_work = True

    def call_soon(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """As of any loop; seen by `select`, which would go on waiting."""
        self._direct.has_work = True
        return super().call_soon(callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """As of any loop; its time may come before the one that `select` waits for."""
        self._direct.has_work = True
        return super().call_at(when, callback, *args, context=context)
