"""Events: what a person should find with `kubectl describe` or `kubectl get events`.

Publishing never waits. What is said again within a while is said once, and what comes too fast or
finds the queue full is dropped: events are best effort, traffic is not (PARITY section 16).
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol

import msgspec

from pyproxy.errors import ApiError, PyproxyError
from pyproxy.model.service import ServiceName

log = logging.getLogger(__name__)

CONTROLLER = "pyproxy"
MAX_WAITING = 64
MAX_REMEMBERED = 1024
REPEAT_S = 360.0  # how long client-go's recorder takes a repetition for one series (6 minutes)
# client-go's spam filter (EventSourceObjectSpamFilter): a burst of 25, then one each five minutes.
# It counts for each object; here one count is for all, so it refills faster.
BURST = 25
REFILL_S = 10.0
# What the API server takes (events.k8s.io/v1 validation); it refuses longer ones.
_MAX_NOTE_BYTES = 1024
_MAX_INSTANCE = 128
_MAX_ANSWER_BYTES = 500  # of an error, for the log
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Regarding(msgspec.Struct, frozen=True):
    """The object that an event is about; the namespace of a Node is ""."""

    kind: Literal["Node", "Service"]
    name: str
    namespace: str = ""
    uid: str = ""


class Occurrence(msgspec.Struct, frozen=True):
    """What happened. Two that are equal are the same said again."""

    type: Literal["Normal", "Warning"]
    reason: str
    action: str
    regarding: Regarding
    note: str = ""


def started(node_name: str) -> Occurrence:
    """The event of a start (16.1): about the Node, by name only."""
    return Occurrence("Normal", "Starting", "StartKubeProxy", Regarding("Node", node_name))


def not_listening(service: ServiceName, uid: str, frontend: str, why: str) -> Occurrence:
    """The event of an address and port that another process has, mostly a node port.

    kube-proxy has none for it (16.5): its rules come before any process's socket.
    """
    regarding = Regarding("Service", service.name, service.namespace, uid)
    note = f"cannot listen on {frontend}: {why}"
    return Occurrence("Warning", "FailedToListen", "Listen", regarding, note)


def invalid_annotation(service: ServiceName, uid: str, note: str) -> Occurrence:
    """The event of an annotation of a Service that cannot be used."""
    regarding = Regarding("Service", service.name, service.namespace, uid)
    return Occurrence("Warning", "InvalidAnnotation", "ReadAnnotations", regarding, note)


class EventSink(Protocol):
    """Takes events, one at a time."""

    async def post(self, occurrence: Occurrence) -> None:
        """Deliver one. Raises PyproxyError when it cannot; then it is dropped."""


class LogSink:
    """Writes events to the log: what there is without an API server."""

    async def post(self, occurrence: Occurrence) -> None:
        """Log one."""
        level = logging.WARNING if occurrence.type == "Warning" else logging.INFO
        of = occurrence.regarding
        name = f"{of.namespace}/{of.name}" if of.namespace else of.name
        text = f": {occurrence.note}" if occurrence.note else ""
        log.log(level, "event on %s %s: %s%s", of.kind, name, occurrence.reason, text)


class EventPublisher:
    """Queues events for a sink. `publish` from the loop's thread; `run` until cancelled."""

    def __init__(self, sink: EventSink, clock: Callable[[], float]) -> None:
        self._sink = sink
        self._clock = clock
        self._queue: asyncio.Queue[Occurrence] = asyncio.Queue(MAX_WAITING)
        self._said: dict[Occurrence, float] = {}  # in the order in which they were said
        self._credit = float(BURST)
        self._credited_at = clock()

    def publish(self, occurrence: Occurrence) -> None:
        """Queue an event, unless it was said of late, or too many were."""
        now = self._clock()
        if now - self._said.get(occurrence, -REPEAT_S) < REPEAT_S:
            return
        if self._queue.full() or not self._take_credit(now):
            log.debug("too many events; dropped: %s", occurrence)
            return
        self._said.pop(occurrence, None)
        self._said[occurrence] = now
        if len(self._said) > MAX_REMEMBERED:
            del self._said[next(iter(self._said))]
        self._queue.put_nowait(occurrence)

    def _take_credit(self, now: float) -> bool:
        """A token bucket."""
        earned = (now - self._credited_at) / REFILL_S
        self._credit, self._credited_at = min(BURST, self._credit + earned), now
        if self._credit < 1:
            return False
        self._credit -= 1
        return True

    async def run(self) -> None:
        """Deliver what is queued; what cannot be delivered is logged and dropped."""
        while True:
            occurrence = await self._queue.get()
            try:
                await self._sink.post(occurrence)
            except PyproxyError as fault:
                log.warning("event %s was not taken: %s", occurrence.reason, fault)


def event_body(occurrence: Occurrence, now: datetime, hostname: str) -> dict[str, Any]:
    """Return the events.k8s.io/v1 Event. now: in UTC; it also makes the name unique."""
    of = occurrence.regarding
    regarding = {"apiVersion": "v1", "kind": of.kind, "namespace": of.namespace, "name": of.name}
    regarding["uid"] = of.uid
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "name": f"{of.name}.{_nanoseconds(now):x}",  # as client-go names them
            "namespace": of.namespace or "default",  # where those of Nodes are (16.1)
        },
        "eventTime": f"{now:%Y-%m-%dT%H:%M:%S.%fZ}",
        "reportingController": CONTROLLER,
        "reportingInstance": f"{CONTROLLER}-{hostname}"[:_MAX_INSTANCE],
        "action": occurrence.action,
        "reason": occurrence.reason,
        "regarding": {key: value for key, value in regarding.items() if value},
        "note": occurrence.note.encode()[:_MAX_NOTE_BYTES].decode(errors="ignore"),
        "type": occurrence.type,
    }


def _nanoseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


class Poster(Protocol):
    """What can make a POST request with JSON to the API server."""

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Return status and body of the answer. Raises ApiError without one, ConfigError."""


class ApiSink:
    """Posts events to the API server."""

    def __init__(
        self,
        poster: Poster,
        hostname: str = "",
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._poster = poster
        self._hostname = hostname or socket.gethostname()
        self._now = now

    async def post(self, occurrence: Occurrence) -> None:
        """Post one. Raises ApiError when it is not taken."""
        body = event_body(occurrence, self._now(), self._hostname)
        path = f"/apis/events.k8s.io/v1/namespaces/{body['metadata']['namespace']}/events"
        status, answer = await self._poster.post(path, msgspec.json.encode(body))
        if not 200 <= status < 300:
            text = answer[:_MAX_ANSWER_BYTES].decode(errors="replace")
            raise ApiError(f"the API server answers {status}: {text}", status=status)
