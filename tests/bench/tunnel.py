"""What port-forwarding costs: rate and connections per second, each transport, beside kubectl.

Everything runs on this machine: a fake API server and an echo in a process of their own, the
tunnels here. Read the figures as ratios of each other. `python -m tests.bench.tunnel [MIB]`
"""

import asyncio
import multiprocessing
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from pathlib import Path

import uvloop

from pyproxy.core.apiservers import ApiServers
from pyproxy.core.portforward import V4_PROTOCOL
from pyproxy.source.client import ApiClient
from pyproxy.source.credentials import CredentialSettings
from pyproxy.tunnel.pods import PodTunnels
from tests.support.backends import echo, tcp_backend
from tests.support.fake_api import FakeApiServer, write_kubeconfig

MIB = 1024 * 1024
_SECONDS = 3.0
_WORKERS = 16

Connect = Callable[[], Awaitable[socket.socket]]


async def sink(connection: socket.socket) -> None:
    """Read all, then say how much it was."""
    loop, size = asyncio.get_running_loop(), 0
    buffer = bytearray(MIB)
    while size < _wanted() and (got := await loop.sock_recv_into(connection, buffer)):
        size += got
    await loop.sock_sendall(connection, b"%d" % size)


async def source(connection: socket.socket) -> None:
    """Say as much as is wanted."""
    loop, block = asyncio.get_running_loop(), bytes(MIB)
    for _ in range(_wanted() // MIB):
        await loop.sock_sendall(connection, block)


def _wanted() -> int:
    return (int(sys.argv[1]) if len(sys.argv) > 1 else 1024) * MIB


def _serve(only_v4: bool, ready: Connection) -> None:
    async def serve() -> None:
        async with (
            FakeApiServer() as api,
            tcp_backend("127.0.0.1", echo) as echoing,
            tcp_backend("127.0.0.1", sink) as sinking,
            tcp_backend("127.0.0.1", source) as sourcing,
        ):
            if only_v4:
                api.portforward.faults.protocols = {V4_PROTOCOL}
            api.portforward.pods["web"] = {80: echoing, 81: sinking, 82: sourcing}
            ready.send(api.url)
            await asyncio.Event().wait()

    uvloop.run(serve())


async def upload(connect: Connect) -> float:
    """MiB per second to the pod."""
    loop, block = asyncio.get_running_loop(), bytes(MIB)
    with await connect() as client:
        start = time.perf_counter()
        for _ in range(_wanted() // MIB):
            await loop.sock_sendall(client, block)
        said = await loop.sock_recv(client, 100)
        assert int(said) == _wanted(), said
        return _wanted() / MIB / (time.perf_counter() - start)


async def download(connect: Connect) -> float:
    """MiB per second from the pod."""
    loop, buffer, size = asyncio.get_running_loop(), bytearray(MIB), 0
    with await connect() as client:
        start = time.perf_counter()
        while size < _wanted():
            size += await loop.sock_recv_into(client, buffer)
        return _wanted() / MIB / (time.perf_counter() - start)


async def connections(connect: Connect) -> float:
    """Connections per second: open, one byte to the pod and back, close."""
    loop, count = asyncio.get_running_loop(), 0
    end = time.perf_counter() + _SECONDS

    async def one_after_another() -> None:
        nonlocal count
        while time.perf_counter() < end:
            with await connect() as client:
                await loop.sock_sendall(client, b"x")
                assert await loop.sock_recv(client, 1) == b"x"
                client.shutdown(socket.SHUT_WR)
            count += 1

    async with asyncio.TaskGroup() as tasks:
        for _ in range(_WORKERS):
            tasks.create_task(one_after_another())
    return count / _SECONDS


async def _measure(name: str, connect_to: Callable[[int], Connect]) -> None:
    rates = [await upload(connect_to(81)), await download(connect_to(82))]
    print(
        f"{name:24} {rates[0]:8.0f} MiB/s up {rates[1]:8.0f} MiB/s down "
        f"{await connections(connect_to(80)):8.0f} connections/s",
        flush=True,
    )


async def _through_tunnels(name: str, kubeconfig: Path) -> None:
    credentials = CredentialSettings(kubeconfig=str(kubeconfig))
    async with (
        ApiClient(credentials, ApiServers(), connect_timeout_s=10.0) as client,
        PodTunnels(client) as tunnels,
        asyncio.TaskGroup() as tasks,
    ):

        def connect_to(port: int) -> Connect:
            async def connect() -> socket.socket:
                tunnel = await tunnels.open("default", "web", port)
                ours, theirs = socket.socketpair()
                ours.setblocking(False)
                theirs.setblocking(False)
                tasks.create_task(tunnel.run(theirs))
                return ours

            return connect

        await _measure(name, connect_to)


async def _through_kubectl(kubectl: str, kubeconfig: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(kubectl, "--kubeconfig", str(kubeconfig), "port-forward", "pod/web"),
        *(":80", ":81", ":82", "--address", "127.0.0.1"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=os.environ | {"HOME": str(kubeconfig.parent)},
    )
    assert process.stdout is not None
    ports: dict[int, int] = {}
    try:
        async with asyncio.timeout(30):
            while len(ports) < 3:
                words = (await process.stdout.readline()).split()  # Forwarding from A:P -> PORT
                ports[int(words[-1])] = int(words[2].rpartition(b":")[2])

        def connect_to(port: int) -> Connect:
            async def connect() -> socket.socket:
                client = socket.socket()
                client.setblocking(False)
                await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", ports[port]))
                return client

            return connect

        async with asyncio.TaskGroup() as tasks:  # a full pipe would stop kubectl
            drain = tasks.create_task(process.stdout.read())
            await _measure("kubectl port-forward", connect_to)
            process.kill()
            await drain
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _beside_a_server(measure: Callable[[Path], Awaitable[None]], *, only_v4: bool) -> None:
    ready, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(only_v4, theirs), daemon=True
    )
    server.start()
    try:
        with tempfile.TemporaryDirectory() as directory:
            kubeconfig = write_kubeconfig(Path(directory) / "config", ready.recv())

            async def run() -> None:
                await measure(kubeconfig)

            uvloop.run(run())
    finally:
        server.kill()
        server.join()


def main() -> None:
    """Measure, and print."""
    print(f"{_wanted() // MIB} MiB each way; {_WORKERS} clients for connections")
    for name, only_v4 in (("SPDY in a websocket", False), ("v4", True)):
        _beside_a_server(
            lambda config, name=name: _through_tunnels(name, config),  # type: ignore[misc]
            only_v4=only_v4,
        )
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        print("kubectl is not installed: left out")
    else:
        _beside_a_server(lambda config: _through_kubectl(kubectl, config), only_v4=False)


if __name__ == "__main__":
    main()
