"""The connections of a SPDY port-forward session, against frames made by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.core import spdy
from pyproxy.core.portforward_spdy import (
    Answer,
    Connected,
    Event,
    GoingAway,
    Over,
    Payload,
    PodEnded,
    PortForwardSession,
)
from pyproxy.errors import ProtocolError


class Server:
    """The other end: what a client has asked for, and frames to answer with."""

    def __init__(self) -> None:
        self.session = PortForwardSession()
        self.writer = spdy.FrameWriter()
        self.reader = spdy.FrameReader()

    def connect(self, port: int = 80) -> int:
        number, asked = self.session.connect(port)
        self.asked = list(self.reader.receive(asked))
        return number

    def accepted(self, port: int = 80) -> int:
        number = self.connect(port)
        assert self.say(self.writer.syn_reply(number)) == []
        assert self.say(self.writer.syn_reply(number + 2)) == [Connected(number)]
        return number

    def say(self, *frames: bytes) -> list[Event]:
        return list(self.session.receive(b"".join(frames)))


@pytest.fixture
def server() -> Server:
    return Server()


def test_a_connection_is_two_streams_with_one_request_id(server: Server) -> None:
    for number in (1, 5):
        assert server.connect(8080) == number
        shared = {"port": "8080", "requestid": str(number)}
        assert server.asked == [
            spdy.SynStream(number, {"streamtype": "error"} | shared, is_last=False),
            spdy.Data(number, b"", is_last=True),
            spdy.SynStream(number + 2, {"streamtype": "data"} | shared, is_last=False),
        ]


def test_it_is_connected_when_both_streams_are_accepted_in_any_order(server: Server) -> None:
    number = server.connect()
    assert server.say(server.writer.syn_reply(number + 2)) == []
    assert server.say(server.writer.syn_reply(number + 2)) == []
    assert server.say(server.writer.syn_reply(number)) == [Connected(number)]
    assert server.say(server.writer.syn_reply(number)) == []


def test_bytes_of_the_pod_and_its_fin(server: Server) -> None:
    number = server.accepted()
    assert server.say(spdy.data_frame(number + 2, b"hello")) == [Payload(number, b"hello")]
    last = spdy.data_frame(number + 2, b"bye", is_last=True)
    assert server.say(last) == [Payload(number, b"bye"), PodEnded(number)]


def test_the_end_of_the_error_stream_is_the_end_of_both_directions(server: Server) -> None:
    number = server.accepted()
    assert server.say(spdy.data_frame(number, b"", is_last=True)) == [Over(number, "")]
    # The kubelet ends the data stream after the error stream.
    assert server.say(spdy.data_frame(number + 2, b"", is_last=True)) == []
    assert server.session.drop(number) == b""


def test_what_the_error_stream_says_is_told_at_its_end_in_one_line(server: Server) -> None:
    number = server.accepted()
    assert server.say(spdy.data_frame(number, b'{"message":"connection ')) == []
    end = spdy.data_frame(number, b'refused"}\n', is_last=True)
    assert server.say(end) == [Over(number, "connection refused")]


def test_an_error_without_end_is_not_kept(server: Server) -> None:
    number = server.accepted()
    server.say(spdy.data_frame(number, b"x" * 100_000))
    (over,) = server.say(spdy.data_frame(number, b"y", is_last=True))
    assert isinstance(over, Over)
    assert over.text == "x" * 4096


@pytest.mark.parametrize("offset", [0, 2])
def test_a_reset_of_either_stream_is_the_end(server: Server, offset: int) -> None:
    number = server.accepted()
    reset = spdy.rst_stream(number + offset, 3)
    assert server.say(reset) == [Over(number, "the stream was reset (status 3)")]
    assert server.say(reset) == []


def test_a_refused_stream_is_over_before_it_was_connected(server: Server) -> None:
    number = server.connect()
    (over,) = server.say(server.writer.syn_reply(number), spdy.rst_stream(number + 2, 3))
    assert over == Over(number, "the stream was reset (status 3)")


def test_a_connection_that_is_dropped_is_reset_and_forgotten(server: Server) -> None:
    number = server.accepted()
    assert list(server.reader.receive(server.session.drop(number))) == [
        spdy.RstStream(number + 2, spdy.CANCEL),
        spdy.RstStream(number, spdy.CANCEL),
    ]
    late = [spdy.data_frame(number + 2, b"late"), server.writer.syn_reply(number)]
    assert server.say(*late, spdy.data_frame(number, b"late", is_last=True)) == []


def test_what_the_client_says_and_its_fin(server: Server) -> None:
    number = server.accepted()
    said = server.session.payload(number, b"hello")
    end = server.session.payload(number, b"", is_last=True)
    assert list(server.reader.receive(said + end)) == [
        spdy.Data(number + 2, b"hello", is_last=False),
        spdy.Data(number + 2, b"", is_last=True),
    ]


def test_pings_of_the_server_are_answered_and_echoes_are_not(server: Server) -> None:
    assert server.say(spdy.ping(2)) == [Answer(spdy.ping(2))]
    assert server.session.ping() == spdy.ping(1)
    assert server.session.ping() == spdy.ping(3)
    assert server.say(spdy.ping(1)) == []


def test_a_server_that_goes_away_is_told_of(server: Server) -> None:
    assert server.say(spdy.goaway(0)) == [GoingAway()]


def test_a_stream_that_the_server_opens_is_refused(server: Server) -> None:
    opened = server.writer.syn_stream(2, {"a": "b"})
    assert server.say(opened) == [Answer(spdy.rst_stream(2, spdy.REFUSED_STREAM))]


def test_window_updates_change_nothing(server: Server) -> None:
    assert server.say(bytes.fromhex("80030009 00000008 00000003 00001000")) == []


def test_data_before_the_stream_is_accepted_is_refused(server: Server) -> None:
    number = server.connect()
    with pytest.raises(ProtocolError, match="not accepted"):
        server.say(spdy.data_frame(number + 2, b"early"))


@given(st.integers(min_value=1, max_value=30))
def test_any_split_of_the_bytes_gives_the_same_events(size: int) -> None:
    server = Server()
    number, _ = server.session.connect(80)
    data = (
        server.writer.syn_reply(number)
        + server.writer.syn_reply(number + 2)
        + spdy.data_frame(number + 2, b"some bytes of the pod")
        + spdy.data_frame(number, b"what went wrong", is_last=True)
    )
    events = [e for at in range(0, len(data), size) for e in server.say(data[at : at + size])]
    said = b"".join(event.data for event in events if isinstance(event, Payload))
    assert said == b"some bytes of the pod"
    others = [event for event in events if not isinstance(event, Payload)]
    assert others == [Connected(number), Over(number, "what went wrong")]
