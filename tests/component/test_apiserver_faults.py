"""What the API server source survives, one fault at a time, and that it loses nothing by it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pyproxy.model.events import Deleted, Listed
from tests.support.fake_api import FakeApiServer, write_kubeconfig
from tests.support.fake_api_source import (
    FAST,
    RecordedSource,
    endpoint_slice,
    running_source,
    service,
)


@pytest.fixture
async def api() -> AsyncIterator[FakeApiServer]:
    async with FakeApiServer() as server:
        server.create("services", service("old"))
        server.create("services", service("kept"))
        yield server


@pytest.fixture
def kubeconfig(api: FakeApiServer, tmp_path: Path) -> Path:
    return write_kubeconfig(tmp_path / "kubeconfig", api.url)


def with_settings(**changes: Any) -> Any:
    return msgspec.structs.replace(FAST, **changes)


async def until_watching(api: FakeApiServer, source: RecordedSource) -> None:
    """Wait until the first lists are there, and both sides know of the watches that follow."""
    await source.until_listed("services", "endpointslices", "servicecidrs")
    await api.until(lambda: len(api.watches()) == 3)


async def assert_nothing_is_lost(api: FakeApiServer, source: RecordedSource) -> None:
    """Follow on `delete_old`: what was deleted around the fault is gone, what is new is there."""
    api.create("services", service("new"))
    await source.until(lambda: source.names("services") == {"kept", "new"})


def delete_old(api: FakeApiServer) -> None:
    """Change something that the source must learn of, whatever happens to its watch."""
    api.delete("services", "old", "default")


async def test_a_watch_that_ends_in_order_is_resumed_at_its_position_without_a_wait(
    api: FakeApiServer, kubeconfig: Path
) -> None:
    async with running_source(kubeconfig, with_settings(backoff_base_s=1000.0)) as source:
        await until_watching(api, source)
        api.end_watches("services")
        delete_old(api)
        await assert_nothing_is_lost(api, source)
        assert source.lists("services") == 1
        assert source.restarts("services") == {"ended": 1}


async def test_a_server_that_ends_each_watch_at_once_is_not_asked_in_a_loop(
    api: FakeApiServer, kubeconfig: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_source(kubeconfig, with_settings(steady_after_s=1000.0)) as source:
        await until_watching(api, source)
        api.faults.watches_end_at_once = True
        api.end_watches("services")
        await api.until(lambda: api.count_asked("services", "watch") == 4)
        assert any("cannot watch services: the server ended" in one for one in caplog.messages)
        api.faults.watches_end_at_once = False
        delete_old(api)
        await assert_nothing_is_lost(api, source)
        assert source.lists("services") == 1


async def test_a_reset_connection_is_resumed_at_its_position(
    api: FakeApiServer, kubeconfig: Path
) -> None:
    async with running_source(kubeconfig) as source:
        await until_watching(api, source)
        api.break_watches("services")
        delete_old(api)
        await assert_nothing_is_lost(api, source)
        assert source.lists("services") == 1
        assert source.restarts("services") == {"reset": 1}


@pytest.mark.parametrize("gone", ["event", "status"])
async def test_a_service_deleted_while_the_watch_was_down_is_gone_after_the_relist(
    api: FakeApiServer, kubeconfig: Path, gone: Any
) -> None:
    api.faults.gone = gone
    async with running_source(kubeconfig) as source:
        await until_watching(api, source)
        with api.faults.refusing(503, resource="services") as refusal:
            api.break_watches("services")
            await api.until(lambda: refusal.count > 0)
            delete_old(api)
            api.store.compact()
        await source.until(lambda: source.lists("services") == 2)
        assert source.names("services") == {"kept"}
        assert not any(isinstance(event, Deleted) for event in source.events)
        assert source.restarts("services")["expired"] == 1
        await assert_nothing_is_lost(api, source)


async def test_nothing_is_lost_when_the_api_server_restarts(
    api: FakeApiServer, kubeconfig: Path
) -> None:
    async with running_source(kubeconfig) as source:
        await until_watching(api, source)
        await api.stop()
        delete_old(api)
        await api.start()
        await assert_nothing_is_lost(api, source)
        assert source.metrics.watch_states["services"] == "watching"


async def test_the_state_stays_as_it_is_during_an_outage(
    api: FakeApiServer, kubeconfig: Path
) -> None:
    async with running_source(kubeconfig) as source:
        await until_watching(api, source)
        said = list(source.events)
        await api.stop()
        await source.until_restarted("services", "unreachable", 5)
        assert source.metrics.watch_states["services"] in ("waiting", "listing", "watching")
        assert source.events == said
        await api.start()
        await api.until(lambda: len(api.watches("services")) == 1)
        assert source.events == said
        delete_old(api)
        await assert_nothing_is_lost(api, source)


@pytest.mark.parametrize("code", [500, 503, 429, 504])
async def test_an_unwilling_server_is_asked_again_with_growing_waits(
    api: FakeApiServer, kubeconfig: Path, code: int
) -> None:
    reason = "throttled" if code == 429 else "server_error"
    async with running_source(kubeconfig) as source:
        await until_watching(api, source)
        with api.faults.refusing(code, resource="services") as refusal:
            api.break_watches("services")
            await api.until(lambda: refusal.count == 4)
            delete_old(api)
        await assert_nothing_is_lost(api, source)
        assert source.restarts("services")[reason] == refusal.count
        assert source.lists("services") == 1


async def test_the_first_list_waits_for_an_unwilling_server(
    api: FakeApiServer, kubeconfig: Path
) -> None:
    with ExitStack() as faults:
        refusal = faults.enter_context(api.faults.refusing(503))
        async with running_source(kubeconfig) as source:
            await api.until(lambda: refusal.count > 9)
            assert source.events == [Listed("nodes", ())]
            faults.close()
            await source.until_listed("services", "endpointslices", "servicecidrs")
            assert source.names("services") == {"old", "kept"}


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after_is_obeyed(api: FakeApiServer, kubeconfig: Path, form: str) -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    headers = {"Retry-After": "3600" if form == "seconds" else when}
    # The longest wait is the only thing that keeps it from waiting for an hour.
    async with running_source(kubeconfig, with_settings(retry_after_cap_s=0.05)) as source:
        await until_watching(api, source)
        loop = asyncio.get_running_loop()
        with api.faults.refusing(429, resource="services", headers=headers) as refusal:
            api.break_watches("services")
            await api.until(lambda: refusal.count == 1)
            started_s = loop.time()
            await api.until(lambda: refusal.count == 2)
            assert loop.time() - started_s >= 0.05  # a lower bound holds on any machine
        delete_old(api)
        await assert_nothing_is_lost(api, source)


async def test_a_server_that_speaks_no_http_is_asked_again(
    api: FakeApiServer, kubeconfig: Path
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        await reader.read()
        writer.close()

    async with running_source(kubeconfig) as source:
        await until_watching(api, source)
        await api.stop()
        server = await asyncio.start_server(answer, "127.0.0.1", int(api.url.rsplit(":", 1)[1]))
        await source.until_restarted("services", "malformed", 2)
        server.close()
        delete_old(api)
        await api.start()
        await assert_nothing_is_lost(api, source)


async def test_a_half_open_connection_is_given_up_when_bookmarks_stop(
    api: FakeApiServer, kubeconfig: Path
) -> None:
    api.bookmark_interval_s = 0.02
    async with running_source(kubeconfig, with_settings(bookmark_silence_s=0.5)) as source:
        await until_watching(api, source)
        await asyncio.sleep(
            0.1
        )  # until a bookmark has come; only the server knows that it was sent
        api.freeze_watches("services")
        delete_old(api)
        await assert_nothing_is_lost(api, source)
        assert source.restarts("services")["silent"] == 1
        assert source.lists("services") == 1


async def test_a_half_open_connection_is_given_up_after_the_end_that_was_asked_for(
    api: FakeApiServer, kubeconfig: Path
) -> None:
    settings = with_settings(watch_timeout_s=0.5, watch_margin_s=0.1)  # asks for one second
    async with running_source(kubeconfig, settings) as source:
        await until_watching(api, source)
        api.freeze_watches("services")
        delete_old(api)
        await assert_nothing_is_lost(api, source)
        assert source.restarts("services")["silent"] == 1


async def test_a_server_that_accepts_and_never_answers_is_given_up(
    api: FakeApiServer, kubeconfig: Path
) -> None:
    async with running_source(kubeconfig, with_settings(answer_timeout_s=0.2)) as source:
        await until_watching(api, source)
        asked = api.count_asked("services", "watch")
        api.faults.hangs = True
        api.break_watches("services")
        await api.until(lambda: api.count_asked("services", "watch") > asked + 1)
        api.faults.hangs = False
        delete_old(api)
        await assert_nothing_is_lost(api, source)
        assert source.restarts("services")["silent"] >= 1


async def test_a_line_that_is_cut_off_is_asked_for_again(
    api: FakeApiServer, kubeconfig: Path
) -> None:
    async with running_source(kubeconfig) as source:
        await until_watching(api, source)
        api.send_raw("services", b'{"type":"DELETED","object":{"metadata":{"name":"ke')
        api.end_watches("services")
        delete_old(api)
        await assert_nothing_is_lost(api, source)
        assert source.restarts("services") == {"truncated": 1}


@pytest.mark.parametrize("line", [b"<html>\n", b'{"type":1}\n', b"\xff\xfe\n", b"[" * 5000 + b"\n"])
async def test_a_line_that_makes_no_sense_is_survived(
    api: FakeApiServer, kubeconfig: Path, line: bytes
) -> None:
    async with running_source(kubeconfig) as source:
        await until_watching(api, source)
        api.send_raw("services", line)
        await api.until(lambda: api.count_asked("services", "watch") == 2)
        delete_old(api)
        await assert_nothing_is_lost(api, source)
        assert source.restarts("services") == {"malformed": 1}


async def test_an_object_that_is_too_large_is_survived(
    api: FakeApiServer, kubeconfig: Path
) -> None:
    async with running_source(kubeconfig, with_settings(max_object_bytes=2000)) as source:
        await until_watching(api, source)
        huge = service("huge")
        huge["metadata"]["annotations"] = {"text": "x" * 5000}
        api.create("services", huge)
        # The same line would come for ever: the list leaves the object out.
        await source.until(lambda: source.lists("services") == 2)
        assert source.names("services") == {"old", "kept"}
        assert source.restarts("services")["too_large"] == 4
        assert source.metrics.decode_errors["services"] == 1
        delete_old(api)
        await assert_nothing_is_lost(api, source)


async def test_an_error_event_is_survived(api: FakeApiServer, kubeconfig: Path) -> None:
    async with running_source(kubeconfig) as source:
        await until_watching(api, source)
        api.send_error("services", 500, "InternalError", "etcd is not well")
        await api.until(lambda: api.count_asked("services", "watch") == 2)
        delete_old(api)
        await assert_nothing_is_lost(api, source)
        assert source.restarts("services") == {"watch_error": 1}
        assert source.lists("services") == 1


@pytest.mark.parametrize("times", [1, 2])
async def test_a_continue_token_that_expires_starts_the_list_over(
    api: FakeApiServer, kubeconfig: Path, times: int
) -> None:
    api.faults.watch_list = "refused"
    api.store.pages_to_expire = times
    for number in range(5):
        api.create("services", service(f"more-{number}"))
    async with running_source(kubeconfig, with_settings(page_size=3)) as source:
        await source.until_listed("services")
        assert len(source.names("services")) == 7
        assert source.restarts("services")["expired"] == times
    lists = [one.query for one in api.asked if one.resource == "services" and one.verb == "list"]
    # A list that is too slow twice is taken in one piece.
    assert (
        ["limit" in query for query in lists] == [True] * 5 if times == 1 else [True] * 4 + [False]
    )


async def test_a_permission_that_is_taken_away_later_keeps_the_last_state(
    api: FakeApiServer, kubeconfig: Path
) -> None:
    async with running_source(kubeconfig) as source:
        await until_watching(api, source)
        said = list(source.events)
        with api.faults.refusing(403, resource="services") as refusal:
            api.break_watches("services")
            await api.until(lambda: refusal.count == 3)
            assert [one for one in source.events if one.resource == "services"] == [
                one for one in said if one.resource == "services"
            ]
            delete_old(api)
        await assert_nothing_is_lost(api, source)
        assert source.lists("services") == 1


async def test_a_burst_of_failures_is_logged_when_it_starts_and_when_it_is_over(
    api: FakeApiServer, kubeconfig: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pyproxy")
    async with running_source(kubeconfig) as source:
        api.create("endpointslices", endpoint_slice("web", "10.0.0.1"))
        await until_watching(api, source)
        with api.faults.refusing(503, resource="services") as refusal:
            api.break_watches("services")
            await api.until(lambda: refusal.count == 5)
        async with asyncio.timeout(30):
            while not any("watching services again" in one for one in caplog.messages):
                await asyncio.sleep(0.001)
        told = [one for one in caplog.messages if "services" in one]
        assert len(told) == 2
        assert told[0].startswith("cannot watch services")
        assert "what was known of them stays; trying on" in told[0]
