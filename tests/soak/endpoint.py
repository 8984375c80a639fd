"""The endpoints of the soak, all in one process: python -m tests.soak.endpoint, a child.

Each has an address of its own, and can be opened, made to refuse new clients, and opened again;
connections that it has live on. What clients send is checked here, and counted.
"""

import asyncio
import contextlib
import random
import socket
import struct
import time
from typing import Any

from tests.soak.child import obey, run
from tests.soak.refusing import refuse
from tests.soak.stream import BrokenStreamError, EndedEarlyError, Reader, send
from tests.soak.wire import (
    ACKNOWLEDGEMENT,
    ENDPOINT_PORT,
    HEADER_BYTES,
    RESPONSE,
    Kind,
    Request,
    datagram,
    read_datagram,
)

_BACKLOG = 4096
_RESET = struct.pack("ii", 1, 0)
# Of UDP, for a burst of all clients at once.
_RECEIVE_BYTES = 4 << 20


class Tally:
    """What the endpoints have seen, since it was last asked for."""

    def __init__(self) -> None:
        self.received = 0
        self.live = 0
        self.broken: list[str] = []
        # (reason, when the connection began, when it failed): a client that broke off.
        self.cut: list[tuple[str, float, float]] = []

    def take(self) -> dict[str, Any]:
        found = {
            "received": self.received,
            "live": self.live,
            "broken": self.broken,
            "cut": self.cut,
        }
        self.received, self.broken, self.cut = 0, [], []
        return found


class Endpoint:
    """One address. is_forbidden: no new connection may come here, as it is not listed any more."""

    def __init__(self, address: str, tally: Tally, group: asyncio.TaskGroup) -> None:
        self.is_forbidden = False
        self._at = (address, ENDPOINT_PORT)
        self._tally = tally
        self._group = group
        self._listener: socket.socket | None = None
        self._datagrams: socket.socket | None = None

    def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(self._at)
        self._listener.listen(_BACKLOG)
        self._listener.setblocking(False)
        loop.add_reader(self._listener, self._accept)
        self._datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        self._datagrams.bind(self._at)
        self._datagrams.setblocking(False)
        loop.add_reader(self._datagrams, self._answer_datagrams)

    async def refuse(self) -> None:
        """Take no new clients; a UDP port that nobody has open refuses all datagrams."""
        loop = asyncio.get_running_loop()
        listener, datagrams = self._listener, self._datagrams
        assert listener is not None
        assert datagrams is not None
        self._listener = self._datagrams = None
        loop.remove_reader(datagrams)
        datagrams.close()
        loop.remove_reader(listener)
        await refuse(listener, lambda: self._accept_from(listener))

    def close(self) -> None:
        """Close the ports, if they are open."""
        for sock in (self._listener, self._datagrams):
            if sock is not None:
                asyncio.get_running_loop().remove_reader(sock)
                sock.close()

    def _accept(self) -> None:
        assert self._listener is not None
        self._accept_from(self._listener)

    def _accept_from(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, _ = listener.accept()
                connection.setblocking(False)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self.is_forbidden:
                    self._tally.broken.append("a new connection to an endpoint that is not listed")
                self._group.create_task(self._serve(connection))

    async def _serve(self, connection: socket.socket) -> None:
        began_s = time.monotonic()
        self._tally.live += 1
        session = _Session(connection, self._tally)
        with connection:
            try:
                await session.serve()
            except* BrokenStreamError as faults:
                moment_s = time.monotonic()
                self._tally.broken.append(f"at an endpoint, {moment_s:.3f}: {_first(faults)}")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            except* (OSError, EndedEarlyError) as faults:
                if session.is_busy:
                    reason = repr(_first(faults))
                    self._tally.cut.append((reason, began_s, time.monotonic()))
        self._tally.live -= 1

    def _answer_datagrams(self) -> None:
        assert self._datagrams is not None
        with contextlib.suppress(BlockingIOError):
            for _ in range(64):
                data, client = self._datagrams.recvfrom(65536)
                found = read_datagram(data)
                if found is None:
                    self._tally.broken.append(f"a datagram of {len(data)} bytes is not as sent")
                    continue
                seed, size = found
                self._tally.received += size
                self._datagrams.sendto(datagram(seed + RESPONSE, size), client)


def _first(fault: BaseException) -> BaseException:
    """The first in a group of faults, as both directions of an exchange have their own."""
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    return fault


class _Session:
    """The requests of one connection. is_busy: one has come and is not done."""

    def __init__(self, sock: socket.socket, tally: Tally) -> None:
        self.is_busy = False
        self._sock = sock
        self._reader = Reader(sock)
        self._tally = tally

    async def serve(self) -> None:
        while header := await self._reader.exactly(HEADER_BYTES):
            self.is_busy = True
            request = Request.unpack(header)
            await self._carry_out(request, random.Random(request.seed))
            self.is_busy = False
            if request.kind not in (Kind.ASK, Kind.EXCHANGE):
                return

    async def _carry_out(self, request: Request, rng: random.Random) -> None:
        match request.kind:
            case Kind.ASK:
                await self._read(request, rng)
                await self._write(request, rng)
            case Kind.EXCHANGE:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._read(request, rng))
                    group.create_task(self._write(request, rng))
            case Kind.ENDED_ASK:
                await self._read(request, rng)
                await self._reader.expect_end()
                await self._write(request, rng)
            case Kind.ENDPOINT_ENDS:
                await self._write(request, rng)
                self._sock.shutdown(socket.SHUT_WR)
                await self._read(request, rng)
                await self._reader.expect_end()
            case Kind.ENDPOINT_RESETS:
                await self._write(request, rng)
                await self._acknowledged()
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            case Kind.CLIENT_RESETS:
                await self._read(request, rng)
                await asyncio.get_running_loop().sock_sendall(self._sock, ACKNOWLEDGEMENT)
                await self._reader.expect_reset()

    async def _acknowledged(self) -> None:
        if not await self._reader.exactly(1):
            raise EndedEarlyError("before the acknowledgement")

    async def _read(self, request: Request, rng: random.Random) -> None:
        await self._reader.expect(request.seed, request.upload, rng)
        self._tally.received += request.upload

    async def _write(self, request: Request, rng: random.Random) -> None:
        await send(self._sock, request.seed + RESPONSE, request.download, rng)


async def main() -> None:
    tally = Tally()
    endpoints: dict[str, Endpoint] = {}

    def open_(address: str) -> None:
        if address not in endpoints:
            endpoints[address] = Endpoint(address, tally, group)
        endpoints[address].open()

    async def refuse_(address: str) -> None:
        await endpoints[address].refuse()

    def forbid(address: str, *, is_forbidden: bool) -> None:
        endpoints[address].is_forbidden = is_forbidden

    async with asyncio.TaskGroup() as group:
        ordered = group.create_task(
            obey({"open": open_, "refuse": refuse_, "forbid": forbid, "tally": tally.take})
        )
        await asyncio.wait([ordered])
        for endpoint in endpoints.values():
            endpoint.close()
        ordered.result()
        raise asyncio.CancelledError  # cuts the connections that are left


if __name__ == "__main__":
    run(main)
