"""Clients that ask without end while a test does something to the proxy, and count what they met.

The endpoints answer each message of eight bytes with their own one-letter name and the message. A
load runs in a thread of its own, on a host of the test network, so it goes on whatever the test
waits for.

    with Load(pod) as load:
        load.connect_again(vip)
        ...
    assert load.tally.bad == {}
"""

import asyncio
import itertools
import math
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Self

from tests.support.netns import Host

Address = tuple[str, int]

# Longer than any answer takes on a busy machine.
PATIENCE_S = 10.0
# Of a datagram, which may be lost.
ANSWER_S = 2.0
# A SYN that nobody answered is sent again after one second (RFC 6298).
SLOW_S = 0.9

_WORDS = {
    (ConnectionRefusedError,): "refused",
    (ConnectionResetError, BrokenPipeError): "reset",
    (TimeoutError,): "timed out",
    (asyncio.IncompleteReadError,): "ended early",
}
_GOOD = frozenset({"connected", "messages", "datagrams", "slow"})


class Tally(Counter[str]):
    """What was met, by name, and what of it should not be."""

    @property
    def bad(self) -> dict[str, int]:
        """Everything but successes."""
        return {what: count for what, count in self.items() if count and what not in _GOOD}


class _Thread:
    """Runs coroutines on a host, in an event loop in a thread, until closed."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._is_up.wait()

    def add(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin with a coroutine; return once it is a task."""
        begun = threading.Event()

        def begin() -> None:
            self._tasks.add(self._loop.create_task(work()))
            begun.set()

        self._loop.call_soon_threadsafe(begin)
        begun.wait()

    def close(self) -> None:
        """End everything. May be called twice."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def _run(self) -> None:
        with self._host.entered():
            asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._is_up.set()
        await self._stop.wait()
        others = asyncio.all_tasks() - {asyncio.current_task()}  # a server's handlers too
        for task in others:
            task.cancel()
        await asyncio.wait(others)
        await asyncio.sleep(0.05)  # transports close some turns later


class Endpoint:
    """Answers TCP and UDP at a host's port, with its name."""

    def __init__(self, host: Host, port: int, name: str) -> None:
        self._name = name.encode()
        self._at = host.v4, port
        self._thread = _Thread(host)
        self._is_up = threading.Event()
        self._thread.add(self._serve)
        assert self._is_up.wait(PATIENCE_S)

    def close(self) -> None:
        """Stop."""
        self._thread.close()

    async def _serve(self) -> None:
        name = self._name

        class Answers(asyncio.DatagramProtocol):
            def connection_made(self, transport: Any) -> None:
                self.transport = transport

            def datagram_received(self, data: bytes, addr: Any) -> None:
                self.transport.sendto(name + data, addr)

        loop = asyncio.get_running_loop()
        datagrams, _ = await loop.create_datagram_endpoint(Answers, local_addr=self._at)
        server = await asyncio.start_server(self._answer, *self._at, backlog=1000)
        self._is_up.set()
        try:
            await server.serve_forever()
        finally:
            datagrams.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(self._name + await reader.readexactly(8))
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()


class Load:
    """Clients on a host. tally: what they met; moved: who was answered by another endpoint."""

    def __init__(self, host: Host) -> None:
        self.tally = Tally()
        self._thread = _Thread(host)
        self._numbers = itertools.count()
        self.names: set[str] = set()  # of the endpoints that have answered new connections
        self._asked: list[float] = []  # by each client: how often; a new one for each that begins

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.close()

    def connect_again(self, to: Address, clients: int = 4, pause_s: float = 0.0) -> None:
        """Connect, ask once, close, and begin again."""
        for _ in range(clients):
            self._thread.add(lambda: self._forever(lambda: self._once(to), pause_s))

    def stick(self, to: Address, *sources: str, pause_s: float = 0.05) -> None:
        """The same from each address, which must always be answered by one endpoint."""
        for source in sources:
            names: set[str] = set()
            self._thread.add(
                lambda s=source, n=names: self._forever(lambda: self._once(to, s, n), pause_s)  # type: ignore[misc]
            )

    def keep(self, to: Address, connections: int = 10) -> None:
        """Keep connections, on which each message is answered."""
        for _ in range(connections):
            self._thread.add(lambda: self._keep(to))

    def flow(self, to: Address, flows: int = 10) -> None:
        """Keep sockets, on which each datagram is answered by one endpoint."""
        for _ in range(flows):
            self._thread.add(lambda: self._flow(to))

    def fresh(self, to: Address, clients: int = 2) -> None:
        """Ask each time from a new socket, as resolvers do."""
        for _ in range(clients):
            self._thread.add(lambda: self._forever(lambda: self._flow(to, questions=1), 0.0))

    def all_again(self) -> None:
        """Wait until every client has been answered, or was given up on, since now, and once more.

        So what is lost or hangs because of something that has happened is counted.
        """
        before, deadline = list(self._asked), time.monotonic() + 3 * PATIENCE_S
        while any(n < m + 2 for n, m in zip(self._asked, before, strict=False)):
            assert time.monotonic() < deadline, self.tally
            time.sleep(0.01)

    def until(self, what: str, more: int) -> None:
        """Wait until so many more of something were counted."""
        wanted, deadline = self.tally[what] + more, time.monotonic() + 30
        while self.tally[what] < wanted:
            assert time.monotonic() < deadline, f"{what}: {self.tally}"
            time.sleep(0.01)

    async def _forever(self, once: Callable[[], Coroutine[Any, Any, None]], pause_s: float) -> None:
        number = self._begin()
        while True:
            await once()
            self._asked[number] += 1
            await asyncio.sleep(pause_s)

    def _begin(self) -> int:
        self._asked.append(0)
        return len(self._asked) - 1

    async def _once(self, to: Address, source: str = "", names: set[str] | None = None) -> None:
        begun = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_S):
                local = (source, 0) if source else None
                reader, writer = await asyncio.open_connection(*to, local_addr=local)
                waited_s = time.monotonic() - begun
                try:
                    name = await self._ask(reader, writer)
                finally:
                    writer.close()
        except (OSError, asyncio.IncompleteReadError) as fault:
            self._count_fault(fault)
            return
        self.tally["connected"] += 1
        self.tally["slow"] += waited_s > SLOW_S
        self.names.add(name)
        if names is not None:
            names.add(name)
            if len(names) > 1:
                self.tally["moved"] += 1
                names.difference_update(names - {name})

    async def _keep(self, to: Address) -> None:
        reader, writer = await asyncio.open_connection(*to)
        self.tally["connected"] += 1
        number = self._begin()
        try:
            while True:
                async with asyncio.timeout(PATIENCE_S):
                    await self._ask(reader, writer)
                self.tally["messages"] += 1
                self._asked[number] += 1
                await asyncio.sleep(0.02)
        except (OSError, asyncio.IncompleteReadError) as fault:
            self._count_fault(fault, "cut: ")
            self._asked[number] = math.inf  # it asks no more
        finally:
            writer.transport.abort()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        message = b"%08d" % next(self._numbers)
        writer.write(message)
        answer = await reader.readexactly(9)
        if answer[1:] != message:
            self.tally["wrong bytes"] += 1
        return chr(answer[0])

    async def _flow(self, to: Address, questions: int | None = None) -> None:
        loop = asyncio.get_running_loop()
        name, number = "", self._begin() if questions is None else None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect(to)
            for _ in itertools.count() if questions is None else range(questions):
                message = b"%08d" % next(self._numbers)
                if number is not None:
                    self._asked[number] += 1
                try:
                    sock.send(message)
                    async with asyncio.timeout(ANSWER_S):
                        while (answer := await loop.sock_recv(sock, 100))[1:] != message:
                            self.tally["late answers"] += 1
                except (ConnectionRefusedError, TimeoutError) as fault:
                    self.tally[f"datagram {_word(fault)}"] += 1
                    continue
                self.tally["datagrams"] += 1
                self.tally["flow moved"] += name not in {"", chr(answer[0])}
                name = chr(answer[0])
                await asyncio.sleep(0.01)

    def _count_fault(self, fault: BaseException, before: str = "") -> None:
        self.tally[before + _word(fault)] += 1


def _word(fault: BaseException) -> str:
    for kinds, word in _WORDS.items():
        if isinstance(fault, kinds):
            return word
    return str(fault)
