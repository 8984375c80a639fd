"""`pyproxy local` on a fake API server: real sockets, straight to the pods and by port-forward."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pyproxy.app.local import Follower, Local, LocalSettings, State
from pyproxy.app.local_dial import Upstream, Way
from pyproxy.app.local_names import EnvFollower, HostsFollower
from pyproxy.app.local_served import Cluster
from pyproxy.app.stop import Stop
from pyproxy.core.local_names import Scope
from pyproxy.core.local_service import Claimant
from pyproxy.core.loopback import Rules
from pyproxy.errors import ApiError, PyproxyError
from pyproxy.source.apiserver import ApiServerSettings, Selection
from tests.support.backends import (
    ask,
    connect,
    echo,
    greet,
    new_address,
    read_all,
    refusing_port,
    tcp_backend,
    udp_socket,
    until,
)
from tests.support.builders import Json, make_endpoint, make_port, make_service, make_slice
from tests.support.fake_api import FakeApiServer, write_kubeconfig

# Of its own, so that two runs of the tests have different addresses.
CONTEXT = f"fake-{os.getpid()}"
WEB = Claimant(CONTEXT, "default", "web")
RULES = Rules(first_port=1024)


@pytest.fixture
async def api() -> AsyncIterator[FakeApiServer]:
    async with FakeApiServer() as server:
        yield server


class Watched:
    """A follower that keeps the newest state."""

    def __init__(self) -> None:
        self.state: State | None = None
        self.is_closed = False
        self.run: asyncio.Task[None] | None = None

    async def follow(self, state: State) -> None:
        self.state = state

    async def close(self) -> None:
        self.is_closed = True

    def place(self, claimant: Claimant = WEB, port: int = 0) -> tuple[str, int]:
        """Address and local port."""
        assert self.state is not None
        placement = self.state.placements[claimant]
        return placement.address, placement.ports[port].local

    async def until_ready(self, claimant: Claimant = WEB, endpoints: int = 1) -> None:
        run = self.run
        assert run is not None
        await until(lambda: run.done() or self.endpoints(claimant) == endpoints)
        if run.done():
            run.result()

    def endpoints(self, claimant: Claimant) -> int | None:
        rows = self.state.rows if self.state else ()
        return next((row.endpoints for row in rows if row.claimant == claimant), None)


class Running:
    """A `Local` that runs, and what it showed."""

    def __init__(self, local: Local, watched: Watched, stop: Stop) -> None:
        self.local = local
        self.watched = watched
        self.stop = stop


@contextlib.asynccontextmanager
async def running(
    api: FakeApiServer,
    directory: Path,
    upstream: Upstream = "portforward",
    *followers: Follower,
    namespaces: tuple[str, ...] = ("default",),
    labels: str = "",
    rules: Rules = RULES,
    user: Json | None = None,
) -> AsyncIterator[Running]:
    kubeconfig = write_kubeconfig(directory / "kubeconfig", api.url, user=user)
    settings = ApiServerSettings(
        kubeconfig=str(kubeconfig),
        selection=Selection(namespaces, labels),
        backoff_base_s=0.01,
        backoff_cap_s=0.1,
    )
    watched, stop = Watched(), Stop()
    local = Local(
        LocalSettings(
            clusters=(Cluster(context=CONTEXT, api=settings),),
            upstream=upstream,
            rules=rules,
            min_interval_s=0.01,
        ),
        [*followers, watched],
    )
    watched.run = run = asyncio.get_running_loop().create_task(local.run(stop))
    try:
        yield Running(local, watched, stop)
    finally:
        stop.asked.set()
        await run
    assert watched.is_closed


async def said(address: str, port: int) -> bytes:
    """What comes back for a few bytes, while both sides are open."""
    with await connect(address, port) as client:
        await asyncio.get_running_loop().sock_sendall(client, b"abc")
        return await asyncio.get_running_loop().sock_recv(client, 100)


def make_web(
    api: FakeApiServer, *pods: tuple[str, tuple[str, int]], cluster_ip: str = "10.96.0.1"
) -> None:
    """Service default/web on port 80, and its pods."""
    api.create("services", make_service(cluster_ip=cluster_ip, ports=[make_port(80)]))
    for name, (address, port) in pods:
        api.portforward.pods[name] = {port: (address, port)}
        api.create("endpointslices", slice_for(name, address, port))


def slice_for(pod: str, address: str, port: int) -> Json:
    endpoint = make_endpoint(address, targetRef={"kind": "Pod", "name": pod})
    return make_slice(endpoint, name=f"web-{pod}", ports=[{"name": "http", "port": port}])


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
    followers = (HostsFollower(hosts, scope), EnvFollower(env, scope))
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


async def test_an_outage_of_the_api_server_ends_and_nothing_has_to_be_started_anew(
    api: FakeApiServer, tmp_path: Path
) -> None:
    async with tcp_backend(new_address(), echo) as pod:
        make_web(api, ("web-1", pod))
        async with running(api, tmp_path) as it:
            await it.watched.until_ready()
            address, port = it.watched.place()
            assert await said(address, port) == b"abc"
            await api.stop()
            with pytest.raises(ConnectionResetError):
                await said(address, port)
            await api.start()
            while True:
                try:
                    assert await said(address, port) == b"abc"
                    break
                except ConnectionResetError:
                    await asyncio.sleep(0.01)


async def test_what_is_forbidden_is_told_with_the_rights_that_are_missing(
    api: FakeApiServer, tmp_path: Path
) -> None:
    kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", api.url)
    source = ApiServerSettings(kubeconfig=str(kubeconfig), selection=Selection(("default",)))
    settings = LocalSettings(clusters=(Cluster(context=CONTEXT, api=source),))
    with (
        api.faults.refusing(403, resource="services"),
        pytest.raises(ApiError, match="services"),
    ):
        await Local(settings, []).run(Stop())


async def test_a_right_to_forward_ports_that_is_missing_is_told_once(
    api: FakeApiServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with tcp_backend(new_address(), echo) as pod:
        make_web(api, ("web-1", pod))
        api.portforward.faults.refuse = 403
        async with running(api, tmp_path) as it:
            await it.watched.until_ready()
            for _ in range(3):
                with pytest.raises(ConnectionResetError):
                    await said(*it.watched.place())
    told = [r.getMessage() for r in caplog.records if "pods/portforward" in r.getMessage()]
    assert len(told) == 1
    assert "grant `get` and `create` on pods/portforward in namespace default" in told[0]


async def test_an_endpoint_that_is_no_pod_is_told_once(
    api: FakeApiServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    api.create("services", make_service(ports=[make_port(80)]))
    api.create("endpointslices", make_slice("192.0.2.1"))
    async with running(api, tmp_path) as it:
        await it.watched.until_ready()
        for _ in range(2):
            with pytest.raises(ConnectionResetError):
                await said(*it.watched.place())
    told = [r.getMessage() for r in caplog.records if "is no pod" in r.getMessage()]
    assert len(told) == 1
    assert told[0].endswith("only --upstream direct can reach it")


async def test_a_token_that_ends_costs_no_connection(tmp_path: Path) -> None:
    async with FakeApiServer(token="one") as api, tcp_backend(new_address(), echo) as pod:
        make_web(api, ("web-1", pod))
        token = tmp_path / "token"
        token.write_text("one")
        async with running(api, tmp_path, user={"tokenFile": str(token)}) as it:
            await it.watched.until_ready()
            place = it.watched.place()
            with await connect(*place) as old:
                token.write_text("two")
                api.token = "two"
                api.end_watches()
                assert await said(*place) == b"abc"
                await asyncio.get_running_loop().sock_sendall(old, b"still there")
                assert await asyncio.get_running_loop().sock_recv(old, 100) == b"still there"
            api.create("services", make_service("later", cluster_ip="10.96.0.2"))
            await it.watched.until_ready(WEB._replace(name="later"), endpoints=0)


class Flaky:
    """A follower that fails from its second call on, as often as it is told to."""

    def __init__(self) -> None:
        self.calls = 0
        self.failures = 0
        self.is_closed = False

    async def follow(self, _: State) -> None:
        self.calls += 1
        if self.calls > 1 and self.failures < 2:
            self.failures += 1
            raise PyproxyError("the disk is full")

    async def close(self) -> None:
        self.is_closed = True
        raise PyproxyError("the disk is still full")


async def test_a_follower_that_fails_later_on_is_told_again_and_keeps_no_other(
    api: FakeApiServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_web(api)
    flaky = Flaky()
    async with running(api, tmp_path, "portforward", flaky) as it:
        await it.watched.until_ready(endpoints=0)
        for name in ("one", "two", "three"):
            api.create("services", make_service(name, cluster_ip="None"))
            api.create("services", make_service(f"{name}-ip", cluster_ip=""))
            await it.watched.until_ready(WEB._replace(name=f"{name}-ip"), endpoints=0)
        await until(lambda: flaky.failures == 2)
    assert flaky.is_closed
    assert "the disk is full; it is tried again" in caplog.text
    assert "left behind: the disk is still full" in caplog.text


class Candidates:
    """A list of endpoints to try that a test changes."""

    def __init__(self, *found: tuple[str, int]) -> None:
        self.found = list(found)
        self.changes = 0

    def __call__(self) -> list[tuple[str, int]]:
        return self.found

    def changed(self) -> None:
        self.changes += 1


async def test_the_way_is_tried_again_when_this_machine_has_another_address_towards_the_pods(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    async with tcp_backend(new_address(), echo) as pod:
        candidates = Candidates()
        way = Way("auto", "context kind", candidates, candidates.changed, look_s=0.01)
        run = asyncio.get_running_loop().create_task(way.run())
        await until(lambda: way.is_known)
        assert way.name == "portforward"
        candidates.found = [pod]  # as with a VPN: another route, from another address
        await until(lambda: way.is_direct)
        candidates.found = [("::1", refusing_port("127.0.0.1")[1])]
        await until(lambda: not way.is_direct)
        assert candidates.changes == 3
        run.cancel()
    assert [record.getMessage() for record in caplog.records] == [
        "context kind: upstream is portforward: no pod is ready that could be tried",
        "context kind: upstream is direct: pods answer from here",
        "context kind: upstream is portforward: no pod answers from here",
    ]
