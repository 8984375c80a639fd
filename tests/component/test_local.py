"""`pyproxy local` on a fake API server: real sockets, straight to the pods and by port-forward."""

import asyncio
import socket
from pathlib import Path

import pytest

from pyproxy.app.local_dial import Upstream
from pyproxy.app.local_names import env_follower, hosts_follower
from pyproxy.core.local_names import Scope
from tests.support.backends import (
    ask,
    connect,
    echo,
    greet,
    new_address,
    read_all,
    tcp_backend,
    udp_socket,
)
from tests.support.builders import make_service, make_slice
from tests.support.fake_api import FakeApiServer
from tests.support.local_runs import CONTEXT, WEB, make_web, running, said, slice_for


@pytest.mark.parametrize("upstream", ["direct", "portforward", "auto"])
async def test_a_service_answers_at_its_loopback_address(
    api: FakeApiServer, tmp_path: Path, upstream: Upstream
) -> None:
    async with tcp_backend(new_address(), echo) as pod:
        make_web(api, ("web-1", pod))
        async with running(api, tmp_path, upstream) as it:
            await it.watched.until_ready()
            address, port = it.watched.place()
            assert address.startswith("127.")
            assert port == 8080  # 80 takes privileges, says the rule
            assert await said(address, port) == b"abc"
    assert bool(api.portforward.asked) == (upstream == "portforward")


async def test_auto_finds_that_pods_cannot_be_reached(api: FakeApiServer, tmp_path: Path) -> None:
    async with tcp_backend(new_address(), echo) as pod:
        make_web(api, ("web-1", pod))
        # The pod's address is one that nothing answers for; the API server knows the way.
        api.portforward.pods["web-1"] = {80: pod}
        api.update("endpointslices", slice_for("web-1", "192.0.2.1", 80))
        async with running(api, tmp_path, "auto") as it:
            await it.watched.until_ready()
            address, port = it.watched.place()
            assert await said(address, port) == b"abc"
            assert it.watched.state is not None
            assert it.watched.state.ways == {CONTEXT: "portforward"}


async def test_a_deleted_pod_costs_the_next_connection_nothing(
    api: FakeApiServer, tmp_path: Path
) -> None:
    async with (
        tcp_backend(new_address(), greet(b"one")) as one,
        tcp_backend(new_address(), greet(b"two")) as two,
    ):
        make_web(api, ("web-1", one), ("web-2", two))
        async with running(api, tmp_path) as it:
            await it.watched.until_ready(endpoints=2)
            address, port = it.watched.place()
            del api.portforward.pods["web-1"]  # and its slice is not told of yet
            answers = {await ask(address, b"", port) for _ in range(10)}
            assert answers == {b"two"}


async def test_a_tunnel_that_is_cut_resets_its_own_client_only(
    api: FakeApiServer, tmp_path: Path
) -> None:
    loop = asyncio.get_running_loop()
    async with tcp_backend(new_address(), echo) as pod:
        make_web(api, ("web-1", pod))
        async with running(api, tmp_path) as it:
            await it.watched.until_ready()
            address, port = it.watched.place()
            with await connect(address, port) as good:
                await loop.sock_sendall(good, b"hello")
                assert await loop.sock_recv(good, 10) == b"hello"
                api.portforward.faults.cut_after_bytes = 3
                with await connect(address, port) as bad:
                    await loop.sock_sendall(bad, b"hello")
                    with pytest.raises(ConnectionResetError):
                        await read_all(bad)
                await loop.sock_sendall(good, b"again")
                assert await loop.sock_recv(good, 10) == b"again"


async def test_each_ready_pod_of_a_headless_service_has_an_address(
    api: FakeApiServer, tmp_path: Path
) -> None:
    async with (
        tcp_backend(new_address(), greet(b"one")) as one,
        tcp_backend(new_address(), greet(b"two")) as two,
    ):
        make_web(api, ("web-0", one), ("web-1", two), cluster_ip="None")
        async with running(api, tmp_path) as it:
            for pod, answer in (("web-0", b"one"), ("web-1", b"two")):
                claimant = WEB._replace(pod=pod)
                await it.watched.until_ready(claimant)
                address, port = it.watched.place(claimant)
                assert await ask(address, b"", port) == answer


async def test_udp_is_forwarded_straight_and_left_out_with_one_line_otherwise(
    api: FakeApiServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()
    with udp_socket(new_address()) as pod:
        address, number = pod.getsockname()
        port = {"name": "dns", "port": 5300, "protocol": "UDP"}
        api.create("services", make_service(ports=[port]))
        ports = [{"name": "dns", "port": number, "protocol": "UDP"}]
        api.create("endpointslices", make_slice(address, ports=ports))
        async with running(api, tmp_path, "direct") as it:
            await it.watched.until_ready()
            with udp_socket("127.0.0.1") as client:
                client.sendto(b"question", it.watched.place())
                assert await loop.sock_recv(pod, 100) == b"question"
        async with running(api, tmp_path, "portforward") as it:
            await it.watched.until_ready()
            assert it.watched.state is not None
            assert it.watched.state.placements[WEB].ports == ()
            assert "left out: 5300/UDP" in it.watched.state.rows[0].note
    lines = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert lines == ["default/web: 5300/UDP is left out: a port-forward carries TCP only"]


async def test_a_port_that_is_taken_is_passed_over_and_told(
    api: FakeApiServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with tcp_backend(new_address(), echo) as pod:
        make_web(api, ("web-1", pod))
        async with running(api, tmp_path) as it:
            await it.watched.until_ready()
            place = it.watched.place()
        with socket.create_server(place):
            async with running(api, tmp_path) as it:
                await it.watched.until_ready()
                address, port = it.watched.place()
                assert (address, port) != place
                where = f"{address}:{port}"
                assert await said(address, port) == b"abc"
    (told,) = (r.getMessage() for r in caplog.records if "another process" in r.getMessage())
    assert told == f"default/web: port 80: another process listens there; it is at {where} now"


async def test_only_what_was_asked_for_is_served(api: FakeApiServer, tmp_path: Path) -> None:
    api.create("services", make_service("web", labels={"app": "web"}))
    api.create("services", make_service("other", labels={"app": "other"}))
    api.create("services", make_service("far", namespace="far", labels={"app": "web"}))
    async with running(api, tmp_path, labels="app=web", namespaces=("default", "later")) as it:
        await it.watched.until_ready(endpoints=0)
        assert it.watched.state is not None
        assert set(it.watched.state.placements) == {WEB}
        # The namespace comes later.
        api.create("services", make_service("web", namespace="later", labels={"app": "web"}))
        await it.watched.until_ready(WEB._replace(namespace="later"), endpoints=0)


async def test_an_external_name_is_told_not_forwarded(api: FakeApiServer, tmp_path: Path) -> None:
    api.create(
        "services",
        make_service(cluster_ip="", type="ExternalName", externalName="db.example.com", ports=[]),
    )
    async with running(api, tmp_path) as it:
        await it.watched.until_ready(endpoints=0)
        assert it.watched.state is not None
        (row,) = it.watched.state.rows
        assert (row.kind, row.address) == ("ExternalName", "")
        assert "db.example.com" in row.note


async def test_names_and_variables_are_there_while_it_runs_and_gone_after(
    api: FakeApiServer, tmp_path: Path
) -> None:
    hosts, env = tmp_path / "hosts", tmp_path / "env"
    hosts.write_bytes(b"127.0.0.1 localhost\r\n# no newline at the end")
    before = hosts.read_bytes()
    scope = Scope(contexts=(CONTEXT,), namespaces=("default",))
    followers = (hosts_follower(hosts, scope), env_follower(env, scope))
    make_web(api, ("web-1", ("192.0.2.1", 80)))
    async with running(api, tmp_path, "portforward", *followers) as it:
        await it.watched.until_ready()
        address, port = it.watched.place()
        assert f"{address} " in hosts.read_text()
        assert "web.default.svc.cluster.local" in hosts.read_text()
        assert f"WEB_SERVICE_HOST={address}\n" in env.read_text()
        assert f"WEB_SERVICE_PORT={port}\n" in env.read_text()
    assert hosts.read_bytes() == before
    assert not env.exists()
