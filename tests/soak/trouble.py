"""What goes wrong during a soak, at random times from one seed.

Invariant: each Service has an endpoint, its survivor, that is ready in the slice, listens, and that
the agent has heard of, even if it hears of nothing else. So no request has an excuse to fail.
"""

import asyncio
import contextlib
import random
from collections import Counter
from typing import NamedTuple

from tests.soak.child import Child
from tests.soak.cluster import Cluster, Service, State
from tests.soak.proxy import Proxy
from tests.support.backends import new_address

# Between two of a kind, in seconds: from, to.
Span = tuple[float, float]
_FLAP: Span = (0.5, 4.0)
_KILL: Span = (6.0, 14.0)
_API: Span = (4.0, 12.0)
_VISIT: Span = (1.0, 6.0)
_AWAY: Span = (0.2, 5.0)
# An endpoint that is gone for longer than the drain time has its connections cut, and rightly so.
_GONE: Span = (0.5, 5.0)
_VISITORS = {"short": 2, "kept": 1, "udp": 1}


class Kill(NamedTuple):
    """A worker's violent end: when it was told, and when it had ended. Monotonic clock."""

    told_s: float
    ended_s: float


class Trouble:
    """Causes it, until told to end. counts: of what was done; kills: of workers."""

    def __init__(
        self, proxy: Proxy, cluster: Cluster, endpoints: Child, clients: Child, seed: int
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.kills: list[Kill] = []
        self.faults: list[str] = []
        self._proxy = proxy
        self._cluster = cluster
        self._endpoints = endpoints
        self._clients = clients
        self._seed = seed
        self._is_ending = asyncio.Event()

    async def cause(self, services: list[Service], *, kills: bool) -> None:
        """Cause all kinds of it until told to end; then everything is as it was at the start."""
        async with asyncio.TaskGroup() as group:
            for service in services:
                group.create_task(self._flap(service))
            group.create_task(self._trouble_api())
            group.create_task(self._come_and_go())
            if kills:
                group.create_task(self._kill_workers())

    def end(self) -> None:
        """Begin nothing new."""
        self._is_ending.set()

    async def _is_time(self, seconds: float) -> bool:
        """Wait for so long; False when it is time to end instead."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._is_ending.wait()
        return not self._is_ending.is_set()

    def _rng(self, what: str) -> random.Random:
        """Each kind of trouble has its own: the order of tasks changes with the machine."""
        return random.Random(f"{self._seed} {what}")

    # Endpoints

    async def _flap(self, service: Service) -> None:
        """Take endpoints of a Service away, several at once, and give them back."""
        rng = self._rng(service.name)
        addresses = list(service.states)
        while await self._is_time(rng.uniform(*_FLAP)):
            survivor = rng.choice(addresses)
            others = [address for address in addresses if address != survivor]
            victims = rng.sample(others, rng.randint(1, len(others)))
            await self._take_away(service, victims, rng)
            self.counts["endpoints flapped"] += len(victims)
            await self._cluster.settled()  # before another one may be the survivor

    async def _take_away(self, service: Service, victims: list[str], rng: random.Random) -> None:
        fates = {victim: rng.choice(("gone", "terminating", "killed")) for victim in victims}
        killed = [victim for victim, fate in fates.items() if fate == "killed"]
        for victim in killed:
            await self._endpoints.ask("refuse", address=victim)
        self.counts["endpoints killed"] += len(killed)
        await self._set(service, {v: _state(f) for v, f in fates.items() if f != "killed"})
        await asyncio.sleep(rng.uniform(*_GONE))  # the slice is updated only then
        await self._set(service, {victim: rng.choice(("gone", "failed")) for victim in killed})
        if rng.random() < 0.3:
            await self._forbid(victims)
        else:
            await asyncio.sleep(rng.uniform(*_GONE))
        for victim in killed:
            await self._endpoints.ask("open", address=victim)
        at_once = rng.random() < 0.5
        for group in [victims] if at_once else [[victim] for victim in victims]:
            await self._set(service, dict.fromkeys(group, "ready"))
            await asyncio.sleep(rng.uniform(0, 0.5))

    async def _set(self, service: Service, states: dict[str, State]) -> None:
        if states:
            service.states.update(states)
            self._cluster.update(service)

    async def _forbid(self, victims: list[str]) -> None:
        """Once the agent knows that these are gone, no new connection may come to them."""
        await self._cluster.settled()
        for is_forbidden in (True, False):
            for victim in victims:
                await self._endpoints.ask("forbid", address=victim, is_forbidden=is_forbidden)
            if is_forbidden:
                await asyncio.sleep(1.0)
        self.counts["endpoints watched for strays"] += len(victims)

    # Workers

    async def _kill_workers(self) -> None:
        """Kill one worker at a time, when all of them serve."""
        rng = self._rng("workers")
        while await self._is_time(rng.uniform(*_KILL)):
            pid = rng.choice(await self._proxy.all_workers())
            self.kills.append(Kill(*await self._proxy.kill_worker(pid)))
            self.counts["workers killed"] += 1

    # The API server

    async def _trouble_api(self) -> None:
        """Let it go away, break watches, and forget its history."""
        rng, cluster = self._rng("api"), self._cluster
        while await self._is_time(rng.uniform(*_API)):
            match rng.choice(("away", "away and forgetful", "broken", "expired")):
                case "away":
                    await cluster.go_away(rng.uniform(*_AWAY), forgets=False)
                case "away and forgetful":
                    await cluster.go_away(rng.uniform(*_AWAY), forgets=True)
                case "broken":
                    cluster.break_watches()
                case "expired":
                    cluster.expire_watches()

    # Services

    async def _come_and_go(self) -> None:
        """Add Services with clients of their own, and remove them."""
        rng = self._rng("services")
        while await self._is_time(rng.uniform(*_VISIT)):
            number = self.counts["Services added and removed"]
            service = Service(f"visited-{number}", [new_address() for _ in range(2)])
            for address in service.states:
                await self._endpoints.ask("open", address=address)
            self._cluster.create(service)
            await self._expect(service, is_served=True)
            await self._clients.ask("start", vip=service.vip, kinds=_VISITORS, seed=self._seed)
            await asyncio.sleep(rng.uniform(*_VISIT))
            await self._clients.ask("leave", vip=service.vip)
            self._cluster.delete(service)
            await self._expect(service, is_served=False)
            for address in service.states:
                await self._endpoints.ask("refuse", address=address)
            self.counts["Services added and removed"] += 1

    async def _expect(self, service: Service, *, is_served: bool) -> None:
        if not await self._clients.ask("is_served", vip=service.vip, wanted=is_served):
            what = "not served" if is_served else "still served"
            self.faults.append(f"{service.name} at {service.vip} is {what}")


def _state(fate: str) -> State:
    return "terminating" if fate == "terminating" else "gone"
