"""Agents for tests: one in this process, or `pyproxy run` as a process of its own."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import yaml

from pyproxy.app.agent import Agent
from pyproxy.app.agent_settings import AgentSettings
from pyproxy.app.stop import Stop
from pyproxy.config import HostPort, ProxyConfig
from tests.support.builders import Json, make_port, make_service, make_slice

ANY_PORT = HostPort("127.0.0.1", 0)


def settings(*manifests: Path, **changes: object) -> AgentSettings:
    """Settings that take no fixed port and wait for little."""
    base = AgentSettings(
        proxy=ProxyConfig(node_name="node-1"),
        manifests=tuple(map(str, manifests)),
        metrics=ANY_PORT,
        health=ANY_PORT,
        min_sync_period_s=0.01,
        drain_timeout_s=5.0,
    )
    return msgspec.structs.replace(base, **changes)


@contextlib.asynccontextmanager
async def running(asked: AgentSettings, ports: int = 2) -> AsyncIterator[Agent]:
    """An agent in this process, ready and with so many HTTP ports; drained at the end."""
    agent, stop = Agent(asked), Stop()
    loop = asyncio.get_running_loop()
    run = loop.create_task(agent.run(stop))
    try:
        while not run.done() and not (agent.ready.is_set() and len(agent.urls) >= ports):
            await asyncio.sleep(0.005)
        if not run.done():
            yield agent
    finally:
        stop.asked.set()
        await run


def write(path: Path, *documents: Json) -> Path:
    """Write a manifest file in one step, as an editor or a ConfigMap does."""
    draft = path.with_suffix(".draft")
    draft.write_text(yaml.safe_dump_all(documents), encoding="utf-8")
    return draft.replace(path)


def web(vip: str, port: int, *endpoints: tuple[str, int], **more: object) -> list[Json]:
    """A Service default/web on vip:port, and its slices: one for each endpoint."""
    service = make_service(cluster_ip=vip, ports=[make_port(port)], **more)  # type: ignore[arg-type]
    slices = [
        make_slice(address, name=f"web-{n}", ports=[{"name": "http", "port": number}])
        for n, (address, number) in enumerate(endpoints)
    ]
    return [service, *slices]


class Process:
    """`pyproxy run` as a process; its log is read on the way."""

    def __init__(self, *arguments: str) -> None:
        self.log: list[str] = []
        self._arrived = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pyproxy", "run", *arguments],
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._arrived:
                self.log.append(line.rstrip("\n"))
                self._arrived.notify_all()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait for a line of the log that matches, and return the match."""

        def found() -> re.Match[str] | None:
            return next((m for line in self.log if (m := re.search(pattern, line))), None)

        with self._arrived:
            match = self._arrived.wait_for(found, timeout=30)
        if match is None:
            raise AssertionError("\n".join([f"no {pattern!r} in the log:", *self.log]))
        return match

    def url(self, name: str) -> str:
        """The URL of the `metrics` or the `health` port."""
        return self.wait_for(rf"\b{name} on (http://\S+)")[1]

    def wait(self) -> int:
        """Wait for its end; return the exit status."""
        status = self.process.wait(timeout=30)
        self._reader.join(timeout=30)
        return status

    def kill(self) -> None:
        """Kill it and its workers, which would go on serving for a while."""
        pid = self.process.pid
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            self.process.kill()
            for worker in workers:
                os.kill(int(worker), signal.SIGKILL)
        self.wait()


@contextlib.contextmanager
def process(*arguments: str) -> Iterator[Process]:
    """`pyproxy run` with free HTTP ports, killed at the end."""
    ports = ["--metrics-bind-address", "127.0.0.1:0", "--healthz-bind-address", "127.0.0.1:0"]
    if "--ui-bind-address" not in arguments:
        ports += ["--ui-bind-address", ""]
    ports += ["--steer", "none"]  # this machine's kernel is not the tests'
    if "--control-socket" not in arguments:
        ports += ["--control-socket", ""]  # nor is its agent
    started = Process(*ports, *arguments)
    try:
        yield started
    finally:
        started.kill()
        assert started.process.stderr is not None
        started.process.stderr.close()
