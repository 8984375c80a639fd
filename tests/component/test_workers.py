"""Worker processes: what they take over from one process, and what happens when one dies."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from pyproxy.app.agent import Agent
from pyproxy.app.worker_settings import hello_for
from pyproxy.app.worker_wire import frame
from pyproxy.app.workers import Workers
from pyproxy.metrics import ServicePortCounters
from tests.support import agents
from tests.support.backends import (
    VIP_PORT,
    ask,
    connect,
    echo,
    greet,
    new_address,
    read_all,
    receive,
    tcp_backend,
    udp_socket,
    until,
)
from tests.support.builders import Json, make_port, make_service, make_slice

# So many connections that each of two workers gets some, but for one run in a hundred million.
MANY = 30


@contextlib.asynccontextmanager
async def two_workers(*manifests: Path, **changes: Any) -> AsyncIterator[Agent]:
    async with agents.running(agents.settings(*manifests, workers=2, **changes)) as agent:
        yield agent


@contextlib.asynccontextmanager
async def connected(vip: str) -> AsyncIterator[list[socket.socket]]:
    """Many connections that have been echoed to once each."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(await connect(vip)) for _ in range(MANY)]
        for client in clients:
            assert await echoed(client)
        yield clients


async def echoed(client: socket.socket) -> bool:
    """Whether the other end still answers; False when it has reset the connection."""
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_sendall(client, b"hello")
        return await loop.sock_recv(client, 100) == b"hello"
    except ConnectionError:
        return False


def counters(agent: Agent) -> ServicePortCounters:
    ((_, found),) = agent.metrics.service_ports()
    return found


def pids(agent: Agent) -> list[int]:
    return [worker["pid"] for worker in agent.detail()["workers"] if worker["serving"]]


async def is_refused(vip: str) -> bool:
    try:
        (await connect(vip)).close()
    except ConnectionRefusedError:
        return True
    return False


async def changed(agent: Agent, path: Path, *documents: Json) -> None:
    """Write a manifest, and wait until it is served."""
    before = agent.metrics.last_update_s
    generation = agent.store.table().generation
    agents.write(path, *documents)
    await until(lambda: agent.store.table().generation > generation)
    await until(lambda: agent.metrics.last_update_s > before)
    settled = agent.store.table().generation
    await until(lambda: agent.metrics.table_generation == settled)
    before = agent.metrics.last_update_s
    agent._pipeline.request()  # the one after it begins when it is done
    await until(lambda: agent.metrics.last_update_s > before)


async def test_all_workers_serve_and_their_counts_are_added_up(tmp_path: Path) -> None:
    vip = new_address()
    async with tcp_backend(new_address(), echo) as endpoint:
        agents.write(tmp_path / "web.yaml", *agents.web(vip, VIP_PORT, endpoint))
        async with two_workers(tmp_path) as agent:
            async with connected(vip):
                await until(lambda: all(w["connections"] for w in agent.detail()["workers"]))
                await until(lambda: counters(agent).active == MANY)
            await until(lambda: counters(agent).active == 0)
            found = counters(agent)
            assert found.opened == MANY
            assert found.closed == {"finished": MANY}
            assert found.attempts == {"ok": MANY}
            assert (found.bytes_to_client, found.bytes_to_endpoint) == (5 * MANY, 5 * MANY)


async def test_a_udp_service_is_served_by_workers(tmp_path: Path) -> None:
    vip = new_address()
    with udp_socket(new_address()) as backend, udp_socket("127.0.0.1") as client:
        address, number = backend.getsockname()
        service = make_service(cluster_ip=vip, ports=[make_port(VIP_PORT, protocol="UDP")])
        port = {"name": "http", "port": number, "protocol": "UDP"}
        agents.write(tmp_path / "a.yaml", service, make_slice(address, ports=[port]))
        async with two_workers(tmp_path) as agent:
            client.sendto(b"question", (vip, VIP_PORT))
            _, sender = await receive(backend)
            backend.sendto(b"answer", sender)
            assert await receive(client) == (b"answer", (vip, VIP_PORT))
            await until(lambda: counters(agent).datagrams_to_client == 1)


async def test_a_worker_that_is_killed_costs_its_connections_and_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vip = new_address()
    async with tcp_backend(new_address(), echo) as endpoint:
        agents.write(tmp_path / "web.yaml", *agents.web(vip, VIP_PORT, endpoint))
        async with two_workers(tmp_path) as agent, connected(vip) as clients:
            await until(lambda: counters(agent).active == MANY)
            await until(lambda: sum(w["connections"] for w in agent.detail()["workers"]) == MANY)
            victim, other = agent.detail()["workers"]
            os.kill(victim["pid"], signal.SIGKILL)
            await until(lambda: agent.metrics.worker_restarts == 1)
            alive = [await echoed(client) for client in clients]
            assert sum(alive) == other["connections"]
            assert counters(agent).closed == {"worker_lost": victim["connections"]}
            assert counters(agent).active == other["connections"]
            assert counters(agent).opened == MANY
            await until(lambda: len(pids(agent)) == 2)
            assert victim["pid"] not in pids(agent)
            async with connected(vip):
                await until(lambda: agent.detail()["workers"][0]["connections"] > 0)
            await until(lambda: counters(agent).opened == 2 * MANY)
    (line,) = [line for line in caplog.messages if line.startswith("worker 0")]
    lost = victim["connections"]
    assert line == (
        f"worker 0 (pid {victim['pid']}) ended: SIGKILL; it had {lost} connections and UDP flows;"
        " another one is started at once"
    )


async def test_one_worker_alone_is_replaced_too(tmp_path: Path) -> None:
    vip, path = new_address(), tmp_path / "web.yaml"
    async with tcp_backend(new_address(), greet(b"hello")) as endpoint:
        agents.write(path, *agents.web(vip, VIP_PORT, endpoint))
        async with agents.running(agents.settings(tmp_path, workers=1)) as agent:
            os.kill(pids(agent)[0], signal.SIGKILL)
            await until(lambda: not pids(agent))
            await changed(agent, tmp_path / "b.yaml", make_service("b", cluster_ip=new_address()))
            assert await ask(vip) == b"hello"


async def test_what_changes_reaches_all_workers(tmp_path: Path) -> None:
    vip, second, path = new_address(), new_address(), tmp_path / "web.yaml"

    async def answers(address: str) -> set[bytes]:
        return {await ask(address) for _ in range(MANY)}

    async with (
        tcp_backend(new_address(), greet(b"old")) as old,
        tcp_backend(new_address(), greet(b"new")) as new,
    ):
        agents.write(path, *agents.web(vip, VIP_PORT, old))
        async with two_workers(tmp_path) as agent:
            assert await answers(vip) == {b"old"}
            await changed(agent, path, *agents.web(vip, VIP_PORT, new))
            assert await answers(vip) == {b"new"}
            await changed(agent, path, *agents.web(second, VIP_PORT, old))
            assert await answers(second) == {b"old"}
            assert all([await is_refused(vip) for _ in range(MANY)])
            await changed(agent, path, *agents.web(second, VIP_PORT))
            assert all([await is_refused(second) for _ in range(MANY)])
            await changed(agent, path, make_service("b", cluster_ip=new_address()))
            assert {name.name for name, _ in agent.metrics.service_ports()} <= {"b"}


async def test_a_frontend_that_cannot_be_bound_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    vip = "192.0.2.77"
    agents.write(tmp_path / "a.yaml", *agents.web(vip, VIP_PORT, ("127.0.0.1", 1)))
    async with two_workers(tmp_path) as agent:
        (unbound,) = agent.detail()["unbound"]
        assert (unbound["address"], unbound["reason"]) == (vip, "the address is not on this host")
        (tmp_path / "a.yaml").unlink()
        await until(lambda: not agent.detail()["unbound"])
    assert caplog.text.count("cannot listen on") == 1
    assert "cannot listen on" not in capfd.readouterr().err


async def test_a_frontend_that_is_bound_later_is_listened_on_by_all(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    vip = new_address()
    async with tcp_backend(new_address(), greet(b"hello")) as endpoint:
        agents.write(tmp_path / "a.yaml", *agents.web(vip, VIP_PORT, endpoint))
        with socket.create_server((vip, VIP_PORT)):
            running = two_workers(tmp_path)
            agent = await running.__aenter__()
            try:
                (unbound,) = agent.detail()["unbound"]
                assert unbound["reason"] == "another process listens there"
            except BaseException:
                await running.__aexit__(*sys.exc_info())
                raise
        try:
            await until(lambda: not agent.detail()["unbound"])
            assert await ask(vip) == b"hello"
        finally:
            await running.__aexit__(None, None, None)
    assert caplog.text.count("after all") == 1


async def test_a_stuck_worker_is_killed_and_blocks_no_update_for_good(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vip = new_address()
    async with (
        tcp_backend(new_address(), greet(b"hello")) as endpoint,
        two_workers(tmp_path, worker_patience_s=1.0) as agent,
    ):
        stuck = pids(agent)[0]
        os.kill(stuck, signal.SIGSTOP)
        await changed(agent, tmp_path / "a.yaml", *agents.web(vip, VIP_PORT, endpoint))
        await until(lambda: len(pids(agent)) == 2 and stuck not in pids(agent))
        assert {await ask(vip) for _ in range(MANY)} == {b"hello"}
    assert f"worker 0 (pid {stuck}) has not answered for 1 s; killing it" in caplog.text


def sticky(vip: str, *endpoints: tuple[str, int]) -> list[Json]:
    return agents.web(vip, VIP_PORT, *endpoints, sessionAffinity="ClientIP")


async def test_a_client_sticks_to_its_endpoint_whichever_worker_it_meets(tmp_path: Path) -> None:
    vip, path = new_address(), tmp_path / "web.yaml"
    async with contextlib.AsyncExitStack() as stack:
        names = [f"endpoint {n}".encode() for n in range(6)]
        endpoints = [
            await stack.enter_async_context(tcp_backend(new_address(), greet(name)))
            for name in names
        ]
        agents.write(path, *sticky(vip, endpoints[-1]))
        async with two_workers(tmp_path) as agent:
            assert await ask(vip) == names[-1]
            workers = agent._forwarder
            assert isinstance(workers, Workers)
            await until(lambda: len(workers._affinity) == 1)
            await changed(agent, path, *sticky(vip, *endpoints))
            assert {await ask(vip) for _ in range(MANY)} == {names[-1]}
            for pid in pids(agent):  # those that come in their place know it too
                os.kill(pid, signal.SIGKILL)
                await until(lambda pid=pid: pid not in pids(agent))  # type: ignore[misc]
                await until(lambda: len(pids(agent)) == 2)
                assert {await ask(vip) for _ in range(MANY)} == {names[-1]}


async def test_the_limit_of_a_service_holds_for_all_workers_together(tmp_path: Path) -> None:
    vip, limit = new_address(), 10
    async with tcp_backend(new_address(), echo) as endpoint:
        service, *slices = agents.web(vip, VIP_PORT, endpoint)
        service["metadata"]["annotations"] = {"pyproxy.io/max-connections": str(limit)}
        agents.write(tmp_path / "web.yaml", service, *slices)
        async with two_workers(tmp_path) as agent:
            for done in (MANY, 2 * MANY):  # also when those of the first round have gone
                assert await served(vip) == limit
                await until(lambda done=done: counters(agent).closed.total() == done)  # type: ignore[misc]
            assert counters(agent).closed["over_limit"] == 2 * (MANY - limit)
            for pid in pids(agent):
                os.kill(pid, signal.SIGKILL)
            await until(lambda: len(pids(agent)) == 2 and agent.metrics.worker_restarts == 2)
            assert await served(vip) == limit


async def served(vip: str) -> int:
    """Connect many times, keep the connections, and return how many of them are served."""
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(MANY):
            with contextlib.suppress(ConnectionError):
                clients.append(stack.enter_context(await connect(vip)))
        return sum([await echoed(client) for client in clients])


async def test_a_worker_that_keeps_dying_is_started_less_and_less_often(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vip = new_address()
    async with tcp_backend(new_address(), greet(b"hello")) as endpoint:
        agents.write(tmp_path / "web.yaml", *agents.web(vip, VIP_PORT, endpoint))
        async with two_workers(tmp_path) as agent:
            for deaths in (1, 2):
                await until(lambda: len(pids(agent)) == 2)
                os.kill(agent.detail()["workers"][0]["pid"], signal.SIGKILL)
                await until(lambda deaths=deaths: agent.metrics.worker_restarts == deaths)  # type: ignore[misc]
            assert {await ask(vip) for _ in range(MANY)} == {b"hello"}
    first, second = [line for line in caplog.messages if line.startswith("worker 0")]
    assert first.endswith("another one is started at once")
    assert re.search(r"another one is started in 0\.\d s$", second)


async def test_a_worker_with_a_fault_says_so_and_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    async with two_workers(tmp_path) as agent:
        workers = agent._forwarder
        assert isinstance(workers, Workers)
        workers._workers[0].send(frame(hello_for(workers._settings, 0, 0, 20)))
        await until(lambda: agent.metrics.worker_restarts == 1)
    assert "exit status 1; it had 0 connections" in caplog.text
    said = capfd.readouterr().err
    assert "worker 0: a fault of this worker; another one takes its place" in said
    assert "AssertionError: a second Hello" in said


async def test_workers_end_in_order_and_say_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    async with two_workers(tmp_path) as agent:
        ended = [is_gone(pid) for pid in pids(agent)]
    assert all(gone() for gone in ended)
    assert agent.metrics.worker_restarts == 0
    assert "Traceback" not in capfd.readouterr().err
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_live_connections_of_all_workers_drain(tmp_path: Path) -> None:
    vip = new_address()

    async def talk_and_end(clients: list[socket.socket]) -> int:
        while not await is_refused(vip):
            await asyncio.sleep(0.002)
        alive = sum([await echoed(client) for client in clients])
        for client in clients:
            client.shutdown(socket.SHUT_WR)
            assert await read_all(client) == b""
        return alive

    async with (
        tcp_backend(new_address(), echo) as endpoint,
        contextlib.AsyncExitStack() as clients,
    ):
        agents.write(tmp_path / "web.yaml", *agents.web(vip, VIP_PORT, endpoint))
        async with asyncio.TaskGroup() as group, two_workers(tmp_path) as agent:
            live = await clients.enter_async_context(connected(vip))
            talk = group.create_task(talk_and_end(live))
        assert talk.result() == MANY
        assert set(counters(agent).closed) == {"finished"}
        assert counters(agent).active == 0


def is_gone(pid: int) -> Callable[[], bool]:
    """Make a question whether a process has ended, even if nobody has waited for it yet."""

    def ask_kernel() -> bool:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return True
        return stat.rpartition(")")[2].split()[0] == "Z"

    return ask_kernel


def wait_for(holds: Callable[[], bool]) -> None:
    """Wait, for half a minute at most, for what another process does."""
    for _ in range(3000):
        if holds():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come")


def worker_pids(running: agents.Process) -> list[int]:
    with urllib.request.urlopen(running.url("health") + "/healthz?verbose") as answer:
        return [worker["pid"] for worker in json.load(answer)["workers"]]


def refuses(vip: str) -> bool:
    try:
        socket.create_connection((vip, VIP_PORT), timeout=30).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_workers_outlive_a_killed_agent_only_to_drain(tmp_path: Path, loop: str) -> None:
    vip = new_address()
    with socket.create_server((new_address(), 0)) as backend:
        agents.write(tmp_path / "a.yaml", *agents.web(vip, VIP_PORT, backend.getsockname()))
        # They serve for a third of it, in case that another agent starts.
        options = ("--workers", "2", "--loop", loop, "--drain-timeout", "9")
        with agents.process("--manifests", str(tmp_path), *options) as running:
            running.wait_for("listening on 1 addresses and ports")
            workers = worker_pids(running)
            with socket.create_connection((vip, VIP_PORT), timeout=30) as client:
                endpoint, _ = backend.accept()
                with endpoint:
                    running.process.kill()
                    wait_for(lambda: refuses(vip))
                    endpoint.sendall(b"still here")
                    assert client.recv(100) == b"still here"
                    assert not all(is_gone(pid)() for pid in workers)
            backend.close()  # with what came before they stopped listening, and waits there
            for pid in workers:
                wait_for(is_gone(pid))


def test_the_drain_time_holds_for_workers_without_agent(tmp_path: Path) -> None:
    vip = new_address()
    with socket.create_server((new_address(), 0)) as backend:
        agents.write(tmp_path / "a.yaml", *agents.web(vip, VIP_PORT, backend.getsockname()))
        options = ("--workers", "2", "--drain-timeout", "0.2")
        with agents.process("--manifests", str(tmp_path), *options) as running:
            running.wait_for("listening on 1 addresses and ports")
            with socket.create_connection((vip, VIP_PORT), timeout=30) as client:
                endpoint, _ = backend.accept()
                with endpoint:
                    running.process.kill()
                    with pytest.raises(ConnectionResetError):
                        client.recv(100)


def test_signals_to_workers_do_nothing_and_the_agent_s_own_drains_them(tmp_path: Path) -> None:
    vip = new_address()
    with socket.create_server((new_address(), 0)) as backend:
        agents.write(tmp_path / "a.yaml", *agents.web(vip, VIP_PORT, backend.getsockname()))
        with agents.process("--manifests", str(tmp_path), "--workers", "2") as running:
            running.wait_for("listening on 1 addresses and ports")
            with socket.create_connection((vip, VIP_PORT), timeout=30) as client:
                endpoint, _ = backend.accept()
                for pid in worker_pids(running):  # as the end of a container signals them all
                    os.kill(pid, signal.SIGINT)
                    os.kill(pid, signal.SIGTERM)
                running.process.send_signal(signal.SIGTERM)
                running.wait_for("draining: 1 connections are live")
                endpoint.sendall(b"still here")
                assert client.recv(100) == b"still here"
                assert refuses(vip)
                endpoint.close()
                assert client.recv(100) == b""
            assert running.wait() == 0
            assert not [line for line in running.log if "ERROR" in line]


def test_a_worker_is_of_the_agent_s_session_but_not_of_its_process_group(tmp_path: Path) -> None:
    agents.write(tmp_path / "a.yaml", *agents.web(new_address(), VIP_PORT, ("127.0.0.1", 1)))
    with agents.process("--manifests", str(tmp_path), "--workers", "1") as running:
        running.wait_for("listening on 1 addresses and ports")
        (pid,) = worker_pids(running)
        assert os.getsid(pid) == os.getsid(running.process.pid)
        assert os.getpgid(pid) == pid


def test_a_worker_imports_no_api_client() -> None:
    script = (
        "import sys, pyproxy.app.worker\n"
        "print([m for m in ('kubernetes', 'aiohttp', 'yaml', 'rich', 'pyroute2')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
