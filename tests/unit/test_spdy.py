"""SPDY/3.1 frames: what is written is read, in pieces of any size, and garbage is refused."""

import contextlib
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.core import spdy
from pyproxy.core.spdy_headers import DICTIONARY, MAX_BLOCK_BYTES, HeaderReader, HeaderWriter
from pyproxy.errors import ProtocolError

HEADERS = {"port": "80", "requestid": "0", "streamtype": "error"}


def read(data: bytes) -> list[spdy.Frame]:
    return list(spdy.FrameReader().receive(data))


def read_split(data: bytes, size: int) -> list[spdy.Frame]:
    reader = spdy.FrameReader()
    frames: list[spdy.Frame] = []
    for at in range(0, len(data), size):
        frames += reader.receive(data[at : at + size])
    return frames


def joined(frames: list[spdy.Frame]) -> list[spdy.Frame]:
    """Put the pieces of data frames together again."""
    whole: list[spdy.Frame] = []
    for frame in frames:
        last = whole[-1] if whole else None
        if (
            isinstance(frame, spdy.Data)
            and isinstance(last, spdy.Data)
            and last.stream == frame.stream
            and not last.is_last
        ):
            whole[-1] = spdy.Data(frame.stream, last.payload + frame.payload, frame.is_last)
        else:
            whole.append(frame)
    return whole


def control(kind: int, body: bytes, version: int = 3, flags: int = 0) -> bytes:
    return struct.pack("!II", 1 << 31 | version << 16 | kind, flags << 24 | len(body)) + body


def test_the_dictionary_is_the_one_of_the_specification() -> None:
    assert len(DICTIONARY) == 1423
    assert zlib.adler32(DICTIONARY) == 0xE3C6A7C2


def session() -> tuple[bytes, list[spdy.Frame]]:
    """One of each frame, and what they read as."""
    writer = spdy.FrameWriter()
    data = (
        writer.syn_stream(1, HEADERS)
        + writer.syn_stream(3, HEADERS | {"streamtype": "data"})
        + writer.syn_reply(1)
        + spdy.data_frame(3, b"hello")
        + spdy.data_frame(1, b"", is_last=True)
        + spdy.data_frame(3, b"bye", is_last=True)
        + spdy.rst_stream(3)
        + spdy.ping(7)
        + spdy.goaway(3)
    )
    frames: list[spdy.Frame] = [
        spdy.SynStream(1, HEADERS, is_last=False),
        spdy.SynStream(3, HEADERS | {"streamtype": "data"}, is_last=False),
        spdy.SynReply(1, {}, is_last=False),
        spdy.Data(3, b"hello", is_last=False),
        spdy.Data(1, b"", is_last=True),
        spdy.Data(3, b"bye", is_last=True),
        spdy.RstStream(3, spdy.CANCEL),
        spdy.Ping(7),
        spdy.GoAway(3, 0),
    ]
    return data, frames


def test_what_is_written_is_read() -> None:
    data, frames = session()
    assert read(data) == frames


@given(st.integers(min_value=1, max_value=40))
def test_any_split_of_the_bytes_gives_the_same_frames(size: int) -> None:
    data, frames = session()
    assert joined(read_split(data, size)) == joined(frames)


def test_the_layout_of_the_frames_is_that_of_the_specification() -> None:
    assert spdy.ping(1) == bytes.fromhex("80030006 00000004 00000001")
    assert spdy.rst_stream(5) == bytes.fromhex("80030003 00000008 00000005 00000005")
    assert spdy.goaway(2) == bytes.fromhex("80030007 00000008 00000002 00000000")
    assert spdy.data_frame(3, b"ab", is_last=True) == bytes.fromhex("00000003 01000002 6162")
    syn = spdy.FrameWriter().syn_stream(1, HEADERS)
    # Type, length; stream 1, no other associated, priority and slot 0; zlib with a dictionary.
    assert syn[:4] == bytes.fromhex("80030001")
    assert syn[8:18] == bytes.fromhex("00000001 00000000 0000")
    assert syn[18:24] == bytes.fromhex("78bb e3c6a7c2")


def test_frames_without_meaning_here_are_told_as_such() -> None:
    block = HeaderWriter().pack({"a": "b"})
    frames = read(
        control(4, struct.pack("!III", 1, 4, 100))  # SETTINGS
        + control(9, struct.pack("!II", 1, 65536))  # WINDOW_UPDATE
        + control(8, struct.pack("!I", 1) + block)  # HEADERS
        + control(77, b"")
    )
    assert frames == [spdy.Ignored(4), spdy.Ignored(9), spdy.Ignored(8), spdy.Ignored(77)]


def test_the_zlib_stream_goes_through_headers_that_are_not_wanted() -> None:
    writer = HeaderWriter()
    ignored = control(8, struct.pack("!I", 1) + writer.pack({"a": "b"}))
    wanted = control(2, struct.pack("!I", 1) + writer.pack({"a": "b"}), flags=spdy.FLAG_FIN)
    assert read(ignored + wanted)[1] == spdy.SynReply(1, {"a": "b"}, is_last=True)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (struct.pack("!II", 0, 4), "a data frame for stream 0"),
        (control(6, bytes(4), version=2), "SPDY version 2"),
        (control(6, b""), "type 6 is too short"),
        (control(1, b"123"), "type 1 is too short"),
        (struct.pack("!II", 0x80030006, 1 << 20), "1048576 bytes is too large"),
        (control(2, bytes(4) + b"no zlib at all"), "cannot be inflated"),
    ],
)
def test_what_is_no_spdy_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        read(data)


def packed(block: bytes) -> bytes:
    stream = zlib.compressobj(zdict=DICTIONARY)
    return stream.compress(block) + stream.flush(zlib.Z_SYNC_FLUSH)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (packed(b""), "makes no sense"),
        (packed(struct.pack("!I", 1)), "makes no sense"),
        (packed(struct.pack("!II", 1, 10) + b"short"), "ends within a name or a value"),
        (packed(bytes(MAX_BLOCK_BYTES + 1)), "is over 16384 bytes"),
        (packed(bytes(1 << 20)), "is over 16384 bytes"),
    ],
)
def test_a_header_block_that_makes_no_sense_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        HeaderReader().unpack(data)


def test_a_zlib_stream_that_ends_is_refused() -> None:
    stream = zlib.compressobj(zdict=DICTIONARY)
    data = stream.compress(bytes(4)) + stream.flush() + b"more"
    with pytest.raises(ProtocolError, match="ends too soon"):
        HeaderReader().unpack(data)


@given(st.dictionaries(st.text("abc-", min_size=1), st.text("xyz0", min_size=1)))
def test_headers_are_read_as_they_were_written(headers: dict[str, str]) -> None:
    reader, writer = HeaderReader(), HeaderWriter()
    for _ in range(2):
        assert reader.unpack(writer.pack(headers)) == headers


@given(st.lists(st.binary(max_size=40)))
def test_garbage_raises_the_protocol_error_only(pieces: list[bytes]) -> None:
    reader = spdy.FrameReader()
    with contextlib.suppress(ProtocolError):
        for piece in pieces:
            list(reader.receive(piece))


@given(st.integers(0, 12), st.binary(max_size=60))
def test_garbage_in_a_control_frame_raises_the_protocol_error_only(kind: int, body: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        read(control(kind, body))
