"""A scrape of an agent with 10,000 Services that have had traffic: what it costs, whom it stalls.

The agent is a process of its own that also forwards (`--workers 0`), so that one loop does
everything: with workers, only the health answers share it. Meanwhile a client of a Service and one
of the health port ask, one request after the other, and so tell how long they waited.
"""

import asyncio
import contextlib
import gc
import http.client
import multiprocessing
import socket
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import uvloop

from pyproxy.config import ProxyConfig
from pyproxy.core.store import Store
from pyproxy.metrics import Metrics
from pyproxy.metrics.histogram import CONNECT_BOUNDS_S, DURATION_BOUNDS_S, observe
from pyproxy.model.events import Listed
from tests.bench.store import SERVICES, listed, lists
from tests.support import agents
from tests.support.backends import VIP_PORT, new_address

ROUNDS = 5
QUIET_S = 2.0
_TICK_S = 0.0005


def filled(metrics: Metrics) -> None:
    """Let the agent show Services with traffic; it never forwards to them."""
    services, slices = lists(SERVICES)
    store = Store(ProxyConfig(node_name="node-1"), frozenset({"127.0.0.1"}))
    store.apply(listed("services", services))
    store.apply(listed("endpointslices", slices))
    store.apply(Listed("nodes", ()))
    store.apply(Listed("servicecidrs", ()))
    metrics.table = store.table().frontends
    for number, frontend in enumerate(metrics.table.values()):
        counters = metrics.service_port(frontend.backend.name)
        counters.opened = counters.bytes_to_client = counters.bytes_to_endpoint = 1_000 + number
        counters.closed["finished"] = counters.attempts["ok"] = 900 + number
        counters.closed["connect_failed"] = counters.attempts["refused"] = 2
        for tenths in range(20):
            observe(counters.connect_times, CONNECT_BOUNDS_S, 0.0001 * tenths)
            observe(counters.durations, DURATION_BOUNDS_S, 0.1 * tenths)


class Stalls:
    """How long the loop was away from a timer, at most, since it was last asked."""

    def __init__(self) -> None:
        self._longest_s = 0.0

    async def watch(self) -> None:
        while True:
            before_s = time.perf_counter()
            await asyncio.sleep(_TICK_S)
            self._longest_s = max(self._longest_s, time.perf_counter() - before_s - _TICK_S)

    def take(self) -> float:
        longest_s, self._longest_s = self._longest_s, 0.0
        return longest_s


def serve(manifest: str, pipe: Connection) -> None:
    """The process of the agent: tells its URLs, then the longest stall whenever it is asked."""

    async def main() -> None:
        stalls = Stalls()
        async with agents.running(agents.settings(Path(manifest))) as agent:
            filled(agent.metrics)
            gc.collect()
            gc.freeze()
            watch = asyncio.get_running_loop().create_task(stalls.watch())
            pipe.send(agent.urls)
            while await asyncio.to_thread(pipe.recv):
                pipe.send(stalls.take())
            watch.cancel()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


class Waits:
    """Asks one thing again and again, and keeps how long each answer took."""

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask
        self._times: list[float] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._is_over.wait(0.001):
            began = time.perf_counter()
            self._ask()
            self._times.append(time.perf_counter() - began)

    def take(self) -> list[float]:
        times, self._times = self._times, []
        return times

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join(timeout=10)


@contextlib.contextmanager
def echo_server() -> Iterator[tuple[str, int]]:
    def echo() -> None:
        connection, _ = listener.accept()
        with connection:
            while data := connection.recv(4096):
                connection.sendall(data)

    with socket.create_server((new_address(), 0)) as listener:
        thread = threading.Thread(target=echo, daemon=True)
        thread.start()
        yield listener.getsockname()
        thread.join(timeout=10)


class Scrape(NamedTuple):
    seconds: float
    size: int
    stall_s: float


def scraped(url: str, pipe: Connection, *encodings: str) -> Scrape:
    """The median of some scrapes, and the longest stall in any of them."""
    request = urllib.request.Request(f"{url}/metrics")
    for encoding in encodings:
        request.add_header("Accept-Encoding", encoding)
    found = []
    for _ in range(ROUNDS):
        stall(pipe)
        began = time.perf_counter()
        with urllib.request.urlopen(request) as answer:
            size = sum(map(len, iter(lambda: answer.read(1 << 20), b"")))
        found.append(Scrape(time.perf_counter() - began, size, stall(pipe)))
        time.sleep(0.2)
    middle = sorted(found)[ROUNDS // 2]
    return middle._replace(stall_s=max(scrape.stall_s for scrape in found))


def stall(pipe: Connection) -> float:
    pipe.send(True)
    longest_s: float = pipe.recv()
    return longest_s


def told(name: str, quiet: list[float], busy: list[float]) -> str:
    def figures(times: list[float]) -> str:
        ordered = sorted(times)
        middle, high = (ordered[int(len(ordered) * part)] * 1e3 for part in (0.5, 0.99))
        return f"{middle:7.2f} {high:7.2f} {ordered[-1] * 1e3:7.2f}"

    return f"  {name:28} {figures(quiet)}   {figures(busy)}"


def measure(urls: dict[str, str], vip: str, pipe: Connection) -> None:
    health = http.client.HTTPConnection(urlsplit(urls["health"]).netloc, timeout=30)
    client = socket.create_connection((vip, VIP_PORT), timeout=30)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def forwarded() -> None:
        client.sendall(b"hello")
        client.recv(4096)

    def healthy() -> None:
        health.request("GET", "/healthz")
        health.getresponse().read()

    waits = {"a request that is forwarded": Waits(forwarded), "a health answer": Waits(healthy)}
    with client, contextlib.closing(health):
        time.sleep(QUIET_S)
        quiet = {name: wait.take() for name, wait in waits.items()}
        idle_s = stall(pipe)
        compressed, plain = scraped(urls["metrics"], pipe, "gzip"), scraped(urls["metrics"], pipe)
        busy = {name: wait.take() for name, wait in waits.items()}
        for wait in waits.values():
            wait.stop()
    print(f"a scrape, {SERVICES:,} Services with traffic; one process forwards and answers")
    for name, scrape in (("compressed", compressed), ("plain", plain)):
        stalled = f"longest stall of the loop {scrape.stall_s * 1e3:.1f} ms"
        print(f"  {name:10} {scrape.seconds:5.2f} s {scrape.size / 1e6:6.1f} MB, {stalled}")
    print(f"  without a scrape: longest stall of the loop {idle_s * 1e3:.1f} ms")
    print("  ms: median, p99 and longest, without and with scrapes")
    for name in waits:
        print(told(name, quiet[name], busy[name]))


def main() -> None:
    """Print the figures."""
    vip = new_address()
    with tempfile.TemporaryDirectory() as directory, echo_server() as endpoint:
        manifest = agents.write(Path(directory) / "web.yaml", *agents.web(vip, VIP_PORT, endpoint))
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(str(manifest), theirs), daemon=True)
        process.start()
        try:
            measure(ours.recv(), vip, ours)
            ours.send(False)
            process.join(timeout=30)
        finally:
            process.kill()


if __name__ == "__main__":
    main()
