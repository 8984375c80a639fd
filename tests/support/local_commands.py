"""`pyproxy local` as a process: its streams or its terminal, and a cluster for it."""

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator
from pathlib import Path

import yaml

from tests.support.backends import connect, until
from tests.support.builders import make_endpoint, make_port, make_service, make_slice
from tests.support.fake_api import FakeApiServer

ROOT = Path(__file__).parents[2]
# What does not come in this time never will; then the test can say what there was instead.
PATIENCE_S = 15.0


def make_web(api: FakeApiServer, pod: tuple[str, int]) -> None:
    api.create("services", make_service(ports=[make_port(80)]))
    api.portforward.pods["web-1"] = {pod[1]: pod}
    endpoint = make_endpoint(pod[0], targetRef={"kind": "Pod", "name": "web-1"})
    ports = [{"name": "http", "port": pod[1]}]
    api.create("endpointslices", make_slice(endpoint, name="web-1", ports=ports))


def two_contexts(path: Path, test: FakeApiServer, other: FakeApiServer) -> Path:
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "users": [{"name": "me", "user": {}}],
        "clusters": [
            {"name": "test", "cluster": {"server": test.url}},
            {"name": "other", "cluster": {"server": other.url}},
        ],
        "contexts": [
            {"name": name, "context": {"cluster": name, "user": "me"}} for name in ("test", "other")
        ],
    }
    path.write_text(yaml.safe_dump(content))
    return path


async def said(address: str, port: int) -> bytes:
    with await connect(address, port) as client:
        await asyncio.get_running_loop().sock_sendall(client, b"abc")
        return await asyncio.get_running_loop().sock_recv(client, 100)


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


class Command:
    """The command as a process; `out` and `err` have what it has written so far."""

    def __init__(self, process: asyncio.subprocess.Process, tasks: asyncio.TaskGroup) -> None:
        self.process = process
        self.out = bytearray()
        self.err = bytearray()
        for stream, into in ((process.stdout, self.out), (process.stderr, self.err)):
            if stream is not None:
                tasks.create_task(_collect(stream, into))

    async def until_said(self, text: str) -> None:
        """Wait for a text in either stream, or raise with what there is instead."""
        process = self.process
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await until(lambda: text in self.said or process.returncode is not None)
        assert text in self.said, self.said

    @property
    def said(self) -> str:
        return (self.out + self.err).decode()

    async def end(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return await self.process.wait()


async def _collect(stream: asyncio.StreamReader, into: bytearray) -> None:
    while data := await stream.read(65536):
        into += data


@contextlib.asynccontextmanager
async def command(kubeconfig: Path, *arguments: str) -> AsyncIterator[Command]:
    async with asyncio.TaskGroup() as tasks:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pyproxy", "local", "--kubeconfig", str(kubeconfig)),
            *arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
        )
        try:
            yield Command(process, tasks)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


class Terminal:
    """The command in a terminal of its own. Use `keys` to type, `screen` for what was drawn."""

    def __init__(self, process: asyncio.subprocess.Process, master: int) -> None:
        self.process = process
        self.master = master
        self.drawn = bytearray()
        asyncio.get_running_loop().add_reader(master, self._read)

    def _read(self) -> None:
        try:
            self.drawn += os.read(self.master, 65536)
        except OSError:  # EIO: nobody has the other end open
            asyncio.get_running_loop().remove_reader(self.master)

    async def until_drawn(self, text: str) -> None:
        """Wait for a text in what is drawn from now on."""
        del self.drawn[:]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await until(lambda: text in self.text or self.process.returncode is not None)
        assert text in self.text, self.text

    @property
    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.drawn.decode(errors="replace"))

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())


@contextlib.asynccontextmanager
async def terminal(
    kubeconfig: Path, *arguments: str, width: int = 120, **environment: str
) -> AsyncIterator[Terminal]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    before = termios.tcgetattr(slave)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pyproxy", "local", "--kubeconfig", str(kubeconfig)),
        *arguments,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        env={**os.environ, "TERM": "xterm-256color", **environment},
        cwd=ROOT,
    )
    made = Terminal(process, master)
    try:
        yield made
        await process.wait()
        assert termios.tcgetattr(slave) == before
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        asyncio.get_running_loop().remove_reader(master)
        os.close(master)
        os.close(slave)
