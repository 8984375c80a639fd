"""A cluster to look at on the status page: Services of a shop, their pods, and clients.

All of it is on the loopback network. Some pods are down although their EndpointSlices say that they
are ready, some are not ready, and some Services are not proxied: so every state can be seen.
"""

import asyncio
import contextlib
import itertools
import random
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Literal

from tests.support.builders import Json, make_endpoint, make_port, make_service, make_slice

POD_PORT = 9080
_NAMES = [
    "cart",
    "checkout",
    "catalog",
    "search",
    "prices",
    "reviews",
    "users",
    "images",
    "orders",
    "stock",
    "mail",
    "ledger",
]
_NAMESPACES = ["shop", "payments", "media", "platform"]

# Several may be served at one time, by this process and by others.
_NETWORKS = itertools.count(random.randrange(150))

Kind = Literal["up", "down", "unready"]


@dataclass
class Made:
    """A Service. pods: each with its address. load: connections a second, bytes of each, held."""

    namespace: str
    name: str
    vip: str
    pods: list[tuple[str, Kind]]
    load: tuple[float, int, int] = (0.0, 0, 0)
    spec: Json = field(default_factory=dict)

    def documents(self) -> list[Json]:
        """The Service and its slice."""
        port = make_port(8080)
        where: Json = {"namespace": self.namespace}
        service = make_service(self.name, cluster_ip=self.vip, ports=[port], **where, **self.spec)
        endpoints = [
            make_endpoint(
                address,
                ready=kind != "unready",
                node=f"worker-{number % 3 + 1}",
                targetRef={"kind": "Pod", "name": f"{self.name}-{_suffix(address)}"},
            )
            for number, (address, kind) in enumerate(self.pods)
        ]
        ports = [{"name": "http", "port": POD_PORT}]
        slices = [make_slice(*endpoints, service=self.name, ports=ports, **where)]
        return [service, *(slices if self.pods else [])]


def _suffix(address: str) -> str:
    chosen = random.Random(address)
    return "".join(chosen.choices("bcdfghjklmnpqrstvwxz2456789", k=5))


def shop(count: int) -> list[Made]:
    """So many Services, up to 10,000: some with traffic, some in trouble, the rest quiet."""
    network = 100 + next(_NETWORKS) % 150
    addresses = (f"127.{network}.{100 + n // 250}.{n % 250 + 1}" for n in itertools.count())
    made = []
    for number in range(count):
        name = _NAMES[number % len(_NAMES)]
        turn = number // len(_NAMES)
        pods: list[tuple[str, Kind]] = [
            (next(addresses), "up") for _ in range(2 + number % 3 if number < 60 else 1)
        ]
        made.append(
            Made(
                _NAMESPACES[number % len(_NAMESPACES)],
                f"{name}-{turn}" if turn else name,
                f"127.{network}.{number // 240}.{number % 240 + 1}",
                pods,
                _LOADS[number] if number < len(_LOADS) else (0.0, 0, 0),
            )
        )
    _bring_trouble(made)
    return made


_LOADS = [
    (22.0, 6_000, 4),
    (9.0, 90_000, 0),
    (14.0, 2_000, 0),
    (5.0, 300_000, 2),
    (3.0, 1_500, 0),
    (1.0, 400, 12),
    (6.0, 20_000, 1),
    (0.5, 700_000, 0),
    (2.0, 3_000, 0),
]


def _bring_trouble(made: list[Made]) -> None:
    def pods(at: int, *kinds: Kind) -> None:
        old = made[at].pods
        made[at].pods = [(old[n % len(old)][0], kind) for n, kind in enumerate(kinds[: len(old)])]

    if len(made) > 4:
        pods(1, "up", "down", "up")
        pods(4, "up", "unready", "up")
    if len(made) > 12:
        made[9].pods = []
        pods(10, "unready", "unready", "unready")
        made[11].spec = {"type": "ExternalName", "externalName": "ledger.example.net"}
        made[12].spec = {"clusterIP": "None"}


class Load:
    """Pods and clients, in a thread of their own, until `stop`."""

    def __init__(self, services: list[Made]) -> None:
        self._services = services
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._run()))

    def start(self) -> None:
        """Return once the pods listen."""
        self._thread.start()
        self._is_up.wait(timeout=30)

    def stop(self) -> None:
        """Return once all has ended."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=30)
        self._loop.close()

    async def _run(self) -> None:
        wanted = [made for made in self._services if made.load[0]]
        async with contextlib.AsyncExitStack() as stack:
            for address, kind in {pod for made in wanted for pod in made.pods}:
                if kind == "up":
                    server = await asyncio.start_server(_answer, address, POD_PORT)
                    await stack.enter_async_context(server)
            self._is_up.set()
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._drive(made, offset))
                    for offset, made in enumerate(wanted)
                ]
                for made in wanted:
                    for _ in range(made.load[2]):
                        tasks.append(group.create_task(_hold(made.vip)))  # noqa: PERF401
                await self._stop.wait()
                for task in tasks:
                    task.cancel()
        left = asyncio.all_tasks() - {asyncio.current_task()}  # pods, that see their clients gone
        if left:
            await asyncio.wait(left, timeout=10)

    async def _drive(self, made: Made, offset: int) -> None:
        rate, size, _ = made.load
        chosen = random.Random(offset)
        async with asyncio.TaskGroup() as group:
            for turn in itertools.count():
                busy = 1.0 + 0.6 * ((turn // 40 + offset) % 3)
                await asyncio.sleep(chosen.expovariate(rate * busy))
                group.create_task(_ask(made.vip, size))


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async with _closing(writer):
        wanted = int(await reader.readline() or 0)
        writer.write(bytes(wanted))
        await writer.drain()
        if not wanted:
            await reader.read()


async def _ask(vip: str, size: int) -> None:
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_connection(vip, 8080)
        async with _closing(writer):
            writer.write(b"%d\n" % size)
            await reader.read()
            await asyncio.sleep(0.15)


async def _hold(vip: str) -> None:
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection(vip, 8080)
        async with _closing(writer):
            writer.write(b"0\n")
            await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    try:
        yield
    except (OSError, ValueError):
        pass
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@contextlib.contextmanager
def load(services: list[Made]) -> Iterator[None]:
    """Pods and clients of these Services."""
    running = Load(services)
    running.start()
    try:
        yield
    finally:
        running.stop()
