"""One direction of a connection: moves bytes from one socket to another until one of them blocks.

It opens and closes nothing, and knows neither events nor Services: it is told to pump, and answers
how far it came. Small messages are copied through one buffer that all connections share; a
direction that moves bulk data splices it through a pipe and never sees it.

Invariant: bytes wait here (`has_pending`) only when the destination would block. Nothing is read
before they are gone, so at most one buffer, or one pipe, is held for each direction.
"""

import contextlib
import enum
import os
import socket

from pyproxy.forward.pipes import PIPE_BYTES, Pipe, PipePool
from pyproxy.forward.sockets import RawSocket, limit_unsent
from pyproxy.metrics import ServicePortCounters

# What one recv takes. Larger ones measured no better, and this bounds what a copy holds.
BUFFER_BYTES = 64 * 1024
# Bulk data yields to the other connections after this much: about half a millisecond.
TURN_BYTES = 1024 * 1024
# Splicing small messages costs more than copying them. A direction counts as bulk after this many
# full buffers without a pause, and no more once a splice finds less than one buffer.
_FULL_BUFFERS = 4

_DONTWAIT = socket.MSG_DONTWAIT
_SPLICE = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class Outcome(enum.Enum):
    """How far a pump came."""

    BLOCKED = enum.auto()  # until the source has more, or the destination room
    TURN_OVER = enum.auto()  # there is more to do; others first
    ENDED = enum.auto()  # the source has ended, and all of it was passed on
    SOURCE_LOST = enum.auto()  # the source was reset; all that came before was passed on
    DESTINATION_LOST = enum.auto()  # the destination takes no more


class Workspace:
    """What the directions of one process share: a buffer, used within one call, and the pipes."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(BUFFER_BYTES))
        self.pipes = PipePool()


class Direction:
    """Bytes on their way from `source` to `destination`.

    source_ended: the source's FIN was seen, so a short read is not the last: EOF comes after it.
    ended: ENDED or a loss was answered; it is not pumped again.
    is_waiting: TURN_OVER was answered; it is pumped when its turn comes, not by events.
    moved: bytes passed on so far.
    """

    __slots__ = (
        "_full_buffers",
        "_in_pipe",
        "_is_spliced",
        "_pending",
        "_pipe",
        "_workspace",
        "destination",
        "ended",
        "is_to_client",
        "is_waiting",
        "moved",
        "source",
        "source_ended",
    )

    def __init__(
        self, source: RawSocket, destination: RawSocket, workspace: Workspace, *, is_to_client: bool
    ) -> None:
        self.source = source
        self.destination = destination
        self.is_to_client = is_to_client
        self.source_ended = False
        self.ended = False
        self.is_waiting = False
        self.moved = 0
        self._workspace = workspace
        self._pending: memoryview | None = None
        self._full_buffers = 0
        self._is_spliced = False
        self._pipe: Pipe | None = None
        self._in_pipe = 0

    @property
    def has_pending(self) -> bool:
        """Whether bytes wait here for the destination."""
        return self._pending is not None or self._pipe is not None

    def begin_with(self, data: bytes) -> None:
        """Send this before anything else: it waits for the destination from the start."""
        self._pending = memoryview(data)

    def pump(self, counters: ServicePortCounters) -> Outcome:
        """Move what can be moved now, within one turn. The bytes passed on are counted."""
        pipe = self._pipe
        if pipe is None and self._full_buffers >= _FULL_BUFFERS and self._pending is None:
            pipe = self._workspace.pipes.take()
        return self._copy(counters) if pipe is None else self._splice(pipe, counters)

    def drop(self) -> None:
        """Give up what waits here: the connection is being closed."""
        self._pending = None
        if self._pipe is not None:
            self._workspace.pipes.discard(self._pipe)
            self._pipe = None

    def _copy(self, counters: ServicePortCounters) -> Outcome:
        buffer = self._workspace.buffer
        moved = 0
        try:
            while moved < TURN_BYTES:
                chunk = self._pending
                if chunk is None:
                    try:
                        size = self.source.recv_into(buffer, BUFFER_BYTES, _DONTWAIT)
                    except BlockingIOError:
                        return Outcome.BLOCKED
                    except OSError:
                        return Outcome.SOURCE_LOST
                    if not size:
                        return Outcome.ENDED
                    chunk = buffer[:size]
                sent = self._send(chunk)
                if sent < 0:
                    return Outcome.DESTINATION_LOST
                moved += sent
                if sent < len(chunk):
                    # A short send has armed the edge: OUT is told when there is room again.
                    self._pending = (
                        chunk[sent:] if self._pending else memoryview(bytes(chunk[sent:]))
                    )
                    return Outcome.BLOCKED
                if self._pending is not None:
                    self._pending = None
                elif len(chunk) == BUFFER_BYTES:
                    self._full_buffers += 1
                    if self._full_buffers == _FULL_BUFFERS:
                        return self._become_bulk()
                elif not self.source_ended:
                    # Less than asked for: the source is drained, and an edge tells when more comes
                    # (epoll(7), question 9). Saves the read that would say EAGAIN.
                    self._full_buffers = 0
                    return Outcome.BLOCKED
            return Outcome.TURN_OVER
        finally:
            self._count(moved, counters)

    def _send(self, chunk: memoryview) -> int:
        try:
            return self.destination.send(chunk, _DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError:
            return -1

    def _become_bulk(self) -> Outcome:
        """Prepare both sockets for splice, once; it is used from the next turn on."""
        if not self._is_spliced:
            self._is_spliced = True
            # splice(2) waits on a blocking socket whatever its flags say: for TCP only O_NONBLOCK
            # counts (Linux tcp_splice_read).
            self.source.setblocking(False)
            self.destination.setblocking(False)
            with contextlib.suppress(OSError):  # a wish; the destination may be reset already
                limit_unsent(self.destination)
        return Outcome.TURN_OVER

    def _splice(self, pipe: Pipe, counters: ServicePortCounters) -> Outcome:
        """Like `_copy`, through a pipe. It is filled only when empty, so EAGAIN has one meaning."""
        source, destination = self.source.fileno(), self.destination.fileno()
        moved = 0
        try:
            while moved < TURN_BYTES:
                if not self._in_pipe:
                    try:
                        size = os.splice(source, pipe.write_fd, PIPE_BYTES, flags=_SPLICE)
                    except BlockingIOError:
                        return Outcome.BLOCKED
                    except OSError:
                        return Outcome.SOURCE_LOST
                    if not size:
                        return Outcome.ENDED
                    self._in_pipe = size
                    if size < BUFFER_BYTES:
                        self._full_buffers = 0
                try:
                    sent = os.splice(pipe.read_fd, destination, self._in_pipe, flags=_SPLICE)
                except BlockingIOError:
                    return Outcome.BLOCKED
                except OSError:
                    return Outcome.DESTINATION_LOST
                self._in_pipe -= sent
                moved += sent
            return Outcome.TURN_OVER
        finally:
            self._pipe = pipe if self._in_pipe else None
            if not self._in_pipe:
                self._workspace.pipes.give_back(pipe)
            self._count(moved, counters)

    def _count(self, moved: int, counters: ServicePortCounters) -> None:
        self.moved += moved
        if self.is_to_client:
            counters.bytes_to_client += moved
        else:
            counters.bytes_to_endpoint += moved
