"""The API server source, while nothing goes wrong: what it asks for and what it publishes."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from pyproxy.errors import ApiError
from pyproxy.model.events import Applied, Deleted, Listed, Resource
from pyproxy.model.node import Node
from tests.support.fake_api import FakeApiServer, write_kubeconfig
from tests.support.fake_api_source import (
    FAST,
    endpoint_slice,
    node,
    run_source,
    running_source,
    service,
    service_cidr,
)


@pytest.fixture
async def api() -> AsyncIterator[FakeApiServer]:
    async with FakeApiServer() as server:
        yield server


@pytest.fixture
def kubeconfig(api: FakeApiServer, tmp_path: Path) -> Path:
    return write_kubeconfig(tmp_path / "kubeconfig", api.url)


def with_settings(**changes: Any) -> Any:
    return msgspec.structs.replace(FAST, **changes)


async def test_every_resource_is_listed_once_and_then_followed(
    api: FakeApiServer, kubeconfig: Path
) -> None:
    api.create("services", service("web"))
    api.create("endpointslices", endpoint_slice("web", "10.0.0.1"))
    api.create("servicecidrs", service_cidr("kubernetes", "10.96.0.0/16"))
    api.create("nodes", node("node-1"))
    async with running_source(kubeconfig, with_settings(node_name="node-1")) as source:
        await source.until_listed("services", "endpointslices", "servicecidrs", "nodes")
        assert {what: source.names(what) for what in source.objects} == {
            "services": {"web"},
            "endpointslices": {"web"},
            "servicecidrs": {"kubernetes"},
            "nodes": {"node-1"},
        }
        listed = len(source.events)
        made = api.create("services", service("api"))
        await source.until(lambda: len(source.events) == listed + 1)
        made["spec"]["ports"][0]["port"] = 81
        api.update("services", made)
        await source.until(lambda: len(source.events) == listed + 2)
        api.delete("services", "api", "default")
        await source.until(lambda: len(source.events) == listed + 3)
        assert [type(event) for event in source.events[listed:]] == [Applied, Applied, Deleted]
        assert cast("Applied", source.events[listed + 1]).value.ports[0].port == 81  # type: ignore[union-attr]
        assert set(source.metrics.watch_states.values()) == {"watching"}
        assert not source.metrics.watch_restarts


async def test_the_streaming_list_is_the_one_request_for_list_and_watch(
    api: FakeApiServer, kubeconfig: Path
) -> None:
    async with running_source(kubeconfig) as source:
        await source.until_listed("services")
    asked = next(asked for asked in api.asked if asked.resource == "services")
    timeout_s = int(asked.query["timeoutSeconds"])
    assert 1000 <= timeout_s < 2000
    assert asked.query == {
        "watch": "true",
        "sendInitialEvents": "true",
        "allowWatchBookmarks": "true",
        "resourceVersionMatch": "NotOlderThan",
        "timeoutSeconds": str(timeout_s),
        "labelSelector": "!service.kubernetes.io/service-proxy-name",
        "fieldSelector": "spec.clusterIP!=None",
    }
    assert api.count_asked("services", "list") == 0


@pytest.mark.parametrize("watch_list", ["refused", "ignored"])
async def test_a_server_without_streaming_lists_is_listed_by_pages(
    api: FakeApiServer, kubeconfig: Path, watch_list: Any
) -> None:
    api.faults.watch_list = watch_list
    names = {f"web-{number}" for number in range(7)}
    for name in names:
        api.create("services", service(name))
    settings = with_settings(page_size=2, stream_silence_s=0.1)
    async with running_source(kubeconfig, settings) as source:
        await source.until_listed("services")
        assert source.names("services") == names
        api.create("services", service("late"))
        await source.until(lambda: "late" in source.names("services"))
        assert source.lists("services") == 1
        assert source.restarts("services") == {"not_streaming": 1}
    assert api.count_asked("services", "list") == 4


async def test_an_old_server_is_found_out_by_a_bookmark_that_is_not_the_end(
    api: FakeApiServer, kubeconfig: Path
) -> None:
    api.faults.watch_list = "ignored"
    api.bookmark_interval_s = 0.01
    api.create("services", service("web"))
    async with running_source(kubeconfig) as source:
        await source.until_listed("services")
        assert source.names("services") == {"web"}
        assert source.restarts("services") == {"not_streaming": 1}


async def test_headless_and_foreign_services_are_not_watched(
    api: FakeApiServer, kubeconfig: Path
) -> None:
    foreign = service("foreign")
    foreign["metadata"]["labels"] = {"service.kubernetes.io/service-proxy-name": "other"}
    headless = endpoint_slice("headless", "10.0.0.1")
    headless["metadata"]["labels"]["service.kubernetes.io/headless"] = ""
    api.create("services", foreign)
    api.create("services", service("headless", clusterIP="None"))
    api.create("services", service("web"))
    api.create("endpointslices", headless)
    api.create("endpointslices", endpoint_slice("web", "10.0.0.1"))
    async with running_source(kubeconfig) as source:
        await source.until_listed("services", "endpointslices")
        assert source.names("services") == {"web"}
        assert source.names("endpointslices") == {"web"}


async def test_a_label_that_gives_a_service_away_deletes_it_here(
    api: FakeApiServer, kubeconfig: Path
) -> None:
    made = api.create("services", service("web"))
    async with running_source(kubeconfig) as source:
        await source.until_listed("services")
        made["metadata"]["labels"] = {"service.kubernetes.io/service-proxy-name": ""}
        api.update("services", made)
        await source.until(lambda: not source.names("services"))
        assert source.events[-1] == Deleted("services", ("default", "web"))


async def test_a_proxy_name_selects_its_services_only(api: FakeApiServer, kubeconfig: Path) -> None:
    mine = service("mine")
    mine["metadata"]["labels"] = {"service.kubernetes.io/service-proxy-name": "me"}
    api.create("services", mine)
    api.create("services", service("web"))
    async with running_source(kubeconfig, with_settings(proxy_name="me")) as source:
        await source.until_listed("services")
        assert source.names("services") == {"mine"}


async def test_only_the_own_node_is_watched(api: FakeApiServer, kubeconfig: Path) -> None:
    api.create("nodes", node("node-1", "zone-b"))
    api.create("nodes", node("node-2"))
    async with running_source(kubeconfig, with_settings(node_name="node-1")) as source:
        await source.until_listed("nodes")
        (found,) = source.objects["nodes"].values()
        assert isinstance(found, Node)
        assert (found.name, found.zone) == ("node-1", "zone-b")


async def test_without_a_node_name_the_nodes_are_empty(
    api: FakeApiServer, kubeconfig: Path
) -> None:
    api.create("nodes", node("node-1"))
    async with running_source(kubeconfig) as source:
        await source.until_listed("services", "nodes")
        assert source.events[0] == Listed("nodes", ())
    assert api.count_asked("nodes", "watch") == 0


async def test_an_object_that_cannot_be_read_is_left_out_counted_and_logged_once(
    api: FakeApiServer, kubeconfig: Path, caplog: pytest.LogCaptureFixture
) -> None:
    api.create("services", service("bad", ports="none"))
    api.create("services", service("web"))
    async with running_source(kubeconfig) as source:
        await source.until_listed("services")
        assert source.names("services") == {"web"}
        api.store.compact()
        api.end_watches("services")
        await source.until(lambda: source.lists("services") == 2)
        assert source.names("services") == {"web"}
        assert source.metrics.decode_errors == {"services": 2}
    assert len([one for one in caplog.messages if "default/bad" in one]) == 1


async def test_a_long_list_lets_others_run(api: FakeApiServer, kubeconfig: Path) -> None:
    for number in range(600):
        api.create("endpointslices", endpoint_slice(f"s{number}", *["10.0.0.1"] * 20))
    api.faults.watch_list = "refused"
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with asyncio.TaskGroup() as tasks:
        counting = tasks.create_task(count_turns())
        async with running_source(kubeconfig, with_settings(page_size=1000)) as source:
            await source.until_listed("endpointslices")
            counting.cancel()
    assert len(source.names("endpointslices")) == 600
    assert turns > 2


@pytest.mark.parametrize("resource", ["services", "endpointslices"])
async def test_a_missing_permission_at_the_start_is_fatal_and_says_which(
    api: FakeApiServer, kubeconfig: Path, resource: Resource
) -> None:
    group = {"services": "", "endpointslices": "discovery.k8s.io"}[resource]
    message = (
        f'{resource} is forbidden: User "system:serviceaccount:a:b" cannot watch resource '
        f'"{resource}" in API group "{group}" at the cluster scope'
    )
    with (
        api.faults.refusing(403, resource=resource, message=message),
        pytest.raises(ApiError) as raised,
    ):
        await run_source(kubeconfig)
    text = str(raised.value)
    assert raised.value.status == 403
    assert f"'system:serviceaccount:a:b' may not watch {resource} in API group '{group}'" in text
    assert f"apiGroups ['{group}'], resources ['{resource}'], verbs ['list', 'watch']" in text
    assert "\n" not in text


async def test_a_missing_permission_to_list_names_that_verb(
    api: FakeApiServer, kubeconfig: Path
) -> None:
    api.faults.watch_list = "refused"
    with (
        api.faults.refusing(403, resource="services", verb="list"),
        pytest.raises(ApiError, match="this user may not list services"),
    ):
        await run_source(kubeconfig)


async def test_two_fatal_errors_at_once_are_told_as_one(
    api: FakeApiServer, kubeconfig: Path
) -> None:
    with api.faults.refusing(403), pytest.raises(ApiError):
        await run_source(kubeconfig)


@pytest.mark.parametrize("code", [403, 404])
async def test_absent_service_cidrs_are_an_empty_list_and_looked_for_again(
    api: FakeApiServer, kubeconfig: Path, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    api.create("servicecidrs", service_cidr("kubernetes", "10.96.0.0/16"))
    async with running_source(kubeconfig) as source:
        with api.faults.refusing(code, resource="servicecidrs") as refusal:
            await api.until(lambda: refusal.count >= 3)
            assert source.objects["servicecidrs"] == {}
            assert source.lists("servicecidrs") == 1
        await source.until(lambda: source.names("servicecidrs") == {"kubernetes"})
    told = [one for one in caplog.records if "cannot watch servicecidrs" in one.getMessage()]
    assert [one.levelname for one in told] == ["INFO"]


async def test_absent_service_cidrs_are_shown_as_absent(
    api: FakeApiServer, kubeconfig: Path
) -> None:
    settings = with_settings(absent_retry_s=1000.0)
    with api.faults.refusing(404, resource="servicecidrs"):
        async with running_source(kubeconfig, settings) as source:
            await source.until_listed("servicecidrs", "services")
            assert source.metrics.watch_states["servicecidrs"] == "absent"
            assert source.restarts("servicecidrs") == {"not_found": 1}


@pytest.mark.parametrize("code", [403, 404])
async def test_a_node_that_cannot_be_read_is_an_empty_list_and_retried(
    api: FakeApiServer, kubeconfig: Path, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    api.create("nodes", node("node-1"))
    async with running_source(kubeconfig, with_settings(node_name="node-1")) as source:
        with api.faults.refusing(code, resource="nodes") as refusal:
            await api.until(lambda: refusal.count >= 3)
            assert source.objects["nodes"] == {}
            assert source.lists("nodes") == 1
        await source.until(lambda: source.names("nodes") == {"node-1"})
    told = [one for one in caplog.records if "cannot watch nodes" in one.getMessage()]
    assert [one.levelname for one in told] == ["WARNING"]
