"""What a client tells an endpoint before a request, and the shape of a datagram."""

import enum
import struct
from typing import NamedTuple

from tests.soak.pattern import matches, piece

PORT = 8080
ENDPOINT_PORT = 9000
RESPONSE = 1  # an endpoint's stream is that of the client's seed and this
ACKNOWLEDGEMENT = b"!"

_HEADER = struct.Struct("!BQQQ")
HEADER_BYTES = _HEADER.size
_DATAGRAM = struct.Struct("!QH")


class Kind(enum.IntEnum):
    """How a request goes."""

    ASK = 1  # the upload, then the download; another request may follow
    EXCHANGE = 2  # both at the same time; another request may follow
    ENDED_ASK = 3  # the upload and the client's FIN, then the download and the endpoint's
    ENDPOINT_ENDS = 4  # the download and the endpoint's FIN, then the upload and the client's
    ENDPOINT_RESETS = 5  # the download, the client's acknowledgement, a reset by the endpoint
    CLIENT_RESETS = 6  # the upload, the endpoint's acknowledgement, a reset by the client


class Request(NamedTuple):
    """upload, download: bytes."""

    kind: Kind
    seed: int
    upload: int
    download: int

    def pack(self) -> bytes:
        return _HEADER.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> "Request":
        kind, seed, upload, download = _HEADER.unpack(data)
        return cls(Kind(kind), seed, upload, download)


def datagram(seed: int, size: int) -> bytes:
    """A datagram of stream `seed`, with a payload of so many bytes."""
    return _DATAGRAM.pack(seed, size) + piece(seed, 0, size)


def read_datagram(data: bytes) -> tuple[int, int] | None:
    """Its seed and the size of its payload; None when it is not as it was sent."""
    if len(data) < _DATAGRAM.size:
        return None
    seed, size = _DATAGRAM.unpack_from(data)
    payload = memoryview(data)[_DATAGRAM.size :]
    return (seed, size) if len(payload) == size and matches(seed, 0, payload) else None
