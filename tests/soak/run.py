"""One soak, from its first process to its last."""

import asyncio
import contextlib
import resource
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NamedTuple

from tests.soak.child import Child, child
from tests.soak.cluster import Cluster, Service
from tests.soak.processes import is_alive
from tests.soak.proxy import NODE, Proxy, proxy
from tests.soak.tally import Failure
from tests.soak.trouble import Trouble
from tests.soak.verdict import Crowd, Evidence
from tests.support.backends import new_address
from tests.support.builders import make_node
from tests.support.fake_api import FakeApiServer, write_kubeconfig

_SERVICES = 4
_ENDPOINTS = 4
_REQUESTS = {"short": 4, "kept": 5, "half-close": 2, "reset": 1, "udp": 4}
_BULK = {"bulk": 1, "half-close": 1}
_SAMPLE_S = 1.0
_FLOOD_STEP = 10_000
_CROWD_STEP = 1000
# Of the descriptors: above nine tenths of them the proxy refuses clients of the busiest Service.
_CROWD_SHARE = 0.75
# Until every connection has ended and every flow is idle, on a machine that is slow.
_END_S = 30.0
_ACTIVE = "pyproxy_connections_active"


class Plan(NamedTuple):
    """What to run. At the end, flood: datagrams from so many addresses; crowd: silent clients."""

    minutes: float
    workers: int
    seed: int
    flood: int
    crowd: int


class Children(NamedTuple):
    """The processes that take part, beside the agent. bulk: of clients as well."""

    endpoints: Child
    requests: Child
    bulk: Child
    flood: Child


async def soak(plan: Plan, tell: Callable[[str], None]) -> Evidence:
    """Run a soak; return what it has found. tell: is given a line now and then."""
    async with contextlib.AsyncExitStack() as stack:
        api = await stack.enter_async_context(FakeApiServer(bookmark_interval_s=1.0))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        kubeconfig = write_kubeconfig(directory / "kubeconfig", api.url)
        names = ("endpoint", "load", "load", "flood")
        children = [await stack.enter_async_context(child(f"tests.soak.{name}")) for name in names]
        api.create("nodes", make_node(NODE))
        run = _Run(plan, Cluster(api), Children(*children), tell)
        await run.make_services()
        run.proxy = await stack.enter_async_context(proxy(kubeconfig, plan.workers))
        await run.go()
    return run.evidence


class _Run:
    """The steps of a soak. `proxy` is set before `go`."""

    proxy: Proxy

    def __init__(
        self, plan: Plan, cluster: Cluster, children: Children, tell: Callable[[str], None]
    ) -> None:
        self.evidence = Evidence()
        self._plan = plan
        self._cluster = cluster
        self._children = children
        self._tell = tell
        self._services: list[Service] = []
        self._flooded = Service("flooded", [new_address()])

    async def make_services(self) -> None:
        for number in range(_SERVICES):
            service = Service(f"web-{number}", [new_address() for _ in range(_ENDPOINTS)])
            for address in service.states:
                await self._children.endpoints.ask("open", address=address)
            self._cluster.create(service)
            self._services.append(service)
        for address in self._flooded.states:
            await self._children.flood.ask("open", address=address)
        self._cluster.create(self._flooded)

    async def go(self) -> None:
        """Load, trouble, quiet, end."""
        await self._begin()
        endpoints, clients = self._children.endpoints, self._children.requests
        trouble = Trouble(self.proxy, self._cluster, endpoints, clients, self._plan.seed)
        async with self._load():
            async with asyncio.TaskGroup() as group:
                group.create_task(trouble.cause(self._services, kills=self._plan.workers > 1))
                await self._watch(60 * self._plan.minutes)
                trouble.end()
            await self._flood_with_clients()
            await self._crowd_with_clients()
        await self._quiet()
        await self._finish(trouble)

    async def _begin(self) -> None:
        for service in self._services:
            if not await self._children.requests.ask("is_served", vip=service.vip, wanted=True):
                raise TimeoutError(f"{service.name} is not served")
        await self.proxy.all_workers()
        await self._until_idle()
        found = await self.proxy.holdings()
        for pid, held in found.items():
            self.evidence.before[self._role(pid)] = held

    def _role(self, pid: int) -> str:
        return "agent" if pid == self.proxy.pid else "worker"

    @contextlib.asynccontextmanager
    async def _load(self) -> AsyncIterator[None]:
        seed = self._plan.seed
        crews = ((self._children.requests, _REQUESTS), (self._children.bulk, _BULK))
        for service in self._services:
            for clients, kinds in crews:
                await clients.ask("start", vip=service.vip, kinds=kinds, seed=seed)
        yield
        for service in self._services:
            for clients, _ in crews:
                await clients.ask("leave", vip=service.vip)
        await self._gather()

    async def _watch(self, seconds: float) -> None:
        """Gather what is counted; note the memory once the first third is over."""
        began_s = time.monotonic()
        warm_s = began_s + seconds / 3
        told = 0
        while (now_s := time.monotonic()) < began_s + seconds:
            await asyncio.sleep(_SAMPLE_S)
            await self._gather()
            if now_s >= warm_s:
                warm_s = now_s + seconds
                await self._note_memory()
            if (now_s - began_s) // 30 > told:
                told += 1
                self._tell(self._progress(now_s - began_s))
        if not self.evidence.warm:
            await self._note_memory()

    async def _note_memory(self) -> None:
        warm = self.evidence.warm
        for pid, held in (await self.proxy.holdings()).items():
            role = self._role(pid)
            warm[role] = max(warm.get(role, 0), held.rss_bytes)

    def _progress(self, seconds: float) -> str:
        tally = self.evidence.tally
        moved = sum(tally.uploaded.values()) + sum(tally.downloaded.values())
        return (
            f"{seconds:.0f} s: {sum(tally.ok.values()):,} requests, {moved / 1e9:.1f} GB,"
            f" {len(tally.failures)} broken, by kills or not"
        )

    async def _flood_with_clients(self) -> None:
        """Send datagrams from very many addresses, and see that what they take is bounded."""
        flood = self.evidence.flood
        for first in range(0, self._plan.flood, _FLOOD_STEP):
            count = min(_FLOOD_STEP, self._plan.flood - first)
            flood.passed_on += await self._children.flood.ask(
                "flood", vip=self._flooded.vip, first=first, count=count
            )
            flood.clients += count
            await self._note_most(flood)
            if flood.clients % (10 * _FLOOD_STEP) == 0:
                self._tell(f"{flood.clients:,} UDP clients")

    async def _crowd_with_clients(self) -> None:
        """Have very many connections that say nothing, and see that the others are served."""
        crowd, bulk = self.evidence.crowd, self._children.bulk
        _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        # A connection takes one descriptor of the clients, one of the endpoints, two of a worker.
        room = int(limit * _CROWD_SHARE * min(1.0, max(1, self._plan.workers) / 2))
        for _ in range(min(self._plan.crowd, room) // _CROWD_STEP):
            await bulk.ask("be_silent", vip=self._services[0].vip, count=_CROWD_STEP)
            crowd.clients += _CROWD_STEP
            await self._note_most(crowd)
        await asyncio.sleep(_SAMPLE_S)  # for the workers to dial
        await self._note_most(crowd)
        crowd.passed_on = await bulk.ask("end_silence")

    async def _note_most(self, crowd: Crowd) -> None:
        for held in (await self.proxy.holdings()).values():
            crowd.most_files = max(crowd.most_files, held.files.total())
            crowd.most_bytes = max(crowd.most_bytes, held.rss_bytes)
        await self._gather()

    async def _gather(self) -> None:
        evidence = self.evidence
        for clients in (self._children.requests, self._children.bulk):
            evidence.tally.add(await clients.ask("tally"))
        seen = await self._children.endpoints.ask("tally")
        evidence.broken += seen["broken"]
        evidence.cut += [Failure("seen by an endpoint", *fields) for fields in seen["cut"]]

    async def _until_idle(self) -> dict[str, int]:
        """Wait until nothing is open; return what still is when that takes too long."""
        end_s = time.monotonic() + _END_S
        while True:
            seen = await self._children.endpoints.ask("tally")
            self.evidence.broken += seen["broken"]
            left = {
                "connections or flows at the proxy": (await self.proxy.metrics())[_ACTIVE],
                "connections at the endpoints": int(seen["live"]),
            }
            if not any(left.values()) or time.monotonic() > end_s:
                return left
            await asyncio.sleep(0.5)

    async def _quiet(self) -> None:
        """See what is left when nobody wants anything any more."""
        evidence = self.evidence
        await self.proxy.all_workers()
        await self._cluster.settled()
        evidence.left.update(await self._until_idle())
        for pid, held in (await self.proxy.holdings()).items():
            evidence.after.setdefault(self._role(pid), []).append(held)
        evidence.metrics = await self.proxy.metrics()

    async def _finish(self, trouble: Trouble) -> None:
        evidence, cluster = self.evidence, self._cluster
        pids = await self.proxy.workers()
        evidence.exit_status = await self.proxy.stop()
        evidence.left_processes = [pid for pid in pids if is_alive(pid)]
        evidence.log = self.proxy.log
        evidence.kills = trouble.kills
        evidence.faults += trouble.faults
        evidence.events = trouble.counts
        evidence.events["API server away"] = cluster.outages
        evidence.events["watches expired (410)"] = cluster.relists
        evidence.events["watches broken"] = cluster.breaks
