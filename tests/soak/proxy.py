"""The agent under test, `pyproxy run`, as its users see it: HTTP ports, signals, /proc."""

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.soak.processes import Holdings, holdings, is_alive
from tests.support import agents

NODE = "node-1"
# Short, so that the end of the run need not wait for minutes until the flows have gone.
_FLOW_S = 5
_POLL_S = 0.02


class Proxy:
    """A running agent."""

    def __init__(self, process: agents.Process, workers: int) -> None:
        self._process = process
        self._workers = workers
        self.urls = {name: process.url(name) for name in ("metrics", "health")}

    @property
    def pid(self) -> int:
        return self._process.process.pid

    @property
    def log(self) -> list[str]:
        return self._process.log

    async def detail(self) -> Any:
        """What the health port tells."""
        url = f"{self.urls['health']}/healthz?verbose"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return await answer.json()

    async def metrics(self) -> Counter[str]:
        """Its metrics, each summed up over its labels."""
        url = f"{self.urls['metrics']}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            text = await answer.text()
        found: Counter[str] = Counter()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found[sample.name] += int(sample.value)
        return found

    async def workers(self) -> list[int]:
        """The process ids of the workers that serve now."""
        return [one["pid"] for one in (await self.detail())["workers"] if one["serving"]]

    async def all_workers(self) -> list[int]:
        """Their process ids, once all of them serve."""
        while len(pids := await self.workers()) < self._workers:
            await asyncio.sleep(_POLL_S)
        return pids

    async def kill_worker(self, pid: int) -> tuple[float, float]:
        """Kill a worker. Returns when it was told to end, and when it had."""
        told_s = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        while is_alive(pid):
            await asyncio.sleep(0.002)
        return told_s, time.monotonic()

    async def holdings(self) -> dict[int, Holdings]:
        """What the agent, and each worker, holds, by process id."""
        found = {pid: holdings(pid) for pid in (self.pid, *await self.workers())}
        return {pid: held for pid, held in found.items() if held is not None}

    async def stop(self) -> int:
        """Ask it to stop; return the exit status."""
        self._process.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self._process.wait)


@contextlib.asynccontextmanager
async def proxy(kubeconfig: Path, workers: int) -> AsyncIterator[Proxy]:
    """`pyproxy run` against an API server, on this host's loopback addresses only."""
    arguments = ["--kubeconfig", str(kubeconfig), "--hostname-override", NODE]
    arguments += ["--workers", str(workers), "--drain-timeout", "20"]
    arguments += ["--access-log", "off"]  # endpoints reset on purpose; the tally tells of it
    arguments += ["--conntrack-udp-timeout", str(_FLOW_S)]
    arguments += ["--conntrack-udp-timeout-stream", str(_FLOW_S)]
    with agents.process(*arguments) as process:
        yield await asyncio.to_thread(Proxy, process, workers)
