"""What the soak's clients do: each visit is one connection, or one UDP flow, with its requests."""

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from tests.soak.stream import KIB, MIB, BrokenStreamError, EndedEarlyError, Reader, send
from tests.soak.tally import Tally
from tests.soak.wire import (
    ACKNOWLEDGEMENT,
    PORT,
    RESPONSE,
    Kind,
    Request,
    datagram,
    read_datagram,
)
from tests.support.backends import connect, receive, reset

# Of one request. Sizes follow the speed of the machine, so this is no measure of it.
PATIENCE_S = 60.0
_VISIT_S = 6.0
# A UDP client asks again after this, as resolvers do, and gives up after so many tries.
_UDP_RETRY_S = 1.0
_UDP_TRIES = 10

Visit = Callable[[str, random.Random, Tally], Awaitable[None]]


class _Visitor:
    """A connected client."""

    def __init__(self, sock: socket.socket, kind: str, rng: random.Random, tally: Tally) -> None:
        self.sock = sock
        self.reader = Reader(sock)
        self._name = kind
        self._rng = rng
        self._tally = tally

    async def request(self, kind: Kind, upload: int, download: int) -> float:
        """Make a request and check all of it. Returns how long it took, in seconds."""
        request = Request(kind, self._rng.getrandbits(48), upload, download)
        began_s = time.monotonic()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.get_running_loop().sock_sendall(self.sock, request.pack())
            await self._carry_out(request, random.Random(~request.seed))
        self._tally.succeeded(self._name, upload, download)
        return time.monotonic() - began_s

    async def _carry_out(self, request: Request, rng: random.Random) -> None:
        match request.kind:
            case Kind.ASK:
                await self._write(request, rng)
                await self._read(request, rng)
            case Kind.EXCHANGE:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._write(request, rng))
                    group.create_task(self._read(request, rng))
            case Kind.ENDED_ASK:
                await self._write(request, rng)
                self.sock.shutdown(socket.SHUT_WR)
                await self._read(request, rng)
                await self.reader.expect_end()
            case Kind.ENDPOINT_ENDS:
                await self._read(request, rng)
                await self.reader.expect_end()
                await self._write(request, rng)
                self.sock.shutdown(socket.SHUT_WR)
            case Kind.ENDPOINT_RESETS:
                await self._read(request, rng)
                await asyncio.get_running_loop().sock_sendall(self.sock, ACKNOWLEDGEMENT)
                await self.reader.expect_reset()
            case Kind.CLIENT_RESETS:
                await self._write(request, rng)
                if await self.reader.exactly(1) != ACKNOWLEDGEMENT:
                    raise EndedEarlyError("before the acknowledgement")
                reset(self.sock)

    async def _write(self, request: Request, rng: random.Random) -> None:
        await send(self.sock, request.seed, request.upload, rng)

    async def _read(self, request: Request, rng: random.Random) -> None:
        await self.reader.expect(request.seed + RESPONSE, request.download, rng)


@contextlib.asynccontextmanager
async def _visiting(
    vip: str, kind: str, rng: random.Random, tally: Tally
) -> AsyncIterator[_Visitor]:
    async with asyncio.timeout(PATIENCE_S):
        sock = await connect(vip, PORT)
    with sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield _Visitor(sock, kind, rng, tally)


async def _short(vip: str, rng: random.Random, tally: Tally) -> None:
    async with _visiting(vip, "short", rng, tally) as visitor:
        await visitor.request(Kind.ASK, rng.randrange(4 * KIB), rng.randrange(16 * KIB))


async def _kept(vip: str, rng: random.Random, tally: Tally) -> None:
    async with _visiting(vip, "kept", rng, tally) as visitor:
        end_s = time.monotonic() + _VISIT_S * rng.random()
        while time.monotonic() < end_s:
            await visitor.request(Kind.ASK, rng.randrange(2 * KIB), rng.randrange(8 * KIB))
            await asyncio.sleep(rng.random() * 0.1)


async def _half_closed(vip: str, rng: random.Random, tally: Tally) -> None:
    """Either side may end first, before and after nothing, little, or much."""
    sizes = (0, 100, 200 * KIB, 3 * MIB)
    async with _visiting(vip, "half-close", rng, tally) as visitor:
        kind = rng.choice((Kind.ENDED_ASK, Kind.ENDPOINT_ENDS))
        await visitor.request(kind, rng.choice(sizes), rng.choice(sizes))


async def _reset(vip: str, rng: random.Random, tally: Tally) -> None:
    """What was sent before a reset arrives, and the reset arrives as one."""
    async with _visiting(vip, "reset", rng, tally) as visitor:
        kind = rng.choice((Kind.ENDPOINT_RESETS, Kind.CLIENT_RESETS))
        size = rng.choice((10, 100 * KIB, 2 * MIB))
        await visitor.request(kind, size, size if kind is Kind.ENDPOINT_RESETS else 0)


async def _bulk(vip: str, rng: random.Random, tally: Tally) -> None:
    """Both directions at once, and more each time for as long as that is quick."""
    async with _visiting(vip, "bulk", rng, tally) as visitor:
        size, end_s = 4 * MIB, time.monotonic() + _VISIT_S
        while time.monotonic() < end_s:
            upload, download = rng.randrange(size), rng.randrange(size)
            if await visitor.request(Kind.EXCHANGE, upload, download) < 1.0:
                size = min(2 * size, 64 * MIB)


async def _udp(vip: str, rng: random.Random, tally: Tally) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect((vip, PORT))
        for _ in range(rng.randint(1, 30)):
            await _ask_by_udp(sock, rng, tally)
            await asyncio.sleep(rng.random() * 0.1)


async def _ask_by_udp(sock: socket.socket, rng: random.Random, tally: Tally) -> None:
    seed, size = rng.getrandbits(48), rng.choice((0, 60, 500, 1400, 9000, 60_000))
    for _ in range(_UDP_TRIES):
        with contextlib.suppress(TimeoutError, ConnectionRefusedError):
            sock.send(datagram(seed, size))
            async with asyncio.timeout(_UDP_RETRY_S):
                while await _next_answer(sock) != (seed + RESPONSE, size):
                    pass  # to an earlier try
            tally.succeeded("udp", size, size)
            return
        tally.udp_retries += 1
        await asyncio.sleep(0.05)
    raise TimeoutError


async def _next_answer(sock: socket.socket) -> tuple[int, int]:
    data, _ = await receive(sock)
    found = read_datagram(data)
    if found is None:
        raise BrokenStreamError(f"a datagram of {len(data)} bytes is not as sent")
    return found


VISITS: dict[str, Visit] = {
    "short": _short,
    "kept": _kept,
    "half-close": _half_closed,
    "reset": _reset,
    "bulk": _bulk,
    "udp": _udp,
}
