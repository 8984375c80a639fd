"""The access log of a running agent: a record for each connection, whatever its end."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pyproxy.app.access_log import AccessLogSettings
from pyproxy.app.agent import Agent
from pyproxy.core.access_log import AccessRules
from pyproxy.model.ended import AccessMode
from tests.support import agents
from tests.support.backends import (
    VIP_PORT,
    ask,
    at,
    connect,
    echo,
    greet,
    new_address,
    read_all,
    receive,
    refusing_port,
    reset,
    tcp_backend,
    udp_socket,
    until,
)
from tests.support.builders import Json, make_endpoint, make_port, make_service, make_slice

BOTH = pytest.mark.parametrize("workers", [0, 1])


class Log:
    """A manifest, and the agent's access log of what comes of it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "access.log"
        self.manifests = directory / "manifests"
        self.manifests.mkdir()

    def serve(self, *documents: Json) -> None:
        agents.write(self.manifests / "web.yaml", *documents)

    @contextlib.asynccontextmanager
    async def of(
        self, mode: AccessMode = "all", *, workers: int = 0, **changes: Any
    ) -> AsyncIterator[Agent]:
        rules = AccessRules(mode=mode, sample=2, records_per_second=changes.pop("rate", 1000))
        settings = AccessLogSettings(rules=rules, format="json", path=str(self.path))
        asked = agents.settings(self.manifests, access_log=settings, workers=workers, **changes)
        async with agents.running(asked) as agent:
            yield agent

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    async def first(self) -> dict[str, Any]:
        """Wait for a record."""
        await until(lambda: self.path.exists() and bool(self.records()))
        return self.records()[0]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def web(vip: str, *endpoints: tuple[str, int], **annotations: str) -> list[Json]:
    """The Service default/web, with a pod at each endpoint."""
    service = make_service(cluster_ip=vip, ports=[make_port(VIP_PORT)])
    service["metadata"]["annotations"] = {
        f"pyproxy.io/{name.replace('_', '-')}": value for name, value in annotations.items()
    }
    slices = []
    for number, (address, port) in enumerate(endpoints):
        pod = {"kind": "Pod", "name": f"web-{number}"}
        endpoint = make_endpoint(address, node="node-2", targetRef=pod)
        ports = [{"name": "http", "port": port}]
        slices.append(make_slice(endpoint, name=f"web-{number}", ports=ports))
    return [service, *slices]


async def is_refused(vip: str) -> bool:
    """Whether a connection is reset, or not taken, before it says anything."""
    try:
        with await connect(vip) as client:
            return await read_all(client) == b""
    except ConnectionError:
        return True


@BOTH
async def test_a_finished_connection_is_told_with_its_pod_and_bytes(log: Log, workers: int) -> None:
    vip = new_address()
    async with tcp_backend(new_address(), echo) as endpoint:
        log.serve(*web(vip, endpoint))
        async with log.of(workers=workers) as agent:
            with await connect(vip) as client:
                client.sendall(b"hello")
                at = client.getsockname()
                client.shutdown(socket.SHUT_WR)
                assert await read_all(client) == b"hello"
            record = await log.first()
            await until(lambda: agent.metrics.access_log["written"] == 1)
    assert record.pop("time").endswith("Z")
    assert 0 <= record.pop("connect_seconds") <= record.pop("duration_seconds")
    assert record == {
        "namespace": "default",
        "name": "web",
        "port": "http",
        "protocol": "TCP",
        "frontend": f"{vip}:{VIP_PORT}",
        "client": f"{at[0]}:{at[1]}",
        "endpoint": f"{endpoint[0]}:{endpoint[1]}",
        "pod": "web-0",
        "node": "node-2",
        "attempts": 1,
        "failed": [],
        "bytes_to_endpoint": 5,
        "bytes_to_client": 5,
        "datagrams_to_endpoint": None,
        "datagrams_to_client": None,
        "reason": "finished",
    }


async def test_errors_leaves_out_what_went_well(log: Log) -> None:
    vip = new_address()
    async with tcp_backend(new_address(), reset_at_once) as endpoint:
        log.serve(*web(vip, endpoint, refusing_port(new_address()), balance="round-robin"))
        async with log.of("errors"):
            assert await is_refused(vip)
            record = await log.first()
    assert [r["reason"] for r in log.records()] == ["endpoint_reset"]
    assert record["endpoint"] == f"{endpoint[0]}:{endpoint[1]}"


async def reset_at_once(connection: socket.socket) -> None:
    reset(connection)


async def test_off_writes_nothing(log: Log) -> None:
    vip = new_address()
    log.serve(*web(vip, refusing_port(new_address())))
    async with log.of("off") as agent:
        assert await is_refused(vip)
        ((_, counters),) = agent.metrics.service_ports()
        await until(lambda: counters.closed["connect_failed"] == 1)
    assert not log.path.exists()


@BOTH
async def test_who_never_had_an_endpoint_is_told_with_those_that_were_tried(
    log: Log, workers: int
) -> None:
    vip, endpoint = new_address(), refusing_port(new_address())
    log.serve(*web(vip, endpoint))
    async with log.of("errors", workers=workers):
        assert await is_refused(vip)
        record = await log.first()
    assert (record["reason"], record["endpoint"], record["pod"]) == ("connect_failed", None, None)
    assert (record["attempts"], record["failed"]) == (1, [f"{endpoint[0]}:{endpoint[1]}"])
    assert record["connect_seconds"] is None


async def test_a_client_over_the_limit_is_told_without_an_endpoint(log: Log) -> None:
    vip = new_address()
    async with tcp_backend(new_address(), echo) as endpoint:
        log.serve(*web(vip, endpoint, max_connections="1"))
        async with log.of("errors"):
            with await connect(vip) as first:
                first.sendall(b"hello")
                assert await is_refused(vip)
                record = await log.first()
    assert (record["reason"], record["endpoint"], record["attempts"]) == ("over_limit", None, 0)
    assert record["frontend"] == f"{vip}:{VIP_PORT}"


async def test_what_is_cut_at_the_end_is_still_written(log: Log) -> None:
    vip = new_address()
    async with tcp_backend(new_address(), echo) as endpoint:
        log.serve(*web(vip, endpoint))
        with contextlib.ExitStack() as stack:
            async with log.of(workers=1, drain_timeout_s=0.0):
                client = stack.enter_context(await connect(vip))
                client.sendall(b"hello")
                assert await receive_some(client) == b"hello"
    (record,) = log.records()
    assert (record["reason"], record["bytes_to_client"]) == ("drained", 5)


async def receive_some(client: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(client, 100)


@BOTH
async def test_what_exceeds_the_rate_is_left_out_and_counted(log: Log, workers: int) -> None:
    vip = new_address()
    async with tcp_backend(new_address(), greet(b"hello")) as endpoint:
        log.serve(*web(vip, endpoint))
        async with log.of(workers=workers, rate=2) as agent:
            for _ in range(20):
                assert await ask(vip) == b"hello"
            counted = agent.metrics.access_log
            await until(lambda: counted["written"] + counted["limited"] == 20)
            assert counted["limited"] > 0
    assert len(log.records()) == counted["written"]


async def test_what_was_left_out_is_told_in_the_log(
    log: Log, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyproxy.app.access_log._TELL_INTERVAL_S", 0.01)
    vip = new_address()
    log.serve(*web(vip, refusing_port(new_address())))
    async with log.of("errors", rate=1):
        for _ in range(20):
            assert await is_refused(vip)
        await until(lambda: "(accessLog.recordsPerSecond)" in caplog.text)
    assert "more than 1 a second" in caplog.text


@BOTH
async def test_a_udp_flow_is_told_with_its_datagrams_at_its_end(log: Log, workers: int) -> None:
    vip = new_address()
    with udp_socket(new_address()) as endpoint, udp_socket("127.0.0.1") as client:
        address, port = at(endpoint)
        service = make_service(cluster_ip=vip, ports=[make_port(VIP_PORT, protocol="UDP")])
        ports = [{"name": "http", "port": port, "protocol": "UDP"}]
        log.serve(service, make_slice(address, ports=ports))
        async with log.of(workers=workers):
            client.sendto(b"question", (vip, VIP_PORT))
            _, proxy = await receive(endpoint)
            endpoint.sendto(b"an answer", proxy)
            await receive(client)
    (record,) = log.records()
    assert (record["protocol"], record["reason"]) == ("UDP", "drained")
    assert (record["datagrams_to_endpoint"], record["bytes_to_endpoint"]) == (1, 8)
    assert (record["datagrams_to_client"], record["bytes_to_client"]) == (1, 9)
    assert (record["endpoint"], record["attempts"]) == (f"{address}:{port}", 1)
    assert record["connect_seconds"] is None


async def test_a_udp_client_that_gets_no_flow_is_told_once_in_a_while(log: Log) -> None:
    vip = new_address()
    service = make_service(cluster_ip=vip, ports=[make_port(VIP_PORT, protocol="UDP")])
    # An endpoint that is the Service's own address is never tried.
    ports = [{"name": "http", "port": VIP_PORT, "protocol": "UDP"}]
    log.serve(service, make_slice(vip, ports=ports))
    with udp_socket("127.0.0.1") as client:
        async with log.of("errors", rate=1) as agent:
            ((_, counters),) = agent.metrics.service_ports()
            for number in range(1, 11):
                client.sendto(b"question", (vip, VIP_PORT))
                await until(lambda number=number: counters.dropped.total() == number)  # type: ignore[misc]
            record = await log.first()
    assert (record["reason"], record["endpoint"]) == ("connect_failed", None)
    assert record["failed"] == [f"{vip}:{VIP_PORT}"]
    assert len(log.records()) < 10
