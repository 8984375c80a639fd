"""Port-forwarding, its pure parts: paths, what errors mean, and the protocol v4."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.core.portforward import (
    error_text,
    may_lack_protocol,
    portforward_path,
    result_of_status,
    result_of_text,
)
from pyproxy.core.portforward_v4 import Connected, Event, Failed, Payload, V4Channels, data_message
from pyproxy.errors import ProtocolError
from pyproxy.model.reasons import ConnectResult

PORT = 8080
PRELUDE = PORT.to_bytes(2, "little")


def test_the_path_quotes_what_a_name_must_not_have() -> None:
    assert portforward_path("shop", "web-0") == "/api/v1/namespaces/shop/pods/web-0/portforward"
    assert portforward_path("a/b", "c?d") == "/api/v1/namespaces/a%2Fb/pods/c%3Fd/portforward"


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("dial tcp4 127.0.0.1:81: connect: connection refused", "refused"),
        ("socat E connect(5, AF=2 127.0.0.1:81, 16): Connection refused", "refused"),
        ("read tcp 10.0.0.1:1->10.0.0.2:2: read: connection reset by peer", "refused"),
        ("write: broken pipe", "refused"),
        ("dial tcp 10.0.0.1:10250: connect: no route to host", "unreachable"),
        ("connect: network is unreachable", "unreachable"),
        ("timed out waiting for streams", "timeout"),
        ("dial tcp 10.0.0.1:10250: i/o timeout", "timeout"),
        ("context deadline exceeded", "timeout"),
        ('failed to find sandbox "0b6" in store: not found', "not_found"),
        ('network namespace for sandbox "0b6" is closed', "not_found"),
        ("no such container", "not_found"),
        ("container is not running", "not_found"),
        ('pods "web" is forbidden', "forbidden"),
        ("something new", "error"),
        ("", "error"),
    ],
)
def test_the_words_of_an_error_tell_the_result(text: str, result: ConnectResult) -> None:
    assert result_of_text(text) == result


@pytest.mark.parametrize(
    ("status", "result"),
    [
        (0, "unreachable"),
        (401, "forbidden"),
        (403, "forbidden"),
        (404, "not_found"),
        (429, "error"),
        (500, "error"),
        (504, "timeout"),
    ],
)
def test_the_status_of_a_refused_upgrade_tells_the_result(
    status: int, result: ConnectResult
) -> None:
    assert result_of_status(status) == result


def test_another_protocol_is_worth_a_try_after_some_statuses_only() -> None:
    tried = {0, 400, 401, 403, 404, 406, 426, 429, 500, 503}
    assert {status for status in tried if may_lack_protocol(status)} == {400, 403, 406, 426}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b'{"closeConnection":true,"message":"a\\nb"}\n', "a b"),
        (b"plain  text\n", "plain text"),
        (b'{"other":1}', '{"other":1}'),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"", ""),
    ],
)
def test_an_error_is_read_as_json_or_as_text(data: bytes, text: str) -> None:
    assert error_text(data) == text


# v4.


def events_of(*messages: bytes, port: int = PORT) -> list[Event]:
    channels = V4Channels(port)
    return [event for message in messages for event in channels.receive(message)]


def test_it_is_connected_when_both_channels_have_begun() -> None:
    assert events_of(b"\x00" + PRELUDE) == []
    assert events_of(b"\x00" + PRELUDE, b"\x01" + PRELUDE) == [Connected()]
    assert events_of(b"\x01" + PRELUDE, b"\x00" + PRELUDE + b"hello") == [
        Connected(),
        Payload(b"hello"),
    ]


def test_data_may_come_before_the_other_channel_begins() -> None:
    assert events_of(b"\x00" + PRELUDE, b"\x00hello", b"\x01" + PRELUDE) == [
        Payload(b"hello"),
        Connected(),
    ]


def test_text_on_the_error_channel_is_the_end() -> None:
    begun = [b"\x00" + PRELUDE, b"\x01" + PRELUDE]
    assert events_of(*begun, b"\x01connection refused")[1:] == [Failed("connection refused")]


def test_messages_without_anything_are_nothing() -> None:
    assert events_of(b"", b"\x00", b"\x01") == []


@pytest.mark.parametrize("channel", [b"\x00", b"\x01"])
def test_a_channel_that_begins_with_another_port_is_refused(channel: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"begins with port 36895, not with 8080"):
        events_of(channel + b"\x1f", channel + b"\x90")


def test_a_third_channel_is_refused() -> None:
    with pytest.raises(ProtocolError, match="a message for channel 2"):
        events_of(b"\x02x")


def test_what_is_sent_is_for_the_data_channel() -> None:
    assert data_message(b"hello") == b"\x00hello"


@given(st.lists(st.tuples(st.sampled_from([0, 1]), st.binary(max_size=5))))
def test_any_split_of_a_channel_gives_the_same_bytes(pieces: list[tuple[int, bytes]]) -> None:
    sent = [PRELUDE + b"".join(data for at, data in pieces if at == channel) for channel in (0, 1)]
    cut = events_of(
        *(bytes((at,)) + sent[at][i : i + 1] for at in (0, 1) for i in range(len(sent[at])))
    )
    data = b"".join(event.data for event in cut if isinstance(event, Payload))
    assert data == sent[0][2:]
    assert cut.count(Connected()) == 1


@given(st.lists(st.binary(max_size=8)))
def test_garbage_raises_the_protocol_error_only(messages: list[bytes]) -> None:
    with contextlib.suppress(ProtocolError):
        events_of(*messages)
