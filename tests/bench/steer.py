"""How long the kernel takes to follow: 10,000 Services, then one at a time. Needs root.

python -m tests.bench.steer [SERVICES]
"""

import asyncio
import gc
import statistics
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import uvloop

from pyproxy.config import ProxyConfig
from pyproxy.core.ruleset import Planner, ruleset
from pyproxy.core.store import Changes, Store
from pyproxy.model.events import RESOURCES, Deleted, Listed
from pyproxy.steer.nft import Nft
from pyproxy.steer.reconciler import Steering, SteerSettings
from pyproxy.steer.routes import PolicyRoute
from tests.support.builders import Json, applied, decoded, local, make_service, make_slice
from tests.support.netns import Host

if TYPE_CHECKING:
    from pyproxy.model.table import FrontendKey

SETTINGS = SteerSettings()
ROUNDS = 40


def vip(number: int) -> str:
    return f"10.{96 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def objects(number: int) -> tuple[Json, Json]:
    name = f"s{number}"
    return make_service(name, cluster_ip=vip(number)), make_slice(local(), service=name)


def full_store(services: int) -> Store:
    store = Store(ProxyConfig(node_name="node-1"), frozenset({"127.0.0.1"}))
    made = [objects(number) for number in range(services)]
    listed: dict[str, tuple[Any, ...]] = {
        "services": tuple(decoded(service) for service, _ in made),
        "endpointslices": tuple(decoded(found) for _, found in made),
    }
    for resource in RESOURCES:
        store.apply(Listed(resource, listed.get(resource, ())))
    return store


class Bench:
    """One node's control path, from the event on, without listeners."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.planner = Planner()
        route = PolicyRoute(SETTINGS.mark, SETTINGS.route_table, SETTINGS.rule_priority)
        self.nft = Nft()
        self.steering = Steering(self.nft, route, SETTINGS)
        self.listening: set[FrontendKey] = set()

    async def follow(self, changes: Changes | None) -> None:
        table = self.store.table()
        if changes is None:
            self.listening.update(table.frontends)
            await self.steering.apply(self.planner.plan(table, self.listening))
            return
        for key, frontend in changes.frontends.items():
            (self.listening.discard if frontend is None else self.listening.add)(key)
        await self.steering.apply(self.planner.plan(table, self.listening, changes.frontends))


async def timed(bench: Bench, event: Callable[[int], Any]) -> tuple[float, float]:
    """Return the median time of one change, in ms, and the operations that it took."""
    times = []
    before = bench.steering.operations
    for number in range(ROUNDS):
        begun = event(number)
        start = time.perf_counter()
        await bench.follow(bench.store.apply(begun))
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3, (bench.steering.operations - before) / ROUNDS


async def measure(services: int) -> None:
    bench = Bench(full_store(services))
    gc.collect()
    gc.freeze()  # as the agent does
    await bench.steering.start()
    start = time.perf_counter()
    await bench.follow(None)
    print(f"{services} Services: first transaction {time.perf_counter() - start:.2f} s")
    start = time.perf_counter()
    ruleset(bench.store.table(), bench.listening)
    print(f"  whole ruleset, in Python alone     {(time.perf_counter() - start) * 1e3:6.1f} ms")
    last = services + ROUNDS
    rows = {
        "a slice of a Service to come": lambda n: applied(objects(services + n)[1]),
        "a Service added": lambda n: applied(objects(services + n)[0]),
        "an endpoint changed": lambda n: applied(
            make_slice(local(), local("10.180.0.9"), service=f"s{n}")
        ),
        "a Service removed": lambda n: Deleted("services", ("default", f"s{last - n - 1}")),
    }
    for name, event in rows.items():
        took_ms, operations = await timed(bench, event)
        print(f"  {name:34} {took_ms:6.2f} ms, {operations:g} operations")
    start = time.perf_counter()
    await bench.steering.check()
    print(f"  a check of the kernel              {(time.perf_counter() - start) * 1e3:6.0f} ms")
    await bench.steering.cleanup()
    bench.nft.close()


def main() -> None:
    sizes = [int(text) for text in sys.argv[1:]] or [100, 10_000]
    for services in sizes:
        host = Host("bench")
        try:
            with host.entered():
                asyncio.Runner(loop_factory=uvloop.new_event_loop).run(measure(services))
        finally:
            host.close()


if __name__ == "__main__":
    main()
