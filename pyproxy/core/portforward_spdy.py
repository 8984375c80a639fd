"""The connections of one port-forward session over SPDY, as its client: bytes in, events out.

A connection is two streams with one request id: "error", on which only the server speaks, and
"data". The server has accepted it when both are answered; it connects to the pod after that. When
the connection is over, in order or not, the server ends the error stream, after what it has to say
there. Sources: Kubernetes cri-streaming portforward/httpstream.go (the server) and client-go
portforward.go handleConnection (what kubectl does, and in which order).

Invariant: a connection is known here until it is over, reset, or forgotten by `drop`. Frames of
others are late, and are dropped.
"""

from collections.abc import Iterator
from typing import NamedTuple

from pyproxy.core import spdy
from pyproxy.core.portforward import error_text
from pyproxy.errors import ProtocolError

_MAX_ERROR_BYTES = 4096  # more than any message has; the rest of a longer one is dropped


class Connected(NamedTuple):
    """The server has accepted both streams; it connects to the pod only now."""

    connection: int


class Payload(NamedTuple):
    """Bytes of the pod, at least one."""

    connection: int
    data: bytes


class PodEnded(NamedTuple):
    """The pod sends no more. `Over` follows at once if that ends the other direction too."""

    connection: int


class Over(NamedTuple):
    """Both directions have ended. text: what went wrong, in one line, or ""."""

    connection: int
    text: str


class Answer(NamedTuple):
    """Bytes to send: the echo of a ping, or a refusal."""

    data: bytes


class GoingAway(NamedTuple):
    """The server takes no new connections in this session."""


Event = Connected | Payload | PodEnded | Over | Answer | GoingAway


class _Pair:
    """The two streams of a connection; the data stream's number is the error stream's plus 2."""

    __slots__ = ("error", "id", "unanswered")

    def __init__(self, connection: int) -> None:
        self.id = connection
        self.unanswered = {"error", "data"}
        self.error = b""


class PortForwardSession:
    """Knows the connections of one session, by numbers that are never used again."""

    def __init__(self) -> None:
        self._reader = spdy.FrameReader()
        self._writer = spdy.FrameWriter()
        self._pairs: dict[int, _Pair] = {}  # by the number of the error stream: 1, 5, 9, ...
        self._next = 1
        self._next_ping = 1

    def connect(self, port: int) -> tuple[int, bytes]:
        """Return a new connection's number, and the bytes that ask for it."""
        connection, self._next = self._next, self._next + 4
        self._pairs[connection] = _Pair(connection)
        shared = {"port": str(port), "requestid": str(connection)}
        asked = (
            self._writer.syn_stream(connection, {"streamtype": "error"} | shared)
            + spdy.data_frame(connection, b"", is_last=True)  # as kubectl: we say nothing there
            + self._writer.syn_stream(connection + 2, {"streamtype": "data"} | shared)
        )
        return connection, asked

    def payload(self, connection: int, data: bytes, *, is_last: bool = False) -> bytes:
        """Return the bytes that carry `data` to the pod; is_last: and the client's FIN."""
        return spdy.data_frame(connection + 2, data, is_last=is_last)

    def drop(self, connection: int) -> bytes:
        """Forget a connection; return the bytes that reset it, none when it is over already."""
        if self._pairs.pop(connection, None) is None:
            return b""
        return spdy.rst_stream(connection + 2) + spdy.rst_stream(connection)

    def ping(self) -> bytes:
        """Return the bytes that ask the server for a sign of life."""
        number, self._next_ping = self._next_ping, self._next_ping + 2
        return spdy.ping(number)

    def receive(self, data: bytes) -> Iterator[Event]:
        """Take bytes, in pieces of any size.

        Raises ProtocolError; the session and all its connections are lost then.
        """
        for frame in self._reader.receive(data):
            yield from self._read(frame)

    def _read(self, frame: spdy.Frame) -> Iterator[Event]:
        match frame:
            case spdy.Data(stream, payload, is_last):
                yield from self._data(stream, payload, is_last=is_last)
            case spdy.SynReply(stream, _, is_last):
                yield from self._accepted(stream)
                yield from self._data(stream, b"", is_last=is_last)
            case spdy.RstStream(stream, status):
                pair = self._pair_of(stream)
                if pair is not None:
                    del self._pairs[pair.id]
                    said = error_text(pair.error) or f"the stream was reset (status {status})"
                    yield Over(pair.id, said)
            case spdy.Ping(number):
                if number % 2 == 0:  # the server's own; odd ones are echoes of ours
                    yield Answer(spdy.ping(number))
            case spdy.GoAway():
                yield GoingAway()
            case spdy.SynStream(stream):
                yield Answer(spdy.rst_stream(stream, spdy.REFUSED_STREAM))
            case _:
                pass  # of no meaning here

    def _pair_of(self, stream: int) -> _Pair | None:
        return self._pairs.get(stream) or self._pairs.get(stream - 2)

    def _accepted(self, stream: int) -> Iterator[Event]:
        pair = self._pair_of(stream)
        if pair is None or not pair.unanswered:
            return
        pair.unanswered.discard("error" if stream == pair.id else "data")
        if not pair.unanswered:
            yield Connected(pair.id)

    def _data(self, stream: int, payload: bytes, *, is_last: bool) -> Iterator[Event]:
        pair = self._pair_of(stream)
        if pair is None:
            return
        if stream == pair.id:
            pair.error = (pair.error + payload)[:_MAX_ERROR_BYTES]
            if is_last:
                del self._pairs[pair.id]
                yield Over(pair.id, error_text(pair.error))
            return
        if payload:
            if pair.unanswered:
                raise ProtocolError("data came for a stream that was not accepted")
            yield Payload(pair.id, payload)
        if is_last:
            yield PodEnded(pair.id)
