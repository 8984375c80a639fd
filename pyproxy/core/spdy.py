"""Frames of SPDY/3.1, read and written: bytes in, frames out, and the other way.

Sources: the SPDY/3.1 specification (its sections are named below), and moby/spdystream, which every
Kubernetes server uses. Flow control by windows (2.6.8) is left out on purpose: spdystream sends no
WINDOW_UPDATE and drops those that it gets (connection.go, frameHandler), so a sender that waited
for one would wait for ever. The transport's own back-pressure is all there is.

The payload of a data frame is passed on as it comes, in pieces: a frame may have 16 MiB.
"""

import enum
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pyproxy.core.spdy_headers import MAX_BLOCK_BYTES, HeaderReader, HeaderWriter
from pyproxy.errors import ProtocolError

VERSION = 3
FLAG_FIN = 0x01  # the last frame of its sender on this stream: a half-close
CANCEL = 5  # status of a RST_STREAM: the stream is not needed any more (2.6.3)
REFUSED_STREAM = 3

_CONTROL_BIT = 0x80000000
_STREAM_ID_BITS = 0x7FFFFFFF
_LENGTH_BITS = 0x00FFFFFF
_HEAD = struct.Struct("!II")
_WORD = struct.Struct("!I")
_TWO_WORDS = struct.Struct("!II")
_SYN_STREAM_HEAD = struct.Struct("!IIBB")
# Control frames carry little. The largest that can be wanted is a header block.
MAX_CONTROL_BYTES = MAX_BLOCK_BYTES


class Kind(enum.IntEnum):
    """The control frames that mean something here, by their type."""

    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    PING = 6
    GOAWAY = 7
    HEADERS = 8


class SynStream(NamedTuple):
    """A stream is opened (2.6.1)."""

    stream: int
    headers: dict[str, str]
    is_last: bool


class SynReply(NamedTuple):
    """A stream is accepted (2.6.2)."""

    stream: int
    headers: dict[str, str]
    is_last: bool


class RstStream(NamedTuple):
    """A stream is ended in both directions at once (2.6.3)."""

    stream: int
    status: int


class Ping(NamedTuple):
    """Asks for its echo, or is one: odd numbers are the client's (2.6.5)."""

    number: int


class GoAway(NamedTuple):
    """No stream after `last_stream` will be looked at (2.6.6)."""

    last_stream: int
    status: int


class Data(NamedTuple):
    """Some bytes of a stream; none in a frame that only ends it (2.2.2)."""

    stream: int
    payload: bytes
    is_last: bool


class Ignored(NamedTuple):
    """A frame without meaning here: HEADERS, SETTINGS, WINDOW_UPDATE, or one nobody knows."""

    kind: int


Frame = SynStream | SynReply | RstStream | Ping | GoAway | Data | Ignored


class FrameReader:
    """Cuts the bytes of one direction into frames. The bytes may come in pieces of any size."""

    def __init__(self) -> None:
        self._headers = HeaderReader()
        self._pending = bytearray()  # of a frame's head, or of a control frame
        self._stream = 0  # whose data frame is being read
        self._is_last = False
        self._missing = 0  # bytes of its payload that have not come

    def receive(self, data: bytes) -> Iterator[Frame]:
        """Take bytes. Raises ProtocolError; nothing may be fed after that."""
        rest = memoryview(data)
        while rest:
            if self._missing:
                piece, rest = rest[: self._missing], rest[self._missing :]
                self._missing -= len(piece)
                is_last = self._is_last and not self._missing
                yield Data(self._stream, bytes(piece), is_last)
                continue
            wanted = self._wanted() - len(self._pending)
            self._pending += rest[:wanted]
            rest = rest[wanted:]
            # A complete head may tell that more is wanted.
            if len(self._pending) == self._wanted():
                frame = self._read()
                if frame is not None:
                    yield frame

    def _wanted(self) -> int:
        """How many bytes must be pending before something can be read. Raises ProtocolError."""
        if len(self._pending) < _HEAD.size:
            return _HEAD.size
        word, flags_and_length = _HEAD.unpack_from(self._pending)
        if not word & _CONTROL_BIT:
            return _HEAD.size
        length: int = flags_and_length & _LENGTH_BITS
        if length > MAX_CONTROL_BYTES:
            raise ProtocolError(f"a control frame of {length} bytes is too large")
        return _HEAD.size + length

    def _read(self) -> Frame | None:
        """Read the frame that is pending; None for a data frame whose payload is to come."""
        word, flags_and_length = _HEAD.unpack_from(self._pending)
        body = bytes(self._pending[_HEAD.size :])
        self._pending.clear()
        flags = flags_and_length >> 24
        if word & _CONTROL_BIT:
            return self._control(word, flags, body)
        if not word:
            raise ProtocolError("a data frame for stream 0")
        self._stream, self._is_last = word, bool(flags & FLAG_FIN)
        self._missing = flags_and_length & _LENGTH_BITS
        return None if self._missing else Data(word, b"", self._is_last)

    def _control(self, word: int, flags: int, body: bytes) -> Frame:
        version, kind = word >> 16 & 0x7FFF, word & 0xFFFF
        if version != VERSION:
            raise ProtocolError(f"a control frame of SPDY version {version}, not {VERSION}")
        try:
            return self._parse(kind, bool(flags & FLAG_FIN), body)
        except struct.error as fault:
            raise ProtocolError(f"a control frame of type {kind} is too short") from fault

    def _parse(self, kind: int, is_last: bool, body: bytes) -> Frame:
        match kind:
            case Kind.SYN_STREAM:
                stream = _SYN_STREAM_HEAD.unpack_from(body)[0] & _STREAM_ID_BITS
                headers = self._headers.unpack(body[_SYN_STREAM_HEAD.size :])
                return SynStream(stream, headers, is_last)
            case Kind.SYN_REPLY:
                stream = _WORD.unpack_from(body)[0] & _STREAM_ID_BITS
                return SynReply(stream, self._headers.unpack(body[_WORD.size :]), is_last)
            case Kind.RST_STREAM:
                stream, status = _TWO_WORDS.unpack_from(body)
                return RstStream(stream & _STREAM_ID_BITS, status)
            case Kind.PING:
                return Ping(_WORD.unpack_from(body)[0])
            case Kind.GOAWAY:
                stream, status = _TWO_WORDS.unpack_from(body)
                return GoAway(stream & _STREAM_ID_BITS, status)
            case Kind.HEADERS:  # not wanted, but the zlib stream goes through it
                self._headers.unpack(body[_WORD.size :])
            case _:
                pass
        return Ignored(kind)


class FrameWriter:
    """Makes the frames of one direction that have a header block."""

    def __init__(self) -> None:
        self._headers = HeaderWriter()

    def syn_stream(self, stream: int, headers: Mapping[str, str]) -> bytes:
        """Open a stream: its number is odd for a client, and greater than all before."""
        body = _SYN_STREAM_HEAD.pack(stream, 0, 0, 0) + self._headers.pack(headers)
        return _control_frame(Kind.SYN_STREAM, body)

    def syn_reply(self, stream: int) -> bytes:
        """Accept a stream."""
        return _control_frame(Kind.SYN_REPLY, _WORD.pack(stream) + self._headers.pack({}))


def data_frame(stream: int, payload: bytes, *, is_last: bool = False) -> bytes:
    """Return a data frame. payload: less than 16 MiB."""
    flags = FLAG_FIN if is_last else 0
    return _HEAD.pack(stream, flags << 24 | len(payload)) + payload


def rst_stream(stream: int, status: int = CANCEL) -> bytes:
    """Return a frame that ends both directions of a stream."""
    return _control_frame(Kind.RST_STREAM, _TWO_WORDS.pack(stream, status))


def ping(number: int) -> bytes:
    """Return a frame that asks for its echo, or the echo."""
    return _control_frame(Kind.PING, _WORD.pack(number))


def goaway(last_stream: int) -> bytes:
    """Return a frame that announces the end of the session, in order."""
    return _control_frame(Kind.GOAWAY, _TWO_WORDS.pack(last_stream, 0))


def _control_frame(kind: Kind, body: bytes) -> bytes:
    return _HEAD.pack(_CONTROL_BIT | VERSION << 16 | kind, len(body)) + body
