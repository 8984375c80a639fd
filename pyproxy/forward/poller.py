"""One edge-triggered epoll, nested in the event loop, for all sockets of the forwarder.

The loop sees one descriptor, the epoll's own. A socket is registered once, for everything, and
never changed: two system calls a connection less than add_reader and add_writer, and no Handle
objects (FINDINGS: half the user time of the same relay on add_reader).

Edge-triggered means that readiness is told once (epoll(7)): a watcher goes on until the kernel says
EAGAIN, or asks to be resumed. Events are hints; whoever gets one verifies it with a system call.
"""

import asyncio
import logging
import select
from collections.abc import Callable
from typing import Protocol

from pyproxy.aio.direct_loop import DirectLoop, Events
from pyproxy.forward.burst import Burst

log = logging.getLogger(__name__)

IN = select.EPOLLIN
OUT = select.EPOLLOUT
ERROR = select.EPOLLERR
HANGUP = select.EPOLLHUP
PEER_ENDED = select.EPOLLRDHUP
URGENT = select.EPOLLPRI
READABLE = IN | PEER_ENDED | HANGUP | ERROR
# Edge-triggered. Of an endpoint's connection one wants to know everything; of a client's, whether
# there is room, only once there was none. The kernel tells of room again whenever the state of a
# connection changes: four of five short ones had such an event, for nothing, after their answer.
CLIENT = IN | PEER_ENDED | URGENT | select.EPOLLET
CONNECTION = CLIENT | OUT
# Level-triggered: told again as long as a client waits, so that nobody has to accept until there is
# none, which costs a call and an exception.
LISTENER = IN
# A datagram that finds no room is lost, so nobody waits for room. To be told of it would cost an
# event for each datagram sent: the kernel says so whenever one has left (sock_def_write_space).
DATAGRAMS = IN | select.EPOLLET

# Bounds how long one wake-up keeps the loop from its timers and from the other callbacks.
_MAX_EVENTS = 256


class Closable(Protocol):
    """A socket, as far as closing goes."""

    def fileno(self) -> int:
        """Return the descriptor."""

    def close(self) -> None:
        """Close it."""


class Watcher(Protocol):
    """Owns one or two descriptors."""

    def on_events(self, fd: int, events: int) -> None:
        """Handle what epoll said of a descriptor."""

    def on_resume(self) -> None:
        """Go on with what was left off for fairness; it may have been closed since."""

    def on_fault(self) -> None:
        """Close after an unexpected exception in one of the others. Must not raise."""


class Poller:
    """Hands the events of descriptors to their watchers. Owns the epoll.

    loop: that it is nested in. clock: monotonic, in seconds.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float]) -> None:
        self.loop = loop
        self.clock = clock
        self._watchers: dict[int, Watcher] = {}
        self._resumed: list[Watcher] = []
        self._closing: list[Closable] = []
        self._is_dispatching = False
        self._faults = Burst(clock)
        if isinstance(loop, DirectLoop):
            self._epoll = loop.epoll
            loop.set_dispatch(self._dispatch)
        else:
            self._epoll = select.epoll()
            loop.add_reader(self._epoll.fileno(), self._on_readable)

    @property
    def watched(self) -> int:
        """How many descriptors are watched."""
        return len(self._watchers)

    def watch(self, fd: int, watcher: Watcher, events: int = CONNECTION) -> None:
        """Report the events of a descriptor from now on, and what it is ready for already."""
        self._epoll.register(fd, events)
        self._watchers[fd] = watcher

    def mute(self, fd: int) -> None:
        """Report nothing of a descriptor until `report`: nobody would act on it."""
        self._epoll.modify(fd, 0)

    def report(self, fd: int, events: int) -> None:
        """Report these events of a watched descriptor from now on, and what it is ready for."""
        self._epoll.modify(fd, events)

    def hand_over(self, fd: int, watcher: Watcher) -> None:
        """Report the events of a watched descriptor to another watcher from now on."""
        self._watchers[fd] = watcher

    def close(self, sock: Closable) -> None:
        """Forget a watched socket and close it.

        While events are handed out it is closed after the last of them: its number would be given
        to a new socket, and that one would get an event that was meant for the old.
        """
        self._watchers.pop(sock.fileno(), None)
        if self._is_dispatching:
            self._closing.append(sock)
        else:
            sock.close()

    def resume(self, watcher: Watcher) -> None:
        """Call the watcher's `on_resume` in the loop's next round, after others had their turn."""
        if not self._resumed:
            self.loop.call_soon(self._on_resumable)
        self._resumed.append(watcher)

    def guard(self, watcher: Watcher, step: Callable[[], None]) -> None:
        """Run one step of a watcher; an exception ends that watcher, and nothing else."""
        try:
            step()
        except Exception:  # noqa: BLE001  # the boundary of one connection; logged and counted
            self._fault(watcher)

    def shut_down(self) -> None:
        """Close the epoll. Every watched socket must have been closed."""
        if isinstance(self.loop, DirectLoop):
            self.loop.set_dispatch(None)
        elif not self._epoll.closed:
            self.loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
        self._resumed.clear()

    def _on_readable(self) -> None:
        self._dispatch(self._epoll.poll(0, _MAX_EVENTS))

    def _dispatch(self, ready: Events) -> Events:
        """Hand out events; return those of descriptors that nobody here watches."""
        watchers = self._watchers
        others: Events = []
        self._is_dispatching = True
        try:
            for fd, events in ready:
                watcher = watchers.get(fd)
                if watcher is None:
                    others.append((fd, events))
                    continue
                try:
                    watcher.on_events(fd, events)
                except Exception:  # noqa: BLE001  # the boundary of one connection
                    self._fault(watcher)
        finally:
            self._is_dispatching = False
            if self._closing:
                self._close_dead()
        return others

    def _on_resumable(self) -> None:
        resumed, self._resumed = self._resumed, []
        for watcher in resumed:
            self.guard(watcher, watcher.on_resume)

    def _close_dead(self) -> None:
        closing, self._closing = self._closing, []
        for sock in closing:
            sock.close()

    def _fault(self, watcher: Watcher) -> None:
        if self._faults.is_first():
            # Called while the exception is handled, which the rule does not see.
            log.exception("a fault while handling %s; the others go on", watcher)  # noqa: LOG004
        try:
            watcher.on_fault()
        except Exception:  # an event of another connection that is lost here never comes again
            log.exception("a fault while closing %s", watcher)
