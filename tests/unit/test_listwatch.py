"""The list+watch protocol, with bytes in and outputs out."""

import itertools
import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.core.listwatch import Dropped, ListWatch, Output, Pause, Stop
from pyproxy.model.events import Applied, Deleted, Listed, key_of

Json = dict[str, Any]
SELECTORS = {"labelSelector": "a"}


def service(name: str, version: int = 1, **spec: Any) -> Json:
    return {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "default", "resourceVersion": str(version)},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]} | spec,
    }


def line(kind: str, value: Json) -> bytes:
    return json.dumps({"type": kind, "object": value}).encode() + b"\n"


def bookmark(version: str, *, is_end: bool = False) -> bytes:
    metadata: Json = {"resourceVersion": version}
    if is_end:
        metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
    return line("BOOKMARK", {"kind": "Service", "metadata": metadata})


def page(*items: Json, version: str = "100", token: str = "") -> bytes:
    metadata = {"resourceVersion": version, "continue": token}
    return json.dumps({"kind": "ServiceList", "metadata": metadata, "items": items}).encode()


def error(code: int, reason: str, message: str = "no", seconds: int = 0) -> Json:
    status = {"kind": "Status", "code": code, "reason": reason, "message": message}
    return status | ({"details": {"retryAfterSeconds": seconds}} if seconds else {})


def feed(protocol: ListWatch, *pieces: bytes) -> list[Output]:
    return [output for piece in pieces for output in protocol.receive(piece)]


def answer(protocol: ListWatch, body: bytes) -> list[Output]:
    """Make the next request and take a whole body as its answer."""
    protocol.request(300)
    return [*protocol.receive(body), *protocol.finish()]


def told(outputs: Iterable[Output]) -> list[str]:
    """Outputs in short."""
    words = []
    for output in outputs:
        match output:
            case Listed(values=values):
                words.append(f"listed {' '.join(key_of(value)[1] for value in values)}".rstrip())
            case Applied(value=value):
                words.append(f"applied {key_of(value)[1]}")
            case Deleted(key=key):
                words.append(f"deleted {key[1]}")
            case Dropped():
                words.append("dropped")
            case Pause():
                words.append("pause")
            case Stop(reason=reason):
                words.append(reason)
    return words


@pytest.fixture
def protocol() -> ListWatch:
    return ListWatch("services", SELECTORS)


@pytest.fixture
def paging() -> ListWatch:
    """One that has learnt that the server does no streaming lists."""
    protocol = ListWatch("services", SELECTORS, page_size=2)
    protocol.request(300)
    protocol.refuse(422, b"")
    return protocol


@pytest.fixture
def watching() -> ListWatch:
    """One that is listed, and watches from version 5."""
    protocol = ListWatch("services", SELECTORS)
    protocol.request(300)
    feed(protocol, line("ADDED", service("web")), bookmark("5", is_end=True))
    protocol.request(300)
    return protocol


# Requests.


def test_the_first_request_is_a_streaming_list(protocol: ListWatch) -> None:
    request = protocol.request(300)
    assert (request.kind, request.verb, request.watch_timeout_s) == ("stream", "watch", 300)
    assert request.parameters == {
        "labelSelector": "a",
        "watch": "true",
        "allowWatchBookmarks": "true",
        "timeoutSeconds": "300",
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
    }


def test_a_watch_starts_at_the_position(watching: ListWatch) -> None:
    request = watching.request(200)
    assert (request.kind, request.verb) == ("watch", "watch")
    assert request.parameters == {
        "labelSelector": "a",
        "watch": "true",
        "allowWatchBookmarks": "true",
        "timeoutSeconds": "200",
        "resourceVersion": "5",
    }


@pytest.mark.parametrize("status", [400, 422])
def test_a_refused_streaming_list_is_followed_by_a_list_of_pages(
    protocol: ListWatch, status: int
) -> None:
    protocol.request(300)
    assert protocol.refuse(status, b"").reason == "not_streaming"
    request = protocol.request(300)
    assert (request.kind, request.verb) == ("page", "list")
    assert request.parameters == {"labelSelector": "a", "limit": "500"}


# Streaming lists.


def test_a_streaming_list_is_said_at_its_end_and_the_watch_goes_on(protocol: ListWatch) -> None:
    protocol.request(300)
    assert feed(protocol, line("ADDED", service("a")), line("ADDED", service("b"))) == []
    assert protocol.position == ""
    assert told(feed(protocol, bookmark("9", is_end=True))) == ["listed a b"]
    assert protocol.position == "9"
    assert told(feed(protocol, line("ADDED", service("c", 10)))) == ["applied c"]
    assert protocol.position == "10"


def test_changes_among_the_initial_events_count(protocol: ListWatch) -> None:
    protocol.request(300)
    outputs = feed(
        protocol,
        line("ADDED", service("a")),
        line("ADDED", service("b")),
        line("DELETED", service("a", 7)),
        line("MODIFIED", service("b", 8, type="NodePort")),
        line("DELETED", service("unknown", 8)),
        bookmark("9", is_end=True),
    )
    assert told(outputs) == ["listed b"]
    assert outputs[0].values[0].type == "NodePort"  # type: ignore[union-attr]


def test_silence_before_the_end_of_the_initial_events_means_an_old_server(
    protocol: ListWatch,
) -> None:
    protocol.request(300)
    assert feed(protocol, line("ADDED", service("a"))) == []
    assert protocol.fall_silent().reason == "not_streaming"
    assert protocol.request(300).kind == "page"


def test_a_plain_bookmark_before_the_end_of_the_initial_events_means_an_old_server(
    protocol: ListWatch,
) -> None:
    protocol.request(300)
    assert told(feed(protocol, bookmark("9"))) == ["not_streaming"]
    assert protocol.request(300).kind == "page"


def test_an_end_before_the_end_of_the_initial_events_means_an_old_server(
    protocol: ListWatch,
) -> None:
    assert told(answer(protocol, line("ADDED", service("a")))) == ["not_streaming"]
    assert protocol.request(300).kind == "page"


def test_a_streaming_list_that_breaks_is_begun_anew(protocol: ListWatch) -> None:
    protocol.request(300)
    feed(protocol, line("ADDED", service("gone")))
    assert protocol.request(300).kind == "stream"
    assert told(feed(protocol, bookmark("9", is_end=True))) == ["listed"]


def test_a_streaming_list_with_nonsense_in_it_is_followed_by_pages(protocol: ListWatch) -> None:
    protocol.request(300)
    assert told(feed(protocol, b"nonsense\n")) == ["malformed"]
    assert protocol.request(300).kind == "page"


# Lists by pages.


def test_pages_are_one_list(paging: ListWatch) -> None:
    assert answer(paging, page(service("a"), service("b"), token="t1")) == []
    request = paging.request(300)
    assert request.parameters == {"labelSelector": "a", "limit": "2", "continue": "t1"}
    outputs = [*paging.receive(page(service("c"), version="100")), *paging.finish()]
    assert told(outputs) == ["listed a b c"]
    assert paging.position == "100"
    assert paging.request(300).kind == "watch"


def test_a_page_may_come_in_pieces(paging: ListWatch) -> None:
    body = page(service("a"), service("b"))
    paging.request(300)
    assert feed(paging, *(body[i : i + 7] for i in range(0, len(body), 7))) == []
    assert told(paging.finish()) == ["listed a b"]


def test_an_empty_list_is_a_list(paging: ListWatch) -> None:
    body = b'{"metadata":{"resourceVersion":"7"},"items":null}'
    assert told(answer(paging, body)) == ["listed"]


def test_a_page_that_breaks_is_asked_for_again(paging: ListWatch) -> None:
    answer(paging, page(service("a"), service("b"), token="t1"))
    paging.request(300)
    feed(paging, page(service("c"))[:20])
    assert paging.fall_silent().reason == "silent"
    assert told(answer(paging, page(service("c")))) == ["listed a b c"]


def test_an_expired_continue_token_starts_the_list_over(paging: ListWatch) -> None:
    answer(paging, page(service("old"), token="t1"))
    paging.request(300)
    assert paging.refuse(410, b"").reason == "expired"
    assert paging.request(300).parameters == {"labelSelector": "a", "limit": "2"}
    assert told([*paging.receive(page(service("a"))), *paging.finish()]) == ["listed a"]


def test_a_list_that_expires_twice_is_taken_in_one_piece(paging: ListWatch) -> None:
    for _ in range(2):
        answer(paging, page(service("old"), token="t1"))
        paging.request(300)
        paging.refuse(410, b"")
    assert paging.request(300).parameters == {"labelSelector": "a"}


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b'{"items":[]}', b'{"metadata":{},"items":[]}', page(version="")],
)
def test_a_list_that_is_none_or_has_no_position_is_not_believed(
    paging: ListWatch, body: bytes
) -> None:
    assert told(answer(paging, body)) == ["malformed"]
    assert paging.is_listing


def test_a_page_that_is_too_large_is_asked_for_in_halves() -> None:
    protocol = ListWatch("services", {}, page_size=3, max_page_bytes=1000)
    protocol.request(300)
    protocol.refuse(422, b"")
    limits = []
    for _ in range(3):
        limits.append(protocol.request(300).parameters["limit"])
        assert told(feed(protocol, b"x" * 1001)) == ["too_large"]
    assert limits == ["3", "1", "1"]


def test_an_object_of_a_page_that_is_too_large_is_left_out() -> None:
    protocol = ListWatch("services", {}, max_object_bytes=1000)
    protocol.request(300)
    protocol.refuse(422, b"")
    huge = service("huge", externalName="x" * 1000)
    assert told(answer(protocol, page(huge, service("a")))) == ["dropped", "listed a"]


def test_an_object_of_a_page_that_cannot_be_read_is_left_out(paging: ListWatch) -> None:
    bad = service("bad", ports="none")
    assert told(answer(paging, page(bad, service("a")))) == ["dropped", "listed a"]


def test_a_long_list_pauses() -> None:
    protocol = ListWatch("services", {}, pause_bytes=500)
    protocol.request(300)
    protocol.refuse(422, b"")
    outputs = told(answer(protocol, page(*(service(f"s{number}") for number in range(20)))))
    assert outputs[-1].startswith("listed s0 s1")
    assert 5 < outputs.count("pause") < 20


def test_a_long_watch_pauses() -> None:
    protocol = ListWatch("services", {}, pause_bytes=500)
    protocol.request(300)
    lines = b"".join(line("ADDED", service(f"s{number}")) for number in range(20))
    outputs = told(feed(protocol, lines, bookmark("9", is_end=True)))
    assert 5 < outputs.count("pause") < 20


# Watches.


def test_changes_are_events_and_move_the_position(watching: ListWatch) -> None:
    outputs = feed(
        watching,
        line("ADDED", service("a", 6)),
        line("MODIFIED", service("a", 7)),
        line("DELETED", service("a", 8)),
    )
    assert told(outputs) == ["applied a", "applied a", "deleted a"]
    assert outputs[2] == Deleted("services", ("default", "a"))
    assert watching.position == "8"


def test_a_bookmark_moves_the_position_and_says_nothing(watching: ListWatch) -> None:
    seen = [watching.has_bookmarks]
    assert feed(watching, bookmark("99")) == []
    assert watching.position == "99"
    seen.append(watching.has_bookmarks)
    watching.request(300)  # a new connection, perhaps to another server
    seen.append(watching.has_bookmarks)
    assert seen == [False, True, False]


def test_a_bookmark_or_an_object_without_a_version_does_not_move_the_position(
    watching: ListWatch,
) -> None:
    bare = {"metadata": {"name": "a", "namespace": "default"}}
    outputs = feed(watching, bookmark(""), line("DELETED", bare), b"\n", b"  \n")
    assert told(outputs) == ["deleted a"]
    assert watching.position == "5"


def test_an_end_in_order_is_resumed_at_the_position(watching: ListWatch) -> None:
    assert told(watching.finish()) == ["ended"]
    assert watching.request(300).parameters["resourceVersion"] == "5"


def test_silence_of_a_watch_is_resumed_at_the_position(watching: ListWatch) -> None:
    assert watching.fall_silent().reason == "silent"
    assert watching.request(300).parameters["resourceVersion"] == "5"


def test_what_was_half_read_is_forgotten_with_the_connection(watching: ListWatch) -> None:
    feed(watching, line("ADDED", service("a", 6)) + b'{"type":"DELETED"')
    watching.request(300)
    assert told(feed(watching, line("ADDED", service("b", 7)))) == ["applied b"]


def test_a_line_that_is_cut_off_is_not_believed(watching: ListWatch) -> None:
    feed(watching, line("DELETED", service("web", 6))[:-1])
    assert told(watching.finish()) == ["truncated"]
    assert watching.position == "5"


@pytest.mark.parametrize(
    ("code", "reason"), [(410, "Expired"), (410, ""), (None, "Expired"), (None, "Gone")]
)
def test_an_expired_position_is_listed_again(
    watching: ListWatch, code: int | None, reason: str
) -> None:
    status = {"kind": "Status", "code": code, "reason": reason}
    assert told(feed(watching, line("ERROR", status))) == ["expired"]
    assert watching.request(300).kind == "stream"
    assert told(feed(watching, bookmark("20", is_end=True))) == ["listed"]


def test_an_expired_position_told_by_the_status_is_listed_again(watching: ListWatch) -> None:
    assert watching.refuse(410, json.dumps(error(410, "Expired")).encode()).reason == "expired"
    assert watching.request(300).kind == "stream"


def test_nothing_is_read_after_an_error(watching: ListWatch) -> None:
    outputs = feed(
        watching, line("ERROR", error(500, "InternalError")) + line("ADDED", service("a"))
    )
    assert told(outputs) == ["watch_error"]


def test_an_error_event_tells_its_message_and_the_wait_it_asks_for(watching: ListWatch) -> None:
    (stop,) = feed(watching, line("ERROR", error(429, "TooManyRequests", "slow down", 7)))
    assert stop == Stop("watch_error", "the watch sent an error: slow down", 7.0)


def test_an_error_event_that_cannot_be_read_is_an_error_all_the_same(watching: ListWatch) -> None:
    assert told(feed(watching, line("ERROR", {"code": "x"}))) == ["watch_error"]


@pytest.mark.parametrize("bad", [b"nonsense\n", b'{"type":"ADDED"}\n', b"[[" * 5000 + b"\n"])
def test_a_position_that_leads_to_nonsense_three_times_is_listed_again(
    watching: ListWatch, bad: bytes
) -> None:
    kinds = []
    for _ in range(3):
        kinds.append(watching.request(300).kind)
        assert told(feed(watching, bad)) == ["malformed"]
    assert kinds == ["watch"] * 3
    assert watching.request(300).kind == "stream"


def test_an_event_in_between_gives_the_position_credit_again(watching: ListWatch) -> None:
    for version in (6, 7, 8, 9):
        watching.request(300)
        outputs = feed(watching, line("ADDED", service("a", version)), b"nonsense\n")
        assert told(outputs) == ["applied a", "malformed"]
    assert watching.request(300).kind == "watch"


def test_a_bookmark_that_cannot_be_read_is_not_believed(watching: ListWatch) -> None:
    assert told(feed(watching, line("BOOKMARK", {"metadata": 1}))) == ["malformed"]


def test_a_change_that_cannot_be_read_deletes_the_object_and_the_rest_goes_on(
    watching: ListWatch,
) -> None:
    outputs = feed(
        watching,
        line("MODIFIED", service("web", 6, ports="none")),
        line("ADDED", service("a", 7)),
    )
    assert told(outputs) == ["dropped", "deleted web", "applied a"]
    assert watching.position == "7"


def test_an_event_without_a_name_or_of_unknown_type_is_dropped(watching: ListWatch) -> None:
    outputs = feed(
        watching,
        line("DELETED", {"metadata": {}}),
        line("MOVED", service("a", 6)),
        line("ADDED", service("b", 7)),
    )
    assert told(outputs) == ["dropped", "dropped", "applied b"]


def test_a_line_that_is_too_large_ends_the_watch_after_what_came_before() -> None:
    protocol = ListWatch("services", {}, max_object_bytes=1000)
    protocol.request(300)
    feed(protocol, bookmark("5", is_end=True))
    huge = line("ADDED", service("huge", 7, externalName="x" * 1000))
    data = line("ADDED", service("a", 6)) + huge + line("ADDED", service("b", 8))
    assert told(feed(protocol, data)) == ["applied a", "too_large"]
    assert protocol.position == "6"


def test_a_line_without_an_end_is_too_large_before_it_ends() -> None:
    protocol = ListWatch("services", {}, max_object_bytes=1000)
    protocol.request(300)
    assert told(feed(protocol, b"x" * 600, b"x" * 600)) == ["too_large"]


# Refusals.


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (302, "rejected"),
        (400, "rejected"),
        (401, "unauthorized"),
        (403, "forbidden"),
        (404, "not_found"),
        (409, "rejected"),
        (429, "throttled"),
        (500, "server_error"),
        (504, "server_error"),
    ],
)
def test_a_status_has_a_reason(watching: ListWatch, status: int, reason: str) -> None:
    stop = watching.refuse(status, json.dumps(error(status, "X", "because")).encode())
    assert stop == Stop(reason, f"the API server answered {status}: because")  # type: ignore[arg-type]
    assert watching.request(300).kind == "watch"


def test_a_position_that_is_rejected_three_times_is_listed_again(watching: ListWatch) -> None:
    for _ in range(3):
        assert watching.request(300).kind == "watch"
        watching.refuse(400, b"")
    assert watching.request(300).kind == "stream"


def test_the_header_goes_before_the_body_for_the_time_to_wait(watching: ListWatch) -> None:
    body = json.dumps(error(429, "TooManyRequests", seconds=7)).encode()
    assert watching.refuse(429, body).retry_after_s == 7.0
    assert watching.refuse(429, body, 3.0).retry_after_s == 3.0
    assert watching.refuse(429, b'{"details":{}}').retry_after_s is None


def test_a_refusal_that_is_no_status_object_is_quoted_in_short(watching: ListWatch) -> None:
    stop = watching.refuse(502, b"<html>Bad Gateway" + b"x" * 9999)
    assert stop.message.startswith("the API server answered 502: <html>Bad Gatewayxxx")
    assert len(stop.message) < 300
    assert watching.refuse(502, b"").message.endswith("no message")


# Properties.


WATCH_BODY = b"".join(
    [
        line("ADDED", service("a", 1)),
        line("ADDED", service("bad", 2, ports="none")),
        line("ADDED", service("ü-b", 3)),
        bookmark("9", is_end=True),
        line("MODIFIED", service("a", 10)),
        b"\n",
        bookmark("11"),
        line("DELETED", service("a", 12)),
        line("ERROR", error(410, "Expired")),
    ]
)


@given(st.lists(st.integers(0, len(WATCH_BODY)), max_size=30), st.integers(0, len(WATCH_BODY)))
def test_any_split_of_the_bytes_gives_the_same_events(cuts: list[int], end: int) -> None:
    body = WATCH_BODY[:end]
    whole, pieces = (ListWatch("services", SELECTORS) for _ in range(2))
    whole.request(300)
    pieces.request(300)
    edges = sorted({0, end, *(cut for cut in cuts if cut < end)})
    split = [body[start:stop] for start, stop in itertools.pairwise(edges)]
    assert feed_until_stopped(pieces, split) == feed_until_stopped(whole, [body])
    assert pieces.position == whole.position


def feed_until_stopped(protocol: ListWatch, pieces: list[bytes]) -> list[str]:
    outputs: list[Output] = []
    for piece in pieces:
        outputs += protocol.receive(piece)
        if outputs and isinstance(outputs[-1], Stop):
            return [str(output) for output in outputs]
    return [str(output) for output in [*outputs, *protocol.finish()]]


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_raise(data: bytes, is_page: bool) -> None:
    protocol = ListWatch("services", SELECTORS)
    protocol.request(300)
    if is_page:
        protocol.refuse(422, data)
        protocol.request(300)
    told([*protocol.receive(data), *protocol.finish()])
