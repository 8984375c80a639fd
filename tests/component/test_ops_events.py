"""Events: what is posted, what is held back, and that nobody ever waits for it."""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pyproxy.core.apiservers import ApiServers
from pyproxy.errors import ApiError, ConfigError
from pyproxy.model.service import ServiceName
from pyproxy.ops import events
from pyproxy.ops.events import (
    ApiSink,
    EventPublisher,
    LogSink,
    Occurrence,
    Regarding,
    event_body,
    not_listening,
    started,
)
from pyproxy.source.client import ApiClient
from pyproxy.source.credentials import CredentialSettings
from tests.support.fake_api import write_kubeconfig

NOW = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
WEB = Regarding("Service", "web", "default", "uid-1")


def failed(note: str = "port 1 is taken") -> Occurrence:
    return Occurrence("Warning", "FailedToStartServiceHealthcheck", "Listen", WEB, note)


class Sink:
    """Gathers what it is given; raises what it is told to."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.fault: Exception | None = None

    async def post(self, occurrence: Occurrence) -> None:
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        self.notes.append(occurrence.note)


class World:
    """A publisher whose clock stands still unless it is set."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.sink = Sink()
        self.publisher = EventPublisher(self.sink, lambda: self.now_s)

    async def delivered(self) -> list[str]:
        """What the sink has got once nothing is left to do."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.publisher.run())
            for _ in range(2 * events.MAX_WAITING + 5):  # a turn of the loop takes one at least
                await asyncio.sleep(0)
            task.cancel()
        return self.sink.notes


async def test_what_is_said_again_of_late_is_said_once() -> None:
    world = World()
    for _ in range(3):
        world.publisher.publish(failed("a"))
    world.publisher.publish(failed("b"))
    assert await world.delivered() == ["a", "b"]
    world.now_s += events.REPEAT_S - 1
    world.publisher.publish(failed("a"))
    assert await world.delivered() == ["a", "b"]
    world.now_s += 1
    world.publisher.publish(failed("a"))
    assert await world.delivered() == ["a", "b", "a"]


async def test_a_flood_is_cut_to_a_burst_and_then_to_a_rate() -> None:
    world = World()
    for number in range(events.BURST + 10):
        world.publisher.publish(failed(f"{number}"))
    assert len(await world.delivered()) == events.BURST
    world.now_s += 2 * events.REFILL_S
    for number in range(5):
        world.publisher.publish(failed(f"later {number}"))
    assert (await world.delivered())[events.BURST :] == ["later 0", "later 1"]
    world.now_s += 1e6
    for number in range(events.BURST + 10):
        world.publisher.publish(failed(f"much later {number}"))
    assert len(await world.delivered()) == 2 * events.BURST + 2


async def test_a_sink_that_takes_nothing_fills_the_queue_and_no_more() -> None:
    world = World()
    for number in range(3 * events.MAX_WAITING):
        world.now_s += events.REFILL_S
        world.publisher.publish(failed(f"{number}"))
    assert len(await world.delivered()) == events.MAX_WAITING


async def test_what_was_dropped_may_be_said_again() -> None:
    world = World()
    for number in range(events.BURST + 1):
        world.publisher.publish(failed(f"{number}"))
    world.now_s += events.REFILL_S
    world.publisher.publish(failed(f"{events.BURST}"))
    assert (await world.delivered())[-1] == f"{events.BURST}"


async def test_only_so_many_are_remembered() -> None:
    world = World()
    for number in range(events.MAX_REMEMBERED + 1):
        world.now_s += events.REFILL_S
        world.publisher.publish(failed(f"{number}"))
        if number % events.MAX_WAITING == events.MAX_WAITING - 1:
            await world.delivered()
    assert len(await world.delivered()) == events.MAX_REMEMBERED + 1
    assert len(world.publisher._said) == events.MAX_REMEMBERED


@pytest.mark.parametrize("fault", [ApiError("no answer"), ConfigError("no token")])
async def test_an_event_that_is_not_taken_is_logged_and_the_next_one_posted(
    fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    world.sink.fault = fault
    world.publisher.publish(failed("a"))
    world.publisher.publish(failed("b"))
    assert await world.delivered() == ["b"]
    assert caplog.messages == [f"event FailedToStartServiceHealthcheck was not taken: {fault}"]


def test_the_event_of_a_start_names_the_node_only() -> None:
    assert event_body(started("node-1"), NOW, "host-1") == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "node-1.1886caf21ca08a70", "namespace": "default"},
        "eventTime": "2026-01-02T03:04:05.000678Z",
        "reportingController": "pyproxy",
        "reportingInstance": "pyproxy-host-1",
        "action": "StartKubeProxy",
        "reason": "Starting",
        "regarding": {"apiVersion": "v1", "kind": "Node", "name": "node-1"},
        "note": "",
        "type": "Normal",
    }


def test_the_event_of_a_service_is_in_its_namespace() -> None:
    body = event_body(msg := failed(), NOW, "h")
    assert body["metadata"]["namespace"] == "default"
    assert body["regarding"] == {
        "apiVersion": "v1",
        "kind": "Service",
        "namespace": "default",
        "name": "web",
        "uid": "uid-1",
    }
    assert (body["type"], body["note"]) == ("Warning", msg.note)


def test_a_frontend_that_is_not_listened_on_is_told_on_its_service() -> None:
    service = ServiceName("default", "web")
    assert not_listening(service, "uid-1", "10.0.0.1:30080/TCP", "in use") == Occurrence(
        "Warning", "FailedToListen", "Listen", WEB, "cannot listen on 10.0.0.1:30080/TCP: in use"
    )


def test_what_is_too_long_for_the_api_is_cut() -> None:
    body = event_body(failed("é" * 1000), NOW.replace(microsecond=0), "h" * 200)
    assert body["note"] == "é" * 512
    assert len(body["reportingInstance"]) == 128
    assert body["eventTime"] == "2026-01-02T03:04:05.000000Z"


@pytest.mark.parametrize(
    ("occurrence", "level", "text"),
    [
        (started("node-1"), logging.INFO, "event on Node node-1: Starting"),
        (
            failed(),
            logging.WARNING,
            "event on Service default/web: FailedToStartServiceHealthcheck: port 1 is taken",
        ),
    ],
)
async def test_without_an_api_server_events_go_to_the_log(
    occurrence: Occurrence, level: int, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await LogSink().post(occurrence)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [(level, text)]


class Api:
    """An API server that takes events; `answers` come first, one for each request."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str | None, Any]] = []
        self.answers: list[web.Response] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        found = (request.path, request.headers.get("Authorization"), await request.json())
        self.requests.append(found)
        return self.answers.pop(0) if self.answers else web.json_response({}, status=201)


@asynccontextmanager
async def api_server() -> AsyncIterator[Api]:
    api = Api()
    application = web.Application()
    application.router.add_post("/{path:.*}", api.handle)
    runner = web.AppRunner(application)
    await runner.setup()
    sock = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, sock).start()
    api.url = "http://{}:{}".format(*sock.getsockname())
    try:
        yield api
    finally:
        await runner.cleanup()


def client_of(kubeconfig: Path) -> ApiClient:
    settings = CredentialSettings(kubeconfig=str(kubeconfig))
    return ApiClient(settings, ApiServers(), connect_timeout_s=5)


async def test_it_is_posted_with_our_credentials(tmp_path: Path) -> None:
    async with api_server() as api:
        kubeconfig = write_kubeconfig(tmp_path / "config", api.url, user={"token": "secret"})
        async with client_of(kubeconfig) as client:
            await ApiSink(client, "host-1", lambda: NOW).post(failed())
        path = "/apis/events.k8s.io/v1/namespaces/default/events"
        assert api.requests == [(path, "Bearer secret", event_body(failed(), NOW, "host-1"))]


async def test_the_host_and_the_time_are_ours_unless_they_are_given(tmp_path: Path) -> None:
    async with (
        api_server() as api,
        client_of(write_kubeconfig(tmp_path / "config", api.url)) as client,
    ):
        await ApiSink(client).post(started("node-1"))
        body = api.requests[0][2]
        assert body["reportingInstance"] == f"pyproxy-{socket.gethostname()}"[:128]
        assert datetime.fromisoformat(body["eventTime"]).tzinfo == UTC


async def test_a_token_that_ran_out_is_read_again(tmp_path: Path) -> None:
    async with api_server() as api:
        path = write_kubeconfig(tmp_path / "config", api.url, user={"token": "old"})
        async with client_of(path) as client:
            write_kubeconfig(path, api.url, user={"token": "new"})
            api.answers = [web.Response(status=401)]
            await ApiSink(client).post(failed())
        assert [token for _, token, _ in api.requests] == ["Bearer old", "Bearer new"]


async def test_an_event_that_is_refused_is_told_with_the_answer(tmp_path: Path) -> None:
    async with (
        api_server() as api,
        client_of(write_kubeconfig(tmp_path / "config", api.url)) as client,
    ):
        api.answers = [web.Response(status=403, body=json.dumps({"message": "no"}).encode())]
        with pytest.raises(ApiError, match=r'answers 403: \{"message": "no"\}') as caught:
            await ApiSink(client).post(failed())
        assert caught.value.status == 403


async def test_without_an_answer_it_says_where_it_tried(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    path = write_kubeconfig(tmp_path / "config", f"http://127.0.0.1:{port}")
    async with client_of(path) as client:
        with pytest.raises(ApiError, match=f"http://127.0.0.1:{port}: "):
            await ApiSink(client).post(failed())
