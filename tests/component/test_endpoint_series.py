"""Series of endpoints in running agents: what connections and flows come to, ended or live."""

import asyncio
import contextlib
import os
import signal
import socket
from pathlib import Path

import pytest

from pyproxy.app.agent import Agent
from pyproxy.metrics.endpoint_series import EndpointSeries
from tests.support import agents
from tests.support.backends import (
    VIP_PORT,
    ask,
    at,
    connect,
    echo,
    greet,
    new_address,
    receive,
    refusing_port,
    tcp_backend,
    udp_socket,
    until,
)
from tests.support.builders import make_port, make_service, make_slice

BOTH = pytest.mark.parametrize("workers", [0, 1])
Row = tuple[int, int, int, int, int]


@pytest.fixture(autouse=True)
def told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only of the agent itself; its workers have their own time."""
    monkeypatch.setattr("pyproxy.forward.endpoint_counts._INTERVAL_S", 0.0)


def row(agent: Agent, endpoint: tuple[str, int]) -> Row:
    """Opened, active, failures, bytes to the endpoint and to the client."""
    series = agent.metrics.endpoint_series
    assert isinstance(series, EndpointSeries)
    for (_, key), s in series.rows():
        if key == endpoint:
            return (s.opened, s.active, s.failures, s.bytes_to_endpoint, s.bytes_to_client)
    return (0, 0, 0, 0, 0)


async def becomes(agent: Agent, endpoint: tuple[str, int], wanted: Row) -> None:
    seen: list[Row] = []

    def is_so() -> bool:
        seen.append(row(agent, endpoint))
        return seen[-1] == wanted

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(20):
            await until(is_so)
    assert seen[-1] == wanted
    assert seen == sorted(seen, key=lambda r: r[0])  # opened only grows


async def echoed(client: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, b"hello")
    assert await loop.sock_recv(client, 100) == b"hello"


@BOTH
async def test_live_connections_count_and_so_do_those_that_ended(
    tmp_path: Path, workers: int
) -> None:
    vip = new_address()
    async with tcp_backend(new_address(), echo) as endpoint:
        agents.write(tmp_path / "web.yaml", *agents.web(vip, VIP_PORT, endpoint))
        asked = agents.settings(tmp_path, workers=workers, endpoint_series=100)
        async with agents.running(asked) as agent:
            with await connect(vip) as first, await connect(vip) as second:
                await echoed(first)
                await echoed(second)
                await becomes(agent, endpoint, (2, 2, 0, 10, 10))
                await echoed(first)
                await becomes(agent, endpoint, (2, 2, 0, 15, 15))
            await becomes(agent, endpoint, (2, 0, 0, 15, 15))


@BOTH
async def test_an_endpoint_that_was_tried_in_vain_has_its_failures(
    tmp_path: Path, workers: int
) -> None:
    vip, dead = new_address(), refusing_port(new_address())
    async with tcp_backend(new_address(), greet(b"hello")) as endpoint:
        agents.write(tmp_path / "web.yaml", *agents.web(vip, VIP_PORT, dead, endpoint))
        asked = agents.settings(tmp_path, workers=workers, endpoint_series=100)
        async with agents.running(asked) as agent:
            ((_, counters),) = agent.metrics.service_ports()
            while not counters.retries:
                assert await ask(vip) == b"hello"
                await asyncio.sleep(0.01)
            await until(lambda: row(agent, dead)[2] == counters.retries)
            assert row(agent, dead)[:2] == (0, 0)


async def test_a_udp_flow_counts_for_each_endpoint_that_it_had(tmp_path: Path) -> None:
    vip = new_address()
    service = make_service(cluster_ip=vip, ports=[make_port(VIP_PORT, protocol="UDP")])

    def slice_of(endpoint: tuple[str, int]) -> None:
        ports = [{"name": "http", "port": endpoint[1], "protocol": "UDP"}]
        agents.write(tmp_path / "web.yaml", service, make_slice(endpoint[0], ports=ports))

    with (
        udp_socket(new_address()) as first,
        udp_socket(new_address()) as second,
        udp_socket("127.0.0.1") as client,
    ):
        slice_of(at(first))
        async with agents.running(agents.settings(tmp_path, endpoint_series=100)) as agent:
            client.sendto(b"one", (vip, VIP_PORT))
            await receive(first)
            await becomes(agent, at(first), (1, 1, 0, 3, 0))
            generation = agent.metrics.table_generation
            slice_of(at(second))
            await until(lambda: agent.metrics.table_generation > generation)
            client.sendto(b"three", (vip, VIP_PORT))
            await receive(second)
            await becomes(agent, at(second), (1, 1, 0, 5, 0))
            await becomes(agent, at(first), (1, 0, 0, 3, 0))


async def test_counts_survive_a_worker_and_what_it_had_live_has_ended(tmp_path: Path) -> None:
    vip = new_address()
    async with tcp_backend(new_address(), echo) as endpoint:
        agents.write(tmp_path / "web.yaml", *agents.web(vip, VIP_PORT, endpoint))
        async with agents.running(
            agents.settings(tmp_path, workers=1, endpoint_series=100)
        ) as agent:
            with await connect(vip) as client:
                await echoed(client)
                await becomes(agent, endpoint, (1, 1, 0, 5, 5))
                (worker,) = agent.detail()["workers"]
                os.kill(worker["pid"], signal.SIGKILL)
                await becomes(agent, endpoint, (1, 0, 0, 5, 5))

            def is_replaced() -> bool:
                now = agent.detail()["workers"]
                return any(w["serving"] and w["pid"] != worker["pid"] for w in now)

            await until(is_replaced)
            with await connect(vip) as client:
                await echoed(client)
                await becomes(agent, endpoint, (2, 1, 0, 10, 10))
