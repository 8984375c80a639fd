"""Real sockets on loopback: backends and clients for tests of the forwarder, and tables for it.

Each test takes addresses of its own from 127.0.0.0/8, so that tests never meet.
"""

import asyncio
import contextlib
import itertools
import os
import random
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

from pyproxy.core.balancer import Balancer
from pyproxy.forward.forwarder import Forwarder
from pyproxy.forward.settings import ForwardSettings
from pyproxy.metrics import Metrics, ServicePortCounters
from pyproxy.model.addresses import family_of
from pyproxy.model.endpoint import Endpoint
from pyproxy.model.node import NodeView
from pyproxy.model.options import Balance, ServiceOptions
from pyproxy.model.service import Protocol, ServicePortName
from pyproxy.model.table import Backend, Frontend, FrontendKind, VipTable

# Processes that test at the same time have different ones: their numbers lie close together.
_HOSTS = itertools.count(os.getpid() % 64 << 14)
VIP_PORT = 8080

Handler = Callable[[socket.socket], Awaitable[None]]


def new_address() -> str:
    """Return a loopback address that no other test uses."""
    number = next(_HOSTS)
    return f"127.{64 + (number >> 14 & 63)}.{number >> 7 & 127}.{number % 127 + 1}"


def name_of(protocol: Protocol = "TCP", service: str = "web") -> ServicePortName:
    return ServicePortName("default", service, "main", protocol)


def backend_of(
    endpoints: Iterable[tuple[str, int]],
    protocol: Protocol = "TCP",
    *,
    service: str = "web",
    affinity_seconds: int | None = None,
    has_any: bool | None = None,
    serving: frozenset[tuple[str, int]] | None = None,
    internal_local: bool = False,
    balance: Balance = "least-connections",
) -> Backend:
    """A Service port whose endpoints are all ready and in the cluster list, in the order given."""
    listed = tuple(Endpoint(address, port) for address, port in endpoints)
    family = family_of(listed[0].address) if listed else "IPv4"
    return Backend(
        name=name_of(protocol, service),
        family=family,
        cluster=() if internal_local else listed,
        has_any=bool(listed) if has_any is None else has_any,
        serving=frozenset((e.address, e.port) for e in listed) if serving is None else serving,
        affinity_seconds=affinity_seconds,
        internal_local=internal_local,
        options=ServiceOptions(balance=balance),
    )


def frontend_of(
    vip: str, backend: Backend, port: int = VIP_PORT, kind: FrontendKind = "ClusterIP"
) -> Frontend:
    return Frontend(vip, port, backend.name.protocol, kind, backend)


def table_of(*frontends: Frontend, node: NodeView | None = None, generation: int = 1) -> VipTable:
    return VipTable(
        frontends={frontend.key: frontend for frontend in frontends},
        node=node or NodeView(),
        generation=generation,
    )


def the_first() -> float:
    """A `pick` for which the first endpoint is chosen; of a UDP flow, where they take turns."""
    return 0.0


class Rig:
    """A forwarder with its metrics."""

    def __init__(
        self,
        settings: ForwardSettings | None = None,
        pick: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.metrics = Metrics()
        self.balancer = Balancer(pick)
        self.forwarder = Forwarder(
            settings or ForwardSettings(), self.balancer, self.metrics, clock
        )

    def counters(self, protocol: Protocol = "TCP", service: str = "web") -> ServicePortCounters:
        return self.metrics.service_port(name_of(protocol, service))

    def serve(self, *frontends: Frontend, node: NodeView | None = None) -> None:
        self.forwarder.update(table_of(*frontends, node=node))

    async def all_closed(self) -> None:
        """Wait until no connection is live. Ended by the test's time-out only."""
        await until(lambda: self.forwarder.live_connections == 0)


@contextlib.asynccontextmanager
async def rig(
    settings: ForwardSettings | None = None,
    pick: Callable[[], float] = random.random,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Rig]:
    """A forwarder that is closed at the end, whatever happens."""
    made = Rig(settings, pick, clock)
    try:
        yield made
    finally:
        made.forwarder.close()


async def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition that other callbacks of this loop will make true."""
    while not holds():  # what is waited for is a count, and has no event
        await asyncio.sleep(0.002)


def tcp_listener(address: str, backlog: int = 128) -> socket.socket:
    """A listening socket on a free port."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, 0))
    listener.listen(backlog)
    listener.setblocking(False)
    return listener


def at(sock: socket.socket) -> tuple[str, int]:
    """Address and port that a socket is bound to."""
    name = sock.getsockname()
    return name[0], name[1]


@contextlib.asynccontextmanager
async def tcp_backend(address: str, handler: Handler) -> AsyncIterator[tuple[str, int]]:
    """Run `handler` for each connection; yields where it listens. Sockets are closed at the end."""
    loop = asyncio.get_running_loop()
    listener = tcp_listener(address)

    async def serve_one(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            await handler(connection)

    async def accept_all(group: asyncio.TaskGroup) -> None:
        while True:
            connection, _ = await loop.sock_accept(listener)
            group.create_task(serve_one(connection))

    async def serve() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(accept_all(group))

    async with asyncio.TaskGroup() as owner:
        task = owner.create_task(serve())
        try:
            yield at(listener)
        finally:
            task.cancel()
            listener.close()


async def echo(connection: socket.socket) -> None:
    """Send back what comes, until the other side has ended; then end."""
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(connection, 65536):
        await loop.sock_sendall(connection, data)


async def answer_at_end(connection: socket.socket) -> None:
    """Read until the other side has ended; then answer with what was read, reversed."""
    await asyncio.get_running_loop().sock_sendall(connection, (await read_all(connection))[::-1])


def greet(text: bytes) -> Handler:
    """A handler that says `text`, then ends."""

    async def handler(connection: socket.socket) -> None:
        await asyncio.get_running_loop().sock_sendall(connection, text)

    return handler


async def connect(address: str, port: int = VIP_PORT, source: str | None = None) -> socket.socket:
    """A connected, non-blocking client."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    client = socket.socket(family, socket.SOCK_STREAM)
    client.setblocking(False)
    try:
        if source is not None:
            client.bind((source, 0))
        await asyncio.get_running_loop().sock_connect(client, (address, port))
    except BaseException:
        client.close()
        raise
    return client


def waiting_client(address: str, port: int = VIP_PORT) -> socket.socket:
    """A client that is connected without giving the forwarder a turn: it waits to be accepted."""
    client = socket.create_connection((address, port))
    client.setblocking(False)
    return client


async def read_all(sock: socket.socket) -> bytes:
    """Everything until EOF. Raises ConnectionResetError on a reset."""
    loop = asyncio.get_running_loop()
    chunks = []
    while data := await loop.sock_recv(sock, 65536):
        chunks.append(data)
    return b"".join(chunks)


async def ask(address: str, request: bytes = b"", port: int = VIP_PORT) -> bytes:
    """Connect, send, end, and return the whole answer."""
    with await connect(address, port) as client:
        await asyncio.get_running_loop().sock_sendall(client, request)
        client.shutdown(socket.SHUT_WR)
        return await read_all(client)


def reset(sock: socket.socket) -> None:
    """Close with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def refusing_port(address: str) -> tuple[str, int]:
    """A port where nothing listens."""
    with tcp_listener(address) as listener:
        return at(listener)


@contextlib.contextmanager
def blackhole(address: str) -> Iterator[tuple[str, int]]:
    """A listener whose accept queue is full: the kernel drops every further SYN."""
    listener = tcp_listener(address, backlog=0)
    fillers = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(2)]
    try:
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(at(listener))
        yield at(listener)
    finally:
        for sock in (*fillers, listener):
            sock.close()


def udp_socket(address: str, port: int = 0) -> socket.socket:
    """A bound, non-blocking UDP socket."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind((address, port))
    sock.setblocking(False)
    return sock


async def receive(sock: socket.socket) -> tuple[bytes, tuple[str, int]]:
    """The next datagram and who sent it. By add_reader: uvloop has no sock_recvfrom."""
    loop = asyncio.get_running_loop()
    while True:
        with contextlib.suppress(BlockingIOError):
            data, sender = sock.recvfrom(65536)
            return data, (sender[0], sender[1])
        ready = loop.create_future()
        loop.add_reader(sock, _resolve, ready)
        try:
            await ready
        finally:
            loop.remove_reader(sock)


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))
