"""Sends and checks pattern streams, in chunks and with pauses as clients and servers have them.

The pace changes in mid-stream, without either side knowing the other's: so what passes goes from
small copies to bulk and back, and readers are slow while writers are fast.
"""

import asyncio
import random
import socket
from typing import NamedTuple

from tests.soak.pattern import difference, matches, piece

KIB, MIB = 1024, 1024 * 1024
# Shorter streams go in one piece.
_UNPACED = 32 * KIB


class Pace(NamedTuple):
    """chunk: bytes of one call, at most; pause: how often one follows, and for up to how long.

    stretch: bytes until the pace may change, at most.
    """

    chunk: int
    pause_chance: float
    pause_s: float
    stretch: int


_PACES = (
    Pace(3 * KIB, 0.05, 0.002, 256 * KIB),
    Pace(48 * KIB, 0.05, 0.01, 2 * MIB),
    Pace(64 * KIB, 0.0, 0.0, 8 * MIB),
    Pace(MIB, 0.0, 0.0, 64 * MIB),
    Pace(MIB, 0.05, 0.05, 64 * MIB),
)


class BrokenStreamError(Exception):
    """What came is not what was sent."""


class EndedEarlyError(Exception):
    """The stream has ended, in order, before all of it came."""


class Reader:
    """Checks what comes from a socket. Has a buffer of its own once a stream comes, not before."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = memoryview(b"")

    async def exactly(self, size: int) -> bytes:
        """Return so many bytes. Raises EndedEarlyError; with nothing to raise for, returns b""."""
        data = bytearray()
        while len(data) < size:
            some = await asyncio.get_running_loop().sock_recv(self._sock, size - len(data))
            if not some:
                if data:
                    raise EndedEarlyError(f"after {len(data)} of {size} bytes")
                return b""
            data += some
        return bytes(data)

    async def expect(self, seed: int, size: int, rng: random.Random) -> None:
        """Read exactly this stream. Raises BrokenStreamError, EndedEarlyError."""
        loop = asyncio.get_running_loop()
        offset = stretch_end = 0
        pace = _PACES[0]
        while offset < size:
            if offset >= stretch_end:
                pace, stretch_end = _next_pace(rng, offset, size)
            want = min(size - offset, pace.chunk if size > _UNPACED else _UNPACED)
            if len(self._buffer) < want:
                self._buffer = memoryview(bytearray(want))
            got = await loop.sock_recv_into(self._sock, self._buffer[:want])
            if not got:
                raise EndedEarlyError(f"after {offset} of {size} bytes")
            if not matches(seed, offset, self._buffer[:got]):
                raise BrokenStreamError(difference(seed, offset, self._buffer[:got]))
            offset += got
            await _pause(pace, rng, size)

    async def expect_end(self) -> None:
        """Read the FIN. Raises BrokenStreamError when there is more."""
        if await asyncio.get_running_loop().sock_recv(self._sock, 1):
            raise BrokenStreamError("more came than was sent")

    async def expect_reset(self) -> None:
        """Wait for a reset. Raises EndedEarlyError at an orderly end, BrokenStreamError at more."""
        try:
            more = await asyncio.get_running_loop().sock_recv(self._sock, 1)
        except ConnectionResetError:
            return
        if more:
            raise BrokenStreamError("more came than was sent")
        raise EndedEarlyError("an end instead of a reset")


async def send(sock: socket.socket, seed: int, size: int, rng: random.Random) -> None:
    """Send this stream."""
    loop = asyncio.get_running_loop()
    offset = stretch_end = 0
    pace = _PACES[0]
    while offset < size:
        if offset >= stretch_end:
            pace, stretch_end = _next_pace(rng, offset, size)
        limit = rng.randint(1, pace.chunk) if size > _UNPACED else size
        chunk = min(size - offset, limit)
        await loop.sock_sendall(sock, piece(seed, offset, chunk))
        offset += chunk
        await _pause(pace, rng, size)


def _next_pace(rng: random.Random, offset: int, size: int) -> tuple[Pace, int]:
    pace = rng.choice(_PACES)
    return pace, min(size, offset + rng.randint(1, pace.stretch))


async def _pause(pace: Pace, rng: random.Random, size: int) -> None:
    if size > _UNPACED and pace.pause_chance and rng.random() < pace.pause_chance:
        await asyncio.sleep(rng.random() * pace.pause_s)
