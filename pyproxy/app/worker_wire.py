"""What the agent and its workers say to each other, and how it is written.

Frames over a Unix stream socket: four bytes of length, then a message as msgpack, tagged with its
type. Both ends are of one version, as the agent starts its workers from its own files.

The order of the agent's messages is the order of what they tell; every `Order` is answered by one
`Done`. A worker's other messages come unasked.
"""

import struct
from typing import Literal

import msgspec

from pyproxy.app.worker_table import WireFrontend
from pyproxy.core.affinity import Pin
from pyproxy.forward.endpoint_counts import EndpointCount
from pyproxy.forward.live import LiveConnection, LiveEndpoint
from pyproxy.forward.records import EndsSettings
from pyproxy.forward.settings import ForwardSettings
from pyproxy.metrics import Vitals
from pyproxy.model.ended import Ended
from pyproxy.model.node import NodeView
from pyproxy.model.service import ServiceName, ServicePortName
from pyproxy.model.table import FrontendKey

_LENGTH = struct.Struct("!I")


class _Message(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A message."""


class Hello(_Message, frozen=True):
    """The first message: what the worker is set to.

    counts_fd: descriptor of the shared live counts, which it has inherited; processes: how many
    share them. ends: what to tell of connections that end. drain_timeout_s: for the case that the
    agent is gone and cannot say.
    """

    number: int
    processes: int
    counts_fd: int
    forward: ForwardSettings
    ends: EndsSettings
    drain_timeout_s: float
    log_level: int
    log_format: Literal["text", "json"]


class Table(_Message, frozen=True):
    """An order: forward by the last table with these changes, but keep listening until `Retire`.

    A snapshot is the same thing, told to who has no table yet. node: None when it is as before.
    slots: of Services whose live connections are counted over all workers; None: no more.
    """

    order: int
    generation: int
    node: NodeView | None
    gone: list[FrontendKey]
    backends: list[msgspec.Raw]
    frontends: list[WireFrontend]
    slots: list[tuple[ServiceName, int | None]]


class Retire(_Message, frozen=True):
    """An order: stop listening on what the newest table does not want."""

    order: int


class Ping(_Message, frozen=True):
    """An order to do nothing but to answer."""

    order: int


class StopListening(_Message, frozen=True):
    """An order: take no new clients, and tell the counts.

    has_successor: whether others listen on the same ports.
    """

    order: int
    has_successor: bool


class Pins(_Message, frozen=True):
    """Where clients stick to endpoints; both ways."""

    pins: list[Pin]


class LogLevel(_Message, frozen=True):
    """Log from this level on."""

    level: int


class Ask(_Message, frozen=True):
    """A question: what is live, of one Service or of all? Answered by `Answer`s, unless it dies.

    At most `limit` rows are told.
    """

    question: int
    what: Literal["connections", "endpoints"]
    of: ServiceName | None
    limit: int


class Drain(_Message, frozen=True):
    """Take no new clients; end when the live connections have, or after so many seconds."""

    timeout_s: float


class Stop(_Message, frozen=True):
    """End now."""


class Done(_Message, frozen=True):
    """An order was carried out; or, with the number of the last one, something changed since.

    bound, lost: what is listened on now, and what no longer is. faults: what cannot be, and why;
    "" when that is over.
    """

    order: int
    bound: list[FrontendKey]
    lost: list[FrontendKey]
    faults: list[tuple[FrontendKey, str]]


class Counts(_Message, frozen=True):
    """What has been counted since the last message; by Service port, and of the whole process.

    A number is one to add, a mapping has one for each label, a list one for each bucket.
    """

    service_ports: list[tuple[ServicePortName, dict[str, int | dict[str, int] | list[int]]]]
    process: dict[str, int | dict[str, int] | list[int]]
    live_connections: int
    live_flows: int
    pins_dropped: int
    vitals: Vitals | None = None


class Records(_Message, frozen=True):
    """Connections and flows that have ended, for the access log; and how many were left out."""

    ended: list[Ended]
    left_out: int


class EndpointCounts(_Message, frozen=True):
    """By endpoint: what connections came to that have ended since the last such message, or live.

    A connection is in one of both.
    """

    ended: list[EndpointCount]
    live: list[EndpointCount]


class Answer(_Message, frozen=True):
    """A part of the answer to a question. total: how many there are, told or not."""

    question: int
    total: int
    connections: list[LiveConnection]
    endpoints: list[LiveEndpoint]
    is_last: bool


ToWorker = Hello | Table | Retire | Ping | StopListening | Pins | Drain | Stop | LogLevel | Ask
ToAgent = Done | Counts | EndpointCounts | Records | Pins | Answer
Order = Table | Retire | Ping | StopListening

_encoder = msgspec.msgpack.Encoder()
_to_worker: "msgspec.msgpack.Decoder[ToWorker]" = msgspec.msgpack.Decoder(ToWorker)
_to_agent: "msgspec.msgpack.Decoder[ToAgent]" = msgspec.msgpack.Decoder(ToAgent)


def frame(message: ToWorker | ToAgent) -> bytes:
    """Return the message as it goes over the socket."""
    buffer = bytearray(_LENGTH.size)
    _encoder.encode_into(message, buffer, _LENGTH.size)
    _LENGTH.pack_into(buffer, 0, len(buffer) - _LENGTH.size)
    return bytes(buffer)


def read_by_worker(payload: bytes) -> ToWorker:
    """Decode what the agent has sent. Raises msgspec.DecodeError."""
    return _to_worker.decode(payload)


def read_by_agent(payload: bytes) -> ToAgent:
    """Decode what a worker has sent. Raises msgspec.DecodeError."""
    return _to_agent.decode(payload)


class Frames:
    """Puts the payloads of frames together from the pieces that a stream comes in."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._missing = _LENGTH.size  # bytes until the next look is worth it

    def feed(self, data: bytes) -> list[bytes]:
        """Return the payloads that are complete with this piece."""
        self._buffer += data
        self._missing -= len(data)
        whole: list[bytes] = []
        start = 0
        while self._missing <= 0:
            size = self._size(start)
            end = start + _LENGTH.size + size
            if size < 0 or end > len(self._buffer):
                wanted = _LENGTH.size if size < 0 else _LENGTH.size + size
                self._missing = start + wanted - len(self._buffer)
                break
            whole.append(bytes(memoryview(self._buffer)[start + _LENGTH.size : end]))
            start = end
        del self._buffer[:start]
        return whole

    def _size(self, start: int) -> int:
        """The length of the payload that begins behind `start`; -1 when it is not yet known."""
        if len(self._buffer) - start < _LENGTH.size:
            return -1
        size: int = _LENGTH.unpack_from(self._buffer, start)[0]
        return size
