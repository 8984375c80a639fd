"""The whole agent on an API server: a Service that is made there is forwarded here.

The fake API server stands in for a real one. One test also runs against the cluster that
PYPROXY_TEST_KUBECONFIG names, in a namespace of its own.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from pyproxy.app.agent_settings import AgentSettings
from pyproxy.model.addresses import family_of, is_loopback
from pyproxy.source.apiserver import ApiServerSettings
from pyproxy.steer.addresses import local_addresses
from tests.support import agents
from tests.support.backends import VIP_PORT, ask, connect, greet, new_address, tcp_backend, until
from tests.support.builders import make_node, make_port, make_service, make_slice
from tests.support.fake_api import FakeApiServer, write_kubeconfig
from tests.support.fake_api_contract import FAKE_AND_CLUSTER, api_under_test


@pytest.fixture
async def api() -> AsyncIterator[FakeApiServer]:
    async with FakeApiServer() as server:
        yield server


@pytest.fixture
def settings(api: FakeApiServer, tmp_path: Path) -> AgentSettings:
    kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", api.url)
    source = ApiServerSettings(
        kubeconfig=str(kubeconfig), node_name="node-1", backoff_base_s=0.01, backoff_cap_s=0.1
    )
    return agents.settings(api=source)


def make_web(api: FakeApiServer, vip: str, endpoint: tuple[str, int]) -> None:
    api.create("services", make_service(cluster_ip=vip, ports=[make_port(VIP_PORT)]))
    port = {"name": "http", "port": endpoint[1], "protocol": "TCP"}
    api.create("endpointslices", make_slice(endpoint[0], ports=[port]))


async def answer_of(address: str, port: int = VIP_PORT) -> bytes:
    """The answer, as soon as somebody listens."""
    while True:
        try:
            return await ask(address, port=port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.005)


async def test_a_service_that_is_created_is_forwarded(
    api: FakeApiServer, settings: AgentSettings
) -> None:
    vip = new_address()
    async with tcp_backend(new_address(), greet(b"hello")) as endpoint, agents.running(settings):
        make_web(api, vip, endpoint)
        assert await answer_of(vip) == b"hello"


async def test_an_endpoint_that_is_replaced_gets_no_new_connections(
    api: FakeApiServer, settings: AgentSettings
) -> None:
    vip = new_address()
    async with (
        tcp_backend(new_address(), greet(b"old")) as old,
        tcp_backend(new_address(), greet(b"new")) as new,
        agents.running(settings) as agent,
    ):
        make_web(api, vip, old)
        assert await answer_of(vip) == b"old"
        generation = agent.metrics.table_generation
        port = {"name": "http", "port": new[1], "protocol": "TCP"}
        api.update("endpointslices", make_slice(new[0], ports=[port]))
        await until(lambda: agent.metrics.table_generation > generation)
        assert {await ask(vip) for _ in range(20)} == {b"new"}


async def test_an_outage_of_the_api_server_does_not_touch_traffic(
    api: FakeApiServer, settings: AgentSettings
) -> None:
    vip = new_address()
    async with tcp_backend(new_address(), greet(b"hello")) as endpoint:
        make_web(api, vip, endpoint)
        async with agents.running(settings) as agent:
            assert await ask(vip) == b"hello"
            await api.stop()
            await until(lambda: set(agent.metrics.watch_states.values()) == {"waiting"})
            assert await ask(vip) == b"hello"
            # What happens meanwhile is seen afterwards.
            api.delete("services", "web", "default")
            await api.start()
            await until(lambda: agent.metrics.frontends == 0)
            with pytest.raises(ConnectionRefusedError):
                await connect(vip)


async def test_the_node_makes_the_proxy_eligible(
    api: FakeApiServer, settings: AgentSettings, caplog: pytest.LogCaptureFixture
) -> None:
    async def status(url: str) -> int:
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status

    async with agents.running(settings) as agent:
        url = agent.urls["health"]
        assert (await status(url + "/healthz"), await status(url + "/livez")) == (503, 200)
        assert caplog.text.count("the API server knows no Node node-1") == 1
        api.create("nodes", make_node())
        await until(lambda: agent.health.is_node_eligible)
        assert await status(url + "/healthz") == 200
        api.delete("nodes", "node-1", "")
        await until(lambda: not agent.health.is_node_eligible)
        assert await status(url + "/healthz") == 503


async def reachable_address() -> str:
    """An address of this host that an EndpointSlice may hold: the API refuses loopback ones."""
    usable = [
        address
        for address in await asyncio.to_thread(local_addresses)
        if family_of(address) == "IPv4" and not is_loopback(address)
    ]
    if not usable:
        pytest.skip("this host has no IPv4 address but loopback, which no EndpointSlice may hold")
    return min(usable)


@pytest.mark.parametrize("kind", FAKE_AND_CLUSTER)
async def test_a_node_port_reaches_the_endpoint_of_a_slice_made_by_hand(
    kind: str, tmp_path: Path
) -> None:
    async with (
        api_under_test(kind, tmp_path) as api,
        tcp_backend(await reachable_address(), greet(b"hello")) as endpoint,
        agents.running(agents.settings(api=ApiServerSettings(kubeconfig=str(api.kubeconfig)))),
    ):
        ports = [{"name": "http", "port": 80, "protocol": "TCP"}]
        made = await api.create(
            "services",
            {"metadata": {"name": "web"}, "spec": {"type": "NodePort", "ports": ports}},
        )
        node_port = made["spec"]["ports"][0]["nodePort"]
        await api.create(
            "endpointslices",
            {
                "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
                "addressType": "IPv4",
                "ports": [{"name": "http", "port": endpoint[1], "protocol": "TCP"}],
                "endpoints": [{"addresses": [endpoint[0]], "conditions": {"ready": True}}],
            },
        )
        assert await answer_of("127.0.0.1", node_port) == b"hello"
