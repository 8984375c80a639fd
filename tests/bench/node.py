"""A node with 100 and with 10,000 Services of 10 endpoints: start, one change, memory. Needs root.

Store, listeners and steering as an agent has them, in a network namespace; the lists are at hand as
the API server's bytes, and everything is served by one process. A change takes from its event until
the kernel has acknowledged it and, of a Service less, its listener is closed.
"""

import asyncio
import gc
import os
import random
import resource
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import uvloop

from pyproxy.app.forwarding import InProcess
from pyproxy.app.steered import SteeredForwarder
from pyproxy.config import ProxyConfig
from pyproxy.core.balancer import Balancer
from pyproxy.core.decode import convert
from pyproxy.core.store import Changes, Store
from pyproxy.forward.forwarder import Forwarder
from pyproxy.forward.settings import ForwardSettings
from pyproxy.metrics import Metrics
from pyproxy.model.events import Applied, Deleted, Listed, key_of
from pyproxy.steer.nft import Nft
from pyproxy.steer.reconciler import Steering, SteerSettings
from pyproxy.steer.routes import PolicyRoute
from tests.bench.store import listed, lists, service_json, slice_json
from tests.support.netns import Host

SIZES = (100, 10_000)
CHANGES = 200
STEER = SteerSettings()


class Node:
    """What an agent puts together for forwarding and steering."""

    def __init__(self) -> None:
        self.store = Store(ProxyConfig(node_name="node-1"), frozenset({"127.0.0.1"}))
        self.metrics = Metrics()
        settings = ForwardSettings(transparent=True)
        self.forwarder = Forwarder(settings, Balancer(random.random), self.metrics, time.monotonic)
        route = PolicyRoute(STEER.mark, STEER.route_table, STEER.rule_priority)
        self.nft = Nft()
        steering = Steering(self.nft, route, STEER)
        self.steered = SteeredForwarder(InProcess(self.forwarder), steering, self.metrics)

    async def update(self, changes: Changes | None = None) -> None:
        touched = None if changes is None else changes.frontends.keys()
        await self.steered.update(self.store.table(), touched)


async def start(services: bytes, slices: bytes) -> tuple[Node, float]:
    """From the lists' bytes to the last steered VIP; seconds."""
    began = time.perf_counter()
    node = Node()
    node.store.apply(listed("services", services))
    node.store.apply(listed("endpointslices", slices))
    node.store.apply(Listed("nodes", ()))
    node.store.apply(Listed("servicecidrs", ()))
    await node.update()
    return node, time.perf_counter() - began


class Medians(NamedTuple):
    """Median milliseconds from an event until all of it is done."""

    a_service_more: float
    a_service_less: float
    an_endpoint_more_or_less: float


async def service_changes_ms(node: Node, services: int) -> list[float]:
    """One Service added or removed, with its endpoints, by turns."""
    times = []
    for number in range(services, services + CHANGES // 2):
        service, found = (
            convert("services", service_json(number)),
            convert("endpointslices", slice_json(number)),
        )
        node.store.apply(Applied("endpointslices", found))
        for event in (Applied("services", service), Deleted("services", key_of(service))):
            began = time.perf_counter()
            await node.update(node.store.apply(event))
            times.append((time.perf_counter() - began) * 1e3)
    return times


async def endpoint_changes_ms(node: Node) -> list[float]:
    """One endpoint less, and back. The kernel is told nothing of it."""
    times, before = [], node.metrics.steering.transactions
    for number in range(CHANGES):
        data = slice_json(number // 2)
        if number % 2 == 0:
            data["endpoints"] = data["endpoints"][:-1]
        event = Applied("endpointslices", convert("endpointslices", data))
        began = time.perf_counter()
        await node.update(node.store.apply(event))
        times.append((time.perf_counter() - began) * 1e3)
    assert node.metrics.steering.transactions == before
    return times


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


async def measure(count: int) -> Medians:
    services, slices = lists(count)
    gc.collect()
    before_mb = resident_mb()
    node, start_s = await start(services, slices)
    del services, slices
    gc.collect()
    gc.freeze()
    descriptors = len(os.listdir("/proc/self/fd"))
    memory_mb = resident_mb() - before_mb
    changed = await service_changes_ms(node, count)
    endpoint = await endpoint_changes_ms(node)
    print(f"node, {count:,} Services x 10 endpoints, steered, one process")
    print(f"  lists at hand to all steered   {start_s:8.2f} s")
    print(f"  memory for all of it           {memory_mb:8.1f} MB resident, about")
    print(f"  descriptors                    {descriptors:8,}")
    node.forwarder.close()
    node.nft.close()
    medians = map(statistics.median, (changed[::2], changed[1::2], endpoint))
    return Medians(*medians)


def compare(few: Medians, many: Medians) -> None:
    """Print what a change takes at the two sizes, and how much more at the larger one."""
    print(f"one change, median ms at {SIZES[0]:,} and {SIZES[1]:,} Services, and the ratio")
    for name, at_few, at_many in zip(Medians._fields, few, many, strict=True):
        label = name.replace("_", " ")
        print(f"  {label:30} {at_few:8.2f} {at_many:8.2f} {at_many / at_few:8.2f}")


def main() -> None:
    """Print the figures."""
    if os.geteuid():
        print("node: left out, it needs root for a network namespace")
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    found = []
    for count in SIZES:
        host = Host("bench")
        try:
            with host.entered(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                found.append(runner.run(measure(count)))
        finally:
            host.close()
    compare(*found)


if __name__ == "__main__":
    main()
