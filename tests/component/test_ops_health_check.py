"""Health-check node ports on real sockets."""

import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest

from pyproxy.core.health import ProxyHealth
from pyproxy.core.health_check import HealthCheck
from pyproxy.model.addresses import Family, join_host_port
from pyproxy.model.service import ServiceName
from pyproxy.ops.events import Occurrence, Regarding
from pyproxy.ops.health_check import HealthCheckServers
from tests.support.backends import new_address
from tests.support.clock import Clock


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def check_on(port: int, name: str = "web", **counts: int) -> HealthCheck:
    families: dict[Family, int] = {"IPv4": counts.get("v4", 1)}
    if "v6" in counts:
        families["IPv6"] = counts["v6"]
    return HealthCheck(ServiceName("default", name), port, families, "uid-1")


async def ask(address: str, port: int, method: str = "GET", path: str = "/") -> tuple[int, str]:
    """Status and the header with the count."""
    url = f"http://{join_host_port(address, port)}{path}"
    async with aiohttp.ClientSession() as session, session.request(method, url) as answer:
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        return answer.status, answer.headers["X-Load-Balancing-Endpoint-Weight"]


class World:
    def __init__(self) -> None:
        self.events: list[Occurrence] = []
        self.clock = Clock()
        self.health = ProxyHealth(60, self.clock)
        self.servers = HealthCheckServers(self.events.append, self.health, "node-1")

    async def update(self, checks: list[HealthCheck], *addresses: str) -> None:
        await self.servers.update({check.port: check for check in checks}, addresses)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.servers.close()


async def test_it_tells_the_count_on_every_path_and_method(world: World) -> None:
    at, port = new_address(), free_port()
    await world.update([check_on(port, v4=3)], at)
    for method, path in [("GET", "/"), ("POST", "/any/thing?x=1"), ("HEAD", "/"), ("DELETE", "/x")]:
        assert await ask(at, port, method, path) == (200, "3")
    async with aiohttp.ClientSession() as session, session.get(f"http://{at}:{port}") as answer:
        assert await answer.json() == {
            "service": {"namespace": "default", "name": "web"},
            "localEndpoints": 3,
            "serviceProxyHealthy": True,
        }


async def test_an_update_changes_the_count_without_closing_a_connection(world: World) -> None:
    at, port = new_address(), free_port()
    await world.update([check_on(port)], at)
    connections = 0

    async def opened(*_: object) -> None:
        nonlocal connections
        connections += 1

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(opened)
    async with aiohttp.ClientSession(trace_configs=[trace]) as session:
        for count, status in [(1, 200), (0, 503), (2, 200)]:
            await world.update([check_on(port, v4=count)], at)
            async with session.get(f"http://{at}:{port}") as answer:
                assert answer.status == status
                await answer.read()
    assert connections == 1


async def test_a_proxy_that_is_not_healthy_has_no_healthy_service(world: World) -> None:
    at, port = new_address(), free_port()
    await world.update([check_on(port)], at)
    world.health.is_node_eligible = False  # which is told on the health port only (12.20)
    assert await ask(at, port) == (200, "1")
    world.health.queued()
    world.clock.now_s += 3600
    assert await ask(at, port) == (503, "1")


async def test_ports_open_close_and_move(world: World) -> None:
    first, second = new_address(), new_address()
    one, two = free_port(), free_port()
    await world.update([check_on(one)], first)
    await world.update([check_on(one), check_on(two, "other")], first, second)
    assert world.servers.listening() == {(a, p) for a in (first, second) for p in (one, two)}
    await world.update([check_on(two)], second)
    assert world.servers.listening() == {(second, two)}
    assert await ask(second, two) == (200, "1")
    for address, port in [(first, one), (first, two), (second, one)]:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, port)).close()
    assert world.events == []


async def test_a_wildcard_gives_way_to_an_address_and_back(world: World) -> None:
    at, port = new_address(), free_port()
    for addresses in (["0.0.0.0"], [at], ["0.0.0.0"]):
        await world.update([check_on(port)], *addresses)
        assert await ask(at, port) == (200, "1")
        assert world.servers.listening() == {(addresses[0], port)}
    assert world.events == []


async def test_each_family_has_a_count_of_its_own(world: World) -> None:
    port = free_port()
    await world.update([check_on(port, v4=1, v6=0)], "0.0.0.0", "::")
    assert await ask("127.0.0.1", port) == (200, "1")
    assert await ask("::1", port) == (503, "0")
    await world.update([check_on(port, v4=1)], "0.0.0.0", "::")
    assert world.servers.listening() == {("0.0.0.0", port)}


async def test_a_port_that_is_taken_is_told_and_tried_again_at_the_next_update(
    world: World,
) -> None:
    at, other, port = new_address(), new_address(), free_port()
    addresses = sorted([at, other])
    with socket.create_server((addresses[1], port)):
        await world.update([check_on(port)], at, other)
        assert world.servers.listening() == set()  # none of its addresses: half would mislead
        assert world.events == [
            Occurrence(
                "Warning",
                "FailedToStartServiceHealthcheck",
                "Listen",
                Regarding("Service", "web", "default", "uid-1"),
                f"node node-1 failed to start healthcheck 'default/web' on port {port}:"
                " Address already in use",
            )
        ]
    await world.update([check_on(port)], at, other)
    assert await ask(at, port) == (200, "1")
    assert len(world.events) == 1


async def test_a_port_that_is_taken_keeps_no_other_from_opening(world: World) -> None:
    at, taken, free = new_address(), free_port(), free_port()
    with socket.create_server((at, taken)):
        await world.update([check_on(taken), check_on(free, "other")], at)
        assert world.servers.listening() == {(at, free)}


async def test_closing_ends_what_is_open(world: World) -> None:
    at, port = new_address(), free_port()
    await world.update([check_on(port)], at)
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://{at}:{port}") as answer:
            await answer.read()
        await world.servers.close()
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"http://{at}:{port}")
    assert world.servers.listening() == set()
