"""Scrapes over real connections: formats, compression, many at once, clients that do not read."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
from aiohttp import web
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parsed_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parsed_text

from pyproxy.metrics import Exposition, Metrics
from pyproxy.model.service import ServicePortName
from pyproxy.ops.scrapes import Scrapes
from tests.support.backends import until

# What Prometheus 2.42 asks with.
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


class Counting(Exposition):
    """Counts how often it was rendered, and how much of it is being rendered at once."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__(metrics)
        self.renderings = 0
        self.under_way = 0
        self.most_at_once = 0
        self.asked = 0
        self.is_held = False  # a rendering goes on until it is not
        self.waits = False

    def format(self, accept: str) -> str:
        self.asked += 1
        return super().format(accept)

    def pieces(self, accept: str) -> Iterator[bytes]:
        self.renderings += 1
        self.under_way += 1
        self.most_at_once = max(self.most_at_once, self.under_way)
        try:
            yield from super().pieces(accept)
            while self.is_held:
                self.waits = True
                yield b""
        finally:
            self.under_way -= 1


@pytest.fixture
async def scraped(unused_tcp_port: int) -> AsyncIterator[tuple[str, Counting]]:
    metrics = Metrics()
    for number in range(2000):
        counters = metrics.service_port(ServicePortName("shop", f"s{number}", "http", "TCP"))
        counters.connect_times[0] = counters.durations[0] = number + 1
    exposition = Counting(metrics)
    application = web.Application()
    application.router.add_get("/metrics", Scrapes(exposition).answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
    yield f"http://127.0.0.1:{unused_tcp_port}/metrics", exposition
    await runner.cleanup()


async def get(url: str, **headers: str) -> tuple[aiohttp.ClientResponse, bytes]:
    headers.setdefault("Accept-Encoding", "identity")
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.get(url, headers=headers) as answer,
    ):
        return answer, await answer.read()


async def test_a_scrape_has_all_series_in_the_format_that_was_asked_for(
    scraped: tuple[str, Counting],
) -> None:
    url, _ = scraped
    answer, text = await get(url)
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in parsed_text(text.decode())}
    assert len(families["pyproxy_connections_active"].samples) == 2000
    answer, text = await get(url, Accept=PROMETHEUS)
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    parsed = parsed_openmetrics(text.decode())  # type: ignore[no-untyped-call]
    found = {family.name: family for family in parsed}
    assert found.keys() >= families.keys()


async def test_who_takes_gzip_gets_the_same_text_in_less(scraped: tuple[str, Counting]) -> None:
    url, _ = scraped
    _, plain = await get(url)
    answer, packed = await get(url, **{"Accept-Encoding": "gzip"})
    assert answer.headers["Content-Encoding"] == "gzip"
    assert len(packed) < len(plain) / 10

    def lasting(text: bytes) -> list[bytes]:
        return [line for line in text.splitlines() if line.startswith((b"pyproxy_conn", b"# "))]

    assert lasting(gzip.decompress(packed)) == lasting(plain)


async def test_who_comes_during_a_rendering_shares_the_next_with_others_who_wait(
    scraped: tuple[str, Counting],
) -> None:
    url, exposition = scraped
    exposition.is_held = True
    async with asyncio.TaskGroup() as group:
        first = group.create_task(get(url))
        await until(lambda: exposition.waits)
        exposition._metrics.table_generation = 7
        asked = exposition.asked
        others = [group.create_task(get(url)) for _ in range(3)]
        # Each asks for the format twice, and then waits for the rendering that is under way.
        await until(lambda: exposition.asked == asked + 2 * len(others))
        exposition.is_held = False
    assert b"pyproxy_table_generation 0.0" in first.result()[1]
    for other in others:
        assert b"pyproxy_table_generation 7.0" in other.result()[1]
    assert (exposition.renderings, exposition.most_at_once) == (2, 1)


async def test_a_client_that_does_not_read_or_goes_away_holds_up_nobody(
    scraped: tuple[str, Counting],
) -> None:
    url, exposition = scraped
    port = int(url.split(":")[2].split("/")[0])
    stuck = []
    for _ in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readexactly(1)
        stuck.append(writer)
    _, text = await get(url)
    assert text.endswith(b"\n")
    stuck[0].transport.abort()
    writer = (await asyncio.open_connection("127.0.0.1", port))[1]
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    writer.transport.abort()
    _, text = await get(url)
    assert text.endswith(b"\n")
    for writer in stuck:
        writer.transport.abort()
    assert exposition.under_way == 0


async def test_more_scrapes_than_anybody_needs_are_told_to_come_again(
    scraped: tuple[str, Counting],
) -> None:
    url, _ = scraped
    port = int(url.split(":")[2].split("/")[0])
    stuck = []
    for _ in range(32):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readexactly(1)
        stuck.append(writer)
    answer, _ = await get(url)
    assert answer.status == 503
    for writer in stuck:
        writer.transport.abort()
    async with asyncio.timeout(30):
        while answer.status != 200:
            answer, _ = await get(url)


async def test_a_head_request_is_answered_without_a_body(scraped: tuple[str, Counting]) -> None:
    url, exposition = scraped
    async with aiohttp.ClientSession() as session, session.head(url) as answer:
        assert answer.status == 200
        assert answer.content_type == "text/plain"
    assert exposition.renderings == 0
