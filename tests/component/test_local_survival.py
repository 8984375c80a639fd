"""What `pyproxy local` meets and survives: outages, missing rights, other networks."""

import asyncio
from pathlib import Path

import pytest

from pyproxy.app.local import Local, LocalSettings, State
from pyproxy.app.local_dial import Way
from pyproxy.app.local_served import Cluster
from pyproxy.app.stop import Stop
from pyproxy.errors import ApiError, PyproxyError
from pyproxy.source.apiserver import ApiServerSettings, Selection
from tests.support.backends import (
    connect,
    echo,
    new_address,
    refusing_port,
    tcp_backend,
    until,
)
from tests.support.builders import make_port, make_service, make_slice
from tests.support.fake_api import FakeApiServer, write_kubeconfig
from tests.support.local_runs import CONTEXT, WEB, make_web, running, said


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
