"""The demo: the real agent on two example Services, three backends, a gentle load, one killed.

No cluster, no root. Everything is on the loopback network. What is shown is counted by the client
that drives the load; the proxy's own counters tell how often it had to try another endpoint.
"""

import asyncio
import contextlib
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

import pyproxy
from pyproxy.app.agent import Agent
from pyproxy.app.agent_settings import AgentSettings
from pyproxy.app.stop import Stop
from pyproxy.config import HostPort, NodePortAddresses, ProxyConfig
from pyproxy.errors import PyproxyError
from pyproxy.model.service import ServicePortName

WEB = ServicePortName("demo", "web", "http", "TCP")
ECHO = ServicePortName("demo", "echo", "echo", "UDP")
VIPS = {WEB: ("127.96.0.10", 8080), ECHO: ("127.96.0.11", 7007)}
NODE_PORT = ("127.0.0.1", 30080)
BACKENDS = ("127.97.0.1", "127.97.0.2", "127.97.0.3")
BACKEND_TCP_PORT, BACKEND_UDP_PORT = 9080, 9007

ROUNDS_A_SECOND = 20
ANSWER_TIMEOUT_S = 2.0
UDP_TRIES = 3  # UDP promises nothing, so every client of it asks again


class Service(msgspec.Struct):
    """What the client saw of one Service: answers by endpoint, and failures."""

    answers: Counter[str] = msgspec.field(default_factory=Counter)
    failed: int = 0


class Progress(msgspec.Struct):
    """Where the demo stands; the view draws it. page: the URL of the status page."""

    services: dict[ServicePortName, Service]
    running: dict[str, bool]  # by backend
    retried: int = 0
    rounds: int = 0
    page: str = ""
    events: list[str] = []

    @property
    def failed(self) -> int:
        """Requests that got no answer."""
        return sum(service.failed for service in self.services.values())


View = Callable[[Progress], None]


def examples() -> Path:
    """The directory of the example manifests: in a wheel, or in the source tree."""
    package = Path(pyproxy.__file__).parent
    packed = package / "examples"
    return packed if packed.is_dir() else package.parent / "deploy" / "examples"


class Backends:
    """The processes behind the Services; they end with this one."""

    def __init__(self) -> None:
        self._processes: dict[str, asyncio.subprocess.Process] = {}

    async def start(self, address: str) -> None:
        """Start one and wait until it listens. Raises PyproxyError when it cannot."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "pyproxy.app.backend",
            address,
            str(BACKEND_TCP_PORT),
            str(BACKEND_UDP_PORT),
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            # Not in the terminal's process group: ctrl-C must not kill them before the last answer.
            start_new_session=True,
        )
        self._processes[address] = process
        assert process.stdout is not None
        assert process.stderr is not None
        if not await process.stdout.readline():
            fault = (await process.stderr.read()).decode().strip()
            raise PyproxyError(
                f"the demo's backend cannot listen on {address}, ports {BACKEND_TCP_PORT} and"
                f" {BACKEND_UDP_PORT}: {fault}; is another demo running?"
            )

    async def kill(self, address: str) -> None:
        """Kill one as a crash would, and wait until it is gone."""
        process = self._processes.pop(address)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()  # also closes its pipes

    async def stop(self) -> None:
        """Kill all."""
        for address in list(self._processes):
            await self.kill(address)


class Demo:
    """Runs the parts together and keeps count."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._backends = Backends()
        self.metrics_address = HostPort("127.0.0.1", 0)
        self.progress = Progress(
            services={WEB: Service(), ECHO: Service()}, running=dict.fromkeys(BACKENDS, False)
        )

    def settings(self) -> AgentSettings:
        """The agent's settings: the example files, and nothing that others could reach."""
        return AgentSettings(
            proxy=ProxyConfig(node_port_addresses=NodePortAddresses(localhost=True)),
            manifests=(str(examples()),),
            metrics=self.metrics_address,
            health=HostPort("127.0.0.1", 0),
            page=HostPort("127.0.0.1", 0),
            drain_timeout_s=2.0,
        )

    async def run(self, stop: Stop, rounds: int | None = None) -> Progress:
        """Run until asked to stop, or for some rounds; a backend is down in their middle third.

        Raises PyproxyError when an address is taken.
        """
        agent = Agent(self.settings())
        try:
            for address in BACKENDS:
                await self._backends.start(address)
                self.progress.running[address] = True
            async with asyncio.TaskGroup() as group:
                agent_stop = Stop()  # the agent goes last, after the last answer
                group.create_task(agent.run(agent_stop))
                await agent.ready.wait()
                self._check_bound(agent)
                await self._drive(agent, stop, rounds)
                agent_stop.asked.set()
        except BaseExceptionGroup as faults:
            raise faults.exceptions[0] from None
        finally:
            await self._backends.stop()
        return self.progress

    def _check_bound(self, agent: Agent) -> None:
        unbound = agent.detail()["unbound"]
        if unbound:
            first = unbound[0]
            raise PyproxyError(
                f"the demo cannot listen on {first['address']}:{first['port']}/{first['protocol']}:"
                f" {first['reason']}"
            )

    async def _drive(self, agent: Agent, stop: Stop, rounds: int | None) -> None:
        cycle = rounds or 12 * ROUNDS_A_SECOND
        while not stop.asked.is_set() and (rounds is None or self.progress.rounds < rounds):
            await self._break_and_mend(self.progress.rounds, cycle)
            await self._round()
            self.progress.rounds += 1
            self.progress.retried = _retried(agent)
            self.progress.page = agent.urls.get("page", "")
            self._view(self.progress)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1 / ROUNDS_A_SECOND):
                    await stop.asked.wait()

    async def _break_and_mend(self, number: int, cycle: int) -> None:
        """Kill a backend after a third of each cycle, another one each time; mend it later."""
        address = BACKENDS[(1 + number // cycle) % len(BACKENDS)]
        if number % cycle == cycle // 3:
            await self._backends.kill(address)
            self.progress.running[address] = False
            self._tell(f"killed backend {address}; its endpoints are still in the EndpointSlices")
        if number % cycle == 2 * cycle // 3:
            await self._backends.start(address)
            self.progress.running[address] = True
            self._tell(f"started backend {address} again")

    def _tell(self, event: str) -> None:
        self.progress.events = [*self.progress.events[-3:], event]

    async def _round(self) -> None:
        """Ask each Service once, both at the same time."""
        async with asyncio.TaskGroup() as group:
            for name, ask in ((WEB, ask_web), (ECHO, ask_echo)):
                group.create_task(self._ask(name, ask))

    async def _ask(self, name: ServicePortName, ask: "Callable[[str, int], Any]") -> None:
        service = self.progress.services[name]
        try:
            service.answers[await ask(*VIPS[name])] += 1
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            service.failed += 1


def _retried(agent: Agent) -> int:
    """How many connect attempts the proxy had to repeat elsewhere."""
    attempts: Counter[str] = Counter()
    for _, counters in agent.metrics.service_ports():
        attempts.update(counters.attempts)
    return attempts.total() - attempts["ok"]


async def ask_web(address: str, port: int) -> str:
    """Make one HTTP request; return the endpoint that answered.

    Raises OSError, TimeoutError or IncompleteReadError when there is no proper answer.
    """
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        reader, writer = await asyncio.open_connection(address, port)
        try:
            writer.write(b"GET / HTTP/1.1\r\nHost: web.demo\r\nConnection: close\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            return (await reader.readuntil(b"\n")).decode().strip()
        finally:
            writer.close()


class _Asker(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: Any) -> None:  # noqa: ARG002  the connected peer
        if not self.answer.done():
            self.answer.set_result(data)


async def ask_echo(address: str, port: int) -> str:
    """Send a datagram, again if need be; return the endpoint that answered.

    Raises OSError or TimeoutError when there is no answer.
    """
    loop = asyncio.get_running_loop()
    transport, asker = await loop.create_datagram_endpoint(_Asker, remote_addr=(address, port))
    try:
        for _ in range(UDP_TRIES):
            transport.sendto(b"hello")
            done, _pending = await asyncio.wait((asker.answer,), timeout=0.5)
            if done:
                return asker.answer.result().decode().split()[0]
        raise TimeoutError
    finally:
        asker.answer.cancel()
        transport.close()
