"""One direction of a connection: moves bytes from one socket to another until one of them blocks.

It opens and closes nothing, and knows no Services: it is told to pump, and answers how far it came.
Small messages are copied through one buffer that all connections share; a direction that moves bulk
data splices it through a pipe and never sees it.

Invariant: bytes wait here (`has_pending`) only when the destination would block. Nothing is read
before they are gone, so at most one buffer, or one pipe, is held for each direction.
"""

import contextlib
import math
import os
import socket
from collections.abc import Callable
from typing import Literal, Protocol

from pyproxy.forward.pipes import PIPE_BYTES, Pipe, PipePool
from pyproxy.forward.poller import HANGUP, IN, OUT, PEER_ENDED
from pyproxy.forward.sockets import RawSocket, lift_limit, limit_unsent
from pyproxy.metrics import ServicePortCounters

# What one recv takes. Larger ones measured no better, and this bounds what a copy holds.
BUFFER_BYTES = 64 * 1024
# Bulk data yields to the other connections after this much: about half a millisecond.
TURN_BYTES = 1024 * 1024
# Splicing small messages costs more than copying them. A direction counts as bulk after this many
# full buffers without a pause, and no more once a splice finds less than one buffer.
_FULL_BUFFERS = 4

_BUFFERS_IN_A_TURN = TURN_BYTES // BUFFER_BYTES
# What epoll says of a socket that was sent something, and is ready to be sent to, as most are.
_MESSAGE = IN | OUT
# The same when its peer has ended its side; and when we had ended ours before.
_LAST_MESSAGE = _MESSAGE | PEER_ENDED
_BOTH_ENDED = _LAST_MESSAGE | HANGUP
_LAST = frozenset({_LAST_MESSAGE, _BOTH_ENDED})

# A reader that takes so much bulk data within a second may have the kernel's whole send buffer. As
# long as that is kept short, for the reader that takes nothing, each wake-up moves little: a third
# of the CPU of a fast transfer. The largest buffer (tcp_wmem, 4 MiB) is half a second's worth then.
_FAST_BYTES = 8 * 1024 * 1024
_FAST_S = 1.0

# The FIN follows at once, and leaves with the bytes in one packet: the owner passes the end on.
_MORE = socket.MSG_MORE
_SPLICE = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


# How far a pump came. Strings: to name a member of an Enum costs as much as a call.
Outcome = Literal[
    "blocked",  # until the source has more, or the destination room
    "turn_over",  # there is more to do; others first
    "ended",  # the source has ended, and all of it was passed on
    "source_lost",  # the source was reset; all that came before was passed on
    "destination_lost",  # the destination takes no more
]


class Owner(Protocol):
    """The connection that two directions make up."""

    def on_relay_events(self, events: int, outward: "Direction", inward: "Direction") -> None:
        """Handle an event of the socket that `outward` reads and `inward` writes."""

    def on_outcome(self, direction: "Direction", outcome: Outcome) -> None:
        """Act on how a pump came to an end."""

    def on_fault(self) -> None:
        """Close after an unexpected exception. Must not raise."""


class Workspace:
    """What the directions of one process share: a buffer, used within one call, and the pipes.

    clock: monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.buffer = memoryview(bytearray(BUFFER_BYTES))
        self.pipes = PipePool()


class Direction:
    """Bytes on their way from `source` to `destination`, and the watcher of the source's events.

    back: the other direction of the same connection; owner: who acts on what happens to it.
    source_ended: the source's FIN was seen, so a short read is the last.
    reads_on: a short read means nothing: there was a reset, or urgent data at which reads stop.
    has_pending: bytes wait here for the destination.
    ended: "ended" or a loss was answered; it is not pumped again.
    is_waiting: "turn_over" was answered; it is pumped when its turn comes, not by events.
    moved: bytes passed on so far.
    """

    __slots__ = (
        "_buffer",
        "_counters",
        "_full_buffers",
        "_in_pipe",
        "_is_spliced",
        "_next_trial",
        "_pending",
        "_pipe",
        "_trial_s",
        "_workspace",
        "back",
        "destination",
        "ended",
        "has_pending",
        "is_to_client",
        "is_waiting",
        "moved",
        "owner",
        "reads_on",
        "source",
        "source_ended",
    )

    back: "Direction | None"
    owner: "Owner | None"
    # Set when it becomes bulk; most never do.
    _in_pipe: int
    _next_trial: float  # bytes moved by then tell how fast the reader is
    _trial_s: float

    def __init__(
        self,
        source: RawSocket,
        destination: RawSocket,
        workspace: Workspace,
        counters: ServicePortCounters,
        *,
        is_to_client: bool,
    ) -> None:
        self.source = source
        self.destination = destination
        self.is_to_client = is_to_client
        self.source_ended = False
        self.reads_on = False
        self.has_pending = False
        self.ended = False
        self.is_waiting = False
        self.moved = 0
        self._workspace = workspace
        self._buffer = workspace.buffer
        self._counters = counters
        self._pending: memoryview | None = None
        self._full_buffers = 0
        self._is_spliced = False
        self._pipe: Pipe | None = None

    def __str__(self) -> str:
        return str(self.owner)

    def begin_with(self, data: bytes) -> None:
        """Send this before anything else: it waits for the destination from the start."""
        self._pending = memoryview(data)
        self.has_pending = True

    def on_events(self, fd: int, events: int) -> None:  # noqa: ARG002  # it is the source's
        """Pass on a message, perhaps the last; leave everything else to the owner.

        Nearly all events are this: a message has come, and the destination takes all of it. Done
        here in one piece, a request and its answer take 9.5 µs in the kernel and here; through the
        owner and `pump`, which know all other cases, they take 10.4 µs.
        """
        back, owner = self.back, self.owner
        if back is None or owner is None:
            return
        seen = events | OUT  # of a client, `events` mostly tells of no room
        if (
            (seen != _MESSAGE and seen not in _LAST)
            or self.has_pending
            or back.has_pending
            or self._full_buffers
            or self.reads_on
            or self.is_waiting
            or self.ended
        ):
            owner.on_relay_events(events, self, back)
            return
        try:
            size = self.source.recv_into(self._buffer)
        except BlockingIOError:
            if seen != _MESSAGE:
                owner.on_relay_events(events, self, back)
            return
        except OSError:
            owner.on_outcome(self, "source_lost")
            return
        if not size:
            owner.on_outcome(self, "ended")
            return
        chunk = self._buffer[:size]
        try:
            if seen == _LAST_MESSAGE and size < BUFFER_BYTES:  # a short read, as in `_copy`
                sent = self.destination.send(chunk, _MORE)
            else:
                sent = self.destination.send(chunk)
        except OSError:
            sent = 0  # `pump` meets it again
        self.moved += sent
        if self.is_to_client:
            self._counters.bytes_to_client += sent
        else:
            self._counters.bytes_to_endpoint += sent
        if sent == size < BUFFER_BYTES and seen != _BOTH_ENDED:
            if seen == _LAST_MESSAGE:
                owner.on_outcome(self, "ended")
            return
        if sent < size:
            self._hold(chunk[sent:])
        self.source_ended = seen != _MESSAGE
        self.reads_on = seen == _BOTH_ENDED
        owner.on_outcome(self, self.pump())

    def on_resume(self) -> None:
        """Go on with bulk data, after others had their turn."""
        if self.is_waiting and self.owner is not None:
            self.is_waiting = False
            self.owner.on_outcome(self, self.pump())

    def on_fault(self) -> None:
        """Close after an unexpected exception."""
        if self.owner is not None:
            self.owner.on_fault()

    def drop(self) -> None:
        """Give up what waits here: the connection is being closed."""
        self._pending = None
        self.has_pending = False
        self.back = self.owner = None  # a circle would wait for the garbage collector
        if self._pipe is not None:
            self._workspace.pipes.discard(self._pipe)
            self._pipe = None

    def pump(self) -> Outcome:
        """Move what can be moved now, within one turn. The bytes passed on are counted."""
        pipe = self._pipe
        is_bulk = self._full_buffers >= _FULL_BUFFERS and not self.reads_on
        if pipe is None and is_bulk and not self.has_pending:
            pipe = self._workspace.pipes.take()
        return self._copy() if pipe is None else self._splice(pipe)

    def _copy(self) -> Outcome:
        for _ in range(_BUFFERS_IN_A_TURN):
            chunk = self._pending
            if chunk is None:
                try:
                    size = self.source.recv_into(self._buffer)
                except BlockingIOError:
                    # Behind a FIN there is always something to read, the end at last. And yet the
                    # kernel says so at an urgent mark, when a signal is pending
                    # (tcp_recvmsg_locked); no edge would tell of it again.
                    return "turn_over" if self.source_ended else "blocked"
                except OSError:
                    return "source_lost"
                if not size:
                    return "ended"
                chunk = self._buffer[:size]
            try:
                sent = self.destination.send(chunk)
            except BlockingIOError:
                sent = 0
            except OSError:
                return "destination_lost"
            self._count(sent)
            if sent < len(chunk):
                # A short send has armed the edge: OUT is told when there is room again.
                self._hold(chunk[sent:])
                return "blocked"
            if self.has_pending:
                self._pending = None
                self.has_pending = False
            elif len(chunk) == BUFFER_BYTES:
                self._full_buffers += 1
                if self._full_buffers == _FULL_BUFFERS:
                    return self._become_bulk()
            elif not self.reads_on:
                # Less than asked for: the source is drained, and an edge tells when more comes
                # (epoll(7), question 9). Saves the read that says EAGAIN, or that it has ended.
                self._full_buffers = 0
                return "ended" if self.source_ended else "blocked"
        return "turn_over"

    def _hold(self, rest: memoryview) -> None:
        """Keep what the destination had no room for; the buffer is everyone's."""
        self._pending = rest if self.has_pending else memoryview(bytes(rest))
        self.has_pending = True

    def _become_bulk(self) -> Outcome:
        """Prepare both sockets for splice, once; it is used from the next turn on."""
        if not self._is_spliced:
            self._is_spliced = True
            self._in_pipe = 0
            with contextlib.suppress(OSError):  # a wish; the destination may be reset already
                limit_unsent(self.destination)
            self._begin_trial()
        return "turn_over"

    def _begin_trial(self) -> None:
        self._trial_s = self._workspace.clock()
        self._next_trial = self.moved + _FAST_BYTES

    def _end_trial(self) -> None:
        """Let a fast reader have the whole send buffer; look at a slow one again later."""
        if self._workspace.clock() - self._trial_s > _FAST_S:
            self._begin_trial()
            return
        self._next_trial = math.inf
        with contextlib.suppress(OSError):
            lift_limit(self.destination)

    def _splice(self, pipe: Pipe) -> Outcome:
        """Like `_copy`, through a pipe. It is filled only when empty, so EAGAIN has one meaning."""
        source, destination = self.source.fileno(), self.destination.fileno()
        moved = 0
        try:
            while moved < TURN_BYTES:
                if not self._in_pipe:
                    if self.reads_on:
                        return "turn_over"  # only a read gets past urgent data
                    try:
                        size = os.splice(source, pipe.write_fd, PIPE_BYTES, flags=_SPLICE)
                    except BlockingIOError:
                        return "blocked"
                    except OSError:
                        return "source_lost"
                    if not size:
                        # The end, or urgent data before the end; a read tells.
                        self.reads_on = True
                        return "turn_over"
                    self._in_pipe = size
                    if size < BUFFER_BYTES:
                        self._full_buffers = 0
                try:
                    sent = os.splice(pipe.read_fd, destination, self._in_pipe, flags=_SPLICE)
                except BlockingIOError:
                    return "blocked"
                except OSError:
                    return "destination_lost"
                self._in_pipe -= sent
                moved += sent
            return "turn_over"
        finally:
            self.has_pending = bool(self._in_pipe)
            self._pipe = pipe if self._in_pipe else None
            if not self._in_pipe:
                self._workspace.pipes.give_back(pipe)
            self._count(moved)
            if self.moved >= self._next_trial:
                self._end_trial()

    def _count(self, moved: int) -> None:
        self.moved += moved
        if self.is_to_client:
            self._counters.bytes_to_client += moved
        else:
            self._counters.bytes_to_endpoint += moved
