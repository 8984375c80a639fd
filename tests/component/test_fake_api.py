"""What a watcher relies on of an API server: the fake keeps to it, and so does a real one.

With PYPROXY_TEST_KUBECONFIG the same tests run against that cluster, in a namespace of their own.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_api import FakeApiServer, write_kubeconfig
from tests.support.fake_api_contract import FAKE_AND_CLUSTER, ApiUnderTest, api_under_test
from tests.support.fake_api_source import endpoint_slice, running_source, service

Json = dict[str, Any]
STREAM = {
    "sendInitialEvents": "true",
    "resourceVersionMatch": "NotOlderThan",
    "allowWatchBookmarks": "true",
}


@pytest.fixture(params=FAKE_AND_CLUSTER)
async def api(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ApiUnderTest]:
    async with api_under_test(request.param, tmp_path) as api:
        yield api


def labelled(name: str, **labels: str) -> Json:
    value = service(name)
    del value["metadata"]["namespace"]
    value["metadata"]["labels"] = labels
    return value


def version(value: Json) -> int:
    return int(value["metadata"]["resourceVersion"])


def names(answer: Json) -> list[str]:
    return [item["metadata"]["name"] for item in answer["items"]]


async def next_of(events: AsyncIterator[Json]) -> tuple[str, str]:
    """The next event that is no bookmark: its type and its object's name."""
    async for event in events:
        if event["type"] != "BOOKMARK":
            return event["type"], event["object"]["metadata"]["name"]
    raise AssertionError("the watch has ended")


async def test_every_write_has_a_later_version(api: ApiUnderTest) -> None:
    made = await api.create("services", labelled("a"))
    made["metadata"]["labels"] = {"x": "y"}
    changed = await api.update("services", made)
    assert version(changed) > version(made)
    listed = await api.list("services")
    assert version(listed) >= version(changed)
    assert changed["metadata"]["uid"] == made["metadata"]["uid"]
    assert changed["metadata"]["creationTimestamp"]


async def test_a_service_gets_a_cluster_ip(api: ApiUnderTest) -> None:
    made = await api.create("services", labelled("a"))
    assert made["spec"]["clusterIPs"][0] == made["spec"]["clusterIP"]
    assert made["kind"] == "Service"


async def test_what_cannot_be_written_is_told_by_a_status(api: ApiUnderTest) -> None:
    made = await api.create("services", labelled("a"))
    await api.update("services", made | {"metadata": made["metadata"] | {"labels": {"x": "y"}}})
    for method, name, body, expected in [
        ("POST", "", labelled("a"), (409, "AlreadyExists")),
        ("PUT", "a", made, (409, "Conflict")),
        ("GET", "none", None, (404, "NotFound")),
        ("DELETE", "none", None, (404, "NotFound")),
    ]:
        status, answer = await api.ask(method, api.path("services", name), body)
        assert (status, answer["reason"]) == expected
        assert (answer["kind"], answer["code"], answer["status"]) == ("Status", status, "Failure")
        assert answer["message"]


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ({"labelSelector": "!mark"}, ["c"]),
        ({"labelSelector": "mark"}, ["a", "b"]),
        ({"labelSelector": "mark=one"}, ["a"]),
        ({"labelSelector": "mark!=one"}, ["b", "c"]),
        ({"labelSelector": "mark,mark!=one"}, ["b"]),
        ({"fieldSelector": "spec.clusterIP!=None"}, ["a", "b"]),
        ({"fieldSelector": "metadata.name=b"}, ["b"]),
    ],
)
async def test_selectors_choose_what_is_listed(
    api: ApiUnderTest, selector: dict[str, str], selected: list[str]
) -> None:
    headless = labelled("c")
    headless["spec"]["clusterIP"] = "None"
    for value in (labelled("a", mark="one"), labelled("b", mark=""), headless):
        await api.create("services", value)
    assert names(await api.list("services", selector)) == selected


async def test_a_field_that_cannot_be_selected_by_is_refused(api: ApiUnderTest) -> None:
    query = {"fieldSelector": "spec.ports=1"}
    status, answer = await api.ask("GET", api.path("services"), query=query)
    assert (status, answer["reason"]) == (400, "BadRequest")


async def test_pages_are_of_one_moment(api: ApiUnderTest) -> None:
    for name in "abcde":
        await api.create("services", labelled(name))
    page = await api.list("services", {"limit": "2"})
    first, found = version(page), names(page)
    await api.create("services", labelled("bb"))
    await api.delete("services", "d")
    while token := page["metadata"].get("continue"):
        page = await api.list("services", {"limit": "2", "continue": token})
        assert version(page) == first
        found += names(page)
    assert found == list("abcde")
    assert "kind" not in page["items"][0]
    assert page["kind"] == "ServiceList"


async def test_a_continue_token_that_never_was_one_is_refused(api: ApiUnderTest) -> None:
    query = {"limit": "2", "continue": "nonsense"}
    status, _ = await api.ask("GET", api.path("services"), query=query)
    assert status == 400


async def test_a_watch_tells_every_change_since_its_version(api: ApiUnderTest) -> None:
    made = await api.create("services", labelled("a"))
    listed = await api.list("services")
    await api.create("services", labelled("b"))
    start = listed["metadata"]["resourceVersion"]
    async with api.watch("services", resourceVersion=start) as events:
        assert await next_of(events) == ("ADDED", "b")
        made["metadata"]["labels"] = {"x": "y"}
        made = await api.update("services", made)
        assert await next_of(events) == ("MODIFIED", "a")
        await api.delete("services", "a")
        async for event in events:
            if event["type"] == "DELETED":
                assert version(event["object"]) > version(made)
                assert event["object"]["kind"] == "Service"
                break


async def test_coming_and_going_by_a_selector_is_added_and_deleted(api: ApiUnderTest) -> None:
    made = await api.create("services", labelled("a", mark=""))
    start = made["metadata"]["resourceVersion"]
    async with api.watch("services", resourceVersion=start, labelSelector="!mark") as events:
        for labels, event in [({}, "ADDED"), ({"x": "y"}, "MODIFIED"), ({"mark": ""}, "DELETED")]:
            made["metadata"]["labels"] = labels
            made = await api.update("services", made)
            assert await next_of(events) == (event, "a")


async def test_a_streaming_list_ends_with_a_marked_bookmark_and_goes_on(api: ApiUnderTest) -> None:
    for name in "ab":
        await api.create("services", labelled(name))
    last = await api.create("services", labelled("c"))
    async with api.watch("services", **STREAM) as events:
        initial = [await anext(events) for _ in range(4)]
        assert [event["type"] for event in initial] == ["ADDED", "ADDED", "ADDED", "BOOKMARK"]
        assert sorted(event["object"]["metadata"]["name"] for event in initial[:3]) == list("abc")
        metadata = initial[3]["object"]["metadata"]
        assert metadata["annotations"] == {"k8s.io/initial-events-end": "true"}
        assert int(metadata["resourceVersion"]) >= version(last)
        await api.create("services", labelled("d"))
        assert await next_of(events) == ("ADDED", "d")


async def test_a_watch_without_a_version_tells_what_there_is_and_has_no_marked_bookmark(
    api: ApiUnderTest,
) -> None:
    await api.create("services", labelled("a"))
    async with api.watch("services", timeoutSeconds="1", allowWatchBookmarks="true") as events:
        seen = [event async for event in events]
    assert seen[0]["type"] == "ADDED"
    assert not any(event["object"]["metadata"].get("annotations") for event in seen)


@pytest.mark.parametrize("parameter", ["sendInitialEvents", "resourceVersionMatch"])
async def test_half_the_parameters_of_a_streaming_list_are_refused(
    api: ApiUnderTest, parameter: str
) -> None:
    query = {"watch": "true", parameter: STREAM[parameter]}
    status, answer = await api.ask("GET", api.path("services"), query=query)
    assert (status, answer["reason"]) == (422, "Invalid")


async def test_a_watch_from_before_the_history_is_told_that_it_has_expired(
    api: ApiUnderTest,
) -> None:
    async with api.watch("services", resourceVersion="1") as events:
        event = await anext(events)
    assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
    assert event["object"]["reason"] in ("Expired", "Gone")


async def test_a_watch_ends_in_order_after_the_time_that_was_asked_for(api: ApiUnderTest) -> None:
    made = await api.create("endpointslices", unplaced(endpoint_slice("a", "10.0.0.1")))
    start = made["metadata"]["resourceVersion"]
    async with api.watch("endpointslices", resourceVersion=start, timeoutSeconds="1") as events:
        assert [event async for event in events if event["type"] != "BOOKMARK"] == []


def unplaced(value: Json) -> Json:
    del value["metadata"]["namespace"]
    return value


async def test_the_source_lists_and_follows_it(api: ApiUnderTest) -> None:
    first = await api.create("services", labelled("a"))
    await api.create("endpointslices", unplaced(endpoint_slice("a", "10.0.0.1")))
    key = (api.namespace, "a")
    async with running_source(api.kubeconfig) as source:
        await source.until_listed("services", "endpointslices", "servicecidrs", "nodes")
        assert key in source.objects["services"]
        assert key in source.objects["endpointslices"]
        await api.create("services", labelled("b"))
        await source.until(lambda: (api.namespace, "b") in source.objects["services"])
        first["metadata"]["labels"] = {"service.kubernetes.io/service-proxy-name": "other"}
        await api.update("services", first)
        await source.until(lambda: key not in source.objects["services"])
        await api.delete("endpointslices", "a")
        await source.until(lambda: key not in source.objects["endpointslices"])
        assert source.lists("services") == 1


# What only the fake has, because a real server shows it when it likes to.


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[tuple[FakeApiServer, ApiUnderTest]]:
    async with FakeApiServer(bookmark_interval_s=0.01) as server:
        kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", server.url)
        async with ApiUnderTest(kubeconfig, "contract") as api:
            yield server, api


Fake = tuple[FakeApiServer, ApiUnderTest]


async def test_a_bookmark_carries_the_position_past_what_was_not_selected(fake: Fake) -> None:
    server, api = fake
    start = str(server.store.version)
    last = server.create("endpointslices", endpoint_slice("b"))
    async with api.watch("services", resourceVersion=start, allowWatchBookmarks="true") as events:
        event = await anext(events)
    assert event["type"] == "BOOKMARK"
    assert version(event["object"]) == version(last)


async def test_an_expired_continue_token_is_told_by_the_status(fake: Fake) -> None:
    server, api = fake
    for name in "abc":
        await api.create("services", labelled(name))
    page = await api.list("services", {"limit": "2"})
    server.store.expire_pages()
    query = {"continue": page["metadata"]["continue"]}
    status, answer = await api.ask("GET", api.path("services"), query=query)
    assert (status, answer["reason"]) == (410, "Expired")


async def test_a_compaction_expires_every_version_before_it(fake: Fake) -> None:
    server, api = fake
    start = str(server.store.version)
    server.store.compact()
    server.faults.gone = "status"
    query = {"watch": "true", "resourceVersion": start}
    status, answer = await api.ask("GET", api.path("services"), query=query)
    assert (status, answer["reason"]) == (410, "Expired")


async def test_a_token_is_asked_for(fake: Fake) -> None:
    server, api = fake
    server.token = "secret"
    status, answer = await api.ask("GET", api.path("services"))
    assert (status, answer["reason"]) == (401, "Unauthorized")


async def test_a_refusal_concerns_its_requests_while_it_is_on(fake: Fake) -> None:
    server, api = fake
    headers = {"Retry-After": "1"}
    with server.faults.refusing(429, resource="services", verb="list", headers=headers) as refusal:
        assert (await api.ask("GET", api.path("services")))[0] == 429
        assert (await api.ask("GET", api.path("endpointslices")))[0] == 200
    assert (await api.ask("GET", api.path("services")))[0] == 200
    assert refusal.count == 1


async def test_raw_bytes_come_after_the_events_that_are_due(fake: Fake) -> None:
    server, api = fake
    async with api.watch("services", resourceVersion=str(server.store.version)) as events:
        await server.until(lambda: len(server.watches("services")) == 1)
        await api.create("services", labelled("a"))
        server.send_error("services", 500, "InternalError", "no")
        assert (await anext(events))["type"] == "ADDED"
        assert (await anext(events))["object"]["code"] == 500
