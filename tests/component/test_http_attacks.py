"""The ports that anybody may reach, under fire: they go on answering, and hold only so much.

The health port stands for all that `ops.web` serves; health-check node ports have servers of their
own.
"""

import asyncio
import contextlib
import os
import re
import socket
import urllib.request
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import aiohttp
import pytest

from pyproxy.core.health import ProxyHealth
from pyproxy.core.health_check import HealthCheck
from pyproxy.model.service import ServiceName
from pyproxy.ops.bounded import MOST_CONNECTIONS
from pyproxy.ops.health_check import HealthCheckServers
from tests.support import agents
from tests.support.backends import descriptors
from tests.support.clock import Clock

CROWD = 10 * MOST_CONNECTIONS
# What is said before falling silent: nothing, a beginning that never ends, a whole question.
_BEGIN = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
OPENINGS = (b"", _BEGIN + b"X: ", _BEGIN + b"\r\n")


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[agents.Process]:
    directory = tmp_path_factory.mktemp("manifests")
    agents.write(directory / "web.yaml", *agents.web("127.0.0.1", 0))
    with agents.process("--manifests", str(directory), "--workers", "1") as started:
        started.wait_for("listening on")
        yield started


def status_of(url: str) -> int:
    with urllib.request.urlopen(url, timeout=30) as answer:
        status: int = answer.status
        return status


@pytest.mark.parametrize("opening", OPENINGS, ids=["silent", "half a header", "a question"])
def test_a_crowd_on_the_health_port_shuts_nobody_out(agent: agents.Process, opening: bytes) -> None:
    url = urlsplit(agent.url("health"))
    assert url.hostname is not None
    with contextlib.ExitStack() as stack:
        for _ in range(CROWD):
            client = socket.create_connection((url.hostname, url.port or 0), timeout=30)
            stack.callback(client.close)
            client.sendall(opening)
        assert status_of(f"{url.geturl()}/healthz") == 200
        held = len(os.listdir(f"/proc/{agent.process.pid}/fd"))
    assert held < MOST_CONNECTIONS + 64  # its other descriptors are some thirty


def test_who_was_there_for_longest_makes_room(agent: agents.Process) -> None:
    url = urlsplit(agent.url("health"))
    assert url.hostname is not None
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection((url.hostname, url.port or 0), timeout=30))
            for _ in range(MOST_CONNECTIONS + 1)
        ]
        # An answer to the last says that all are known.
        clients[-1].sendall(OPENINGS[-1])
        assert clients[-1].recv(12) == b"HTTP/1.1 200"
        assert clients[0].recv(1) == b""
        clients[1].sendall(OPENINGS[-1])
        assert clients[1].recv(12) == b"HTTP/1.1 200"


def test_garbage_and_endless_headers_are_hung_up_on(agent: agents.Process) -> None:
    for garbage in (
        b"\0" * 1000,
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        os.urandom(5000),
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        _BEGIN + b"X: " + b"a" * 1_000_000,
        _BEGIN + b"X: a\r\n" * 200_000,
        _BEGIN + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n"
        + b"a" * 100_000,
    ):
        for name in ("health", "metrics"):
            url = urlsplit(agent.url(name))
            assert url.hostname is not None
            address = (url.hostname, url.port or 0)
            with (
                contextlib.suppress(ConnectionError),
                socket.create_connection(address, timeout=30) as client,
            ):
                client.sendall(garbage)
                client.shutdown(socket.SHUT_WR)
                while client.recv(65536):
                    pass
            assert status_of(f"{url.geturl()}/healthz") == 200
    assert not any(re.search("Traceback|never retrieved", line) for line in agent.log)


@contextlib.asynccontextmanager
async def health_check() -> AsyncIterator[int]:
    """A health-check node port on 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    health = ProxyHealth(60, Clock())
    servers = HealthCheckServers(lambda _: None, health, "node-1")
    check = HealthCheck(ServiceName("default", "web"), port, {"IPv4": 1}, "uid-1")
    await servers.update({port: check}, ["127.0.0.1"])
    try:
        yield port
    finally:
        await servers.close()


async def test_a_crowd_on_a_health_check_node_port_shuts_nobody_out() -> None:
    loop = asyncio.get_running_loop()
    async with health_check() as port:
        before = descriptors()
        with contextlib.ExitStack() as stack:
            for _ in range(CROWD):
                client = stack.enter_context(socket.socket())
                client.setblocking(False)
                await loop.sock_connect(client, ("127.0.0.1", port))
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{port}/") as answer,
            ):
                assert answer.status == 200
            held = descriptors() - before - CROWD
        assert held <= MOST_CONNECTIONS + 2
