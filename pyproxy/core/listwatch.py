"""The list+watch protocol of the Kubernetes API as a state machine: bytes in, events out.

It decides which request comes next, what a body's bytes mean, and whether they can be trusted. It
refuses to know sockets, clocks, credentials, and how long to wait. Its owner makes the request that
`request` names, feeds the body to `receive` and `finish`, or says what went wrong (`refuse`,
`fall_silent`), does what the outputs say, and asks again.

Invariants:
- `Listed` is complete, or it is not said at all: until then the old state stands.
- `position` is the resourceVersion up to which everything has been said. A new watch from there
  loses nothing; what cannot be resumed is listed again.
- The events do not depend on how the bytes were cut.
- What cannot be decoded is not there: it is left out of a list, and a change to it deletes it. So a
  state reached by events is the state that a list would give.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from pyproxy.core.decode import decode
from pyproxy.core.listwire import (
    BOOKMARK,
    PAGE,
    PEEK,
    STATUS,
    UNREADABLE,
    WATCH_EVENT,
    BookmarkMeta,
    LineBuffer,
    Status,
    WatchEvent,
)
from pyproxy.errors import DecodeError
from pyproxy.model.events import (
    Applied,
    Deleted,
    Event,
    Listed,
    Object,
    ObjectKey,
    Resource,
    key_of,
)

# A streaming list is one request for the initial objects and the watch that follows (kube-proxy
# v1.36 by client-go; KEP-3157). A page is one piece of a plain list.
RequestKind = Literal["stream", "page", "watch"]

StopReason = Literal[
    "ended",  # the server ended the watch in order; go on from `position`
    "expired",  # `position` or a continue token is too old (410): list again
    "not_streaming",  # the server does not do streaming lists: list by pages
    "unauthorized",  # 401
    "forbidden",  # 403
    "not_found",  # 404
    "throttled",  # 429
    "server_error",  # 5xx
    "rejected",  # another status that is no success
    "watch_error",  # an ERROR event that is not about expiry
    "truncated",  # the body ended within a line
    "malformed",  # a line or a body that is no JSON of the right kind
    "too_large",  # a line or a body over its bound
    "silent",  # no byte for too long
    "reset",  # the connection broke
    "unreachable",  # no connection
    "tls",  # no trust: a certificate was refused by one side
    "credentials",  # the credentials could not be loaded
]

_STATUS_REASONS: dict[int, StopReason] = {
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    410: "expired",
    429: "throttled",
}
_INITIAL_EVENTS_END = "k8s.io/initial-events-end"
# So many useless answers in a row make the position itself suspect: list again.
_MAX_USELESS_WATCHES = 3


class Request(msgspec.Struct, frozen=True):
    """A GET to make. `parameters` is its query; a watch is to be ended after watch_timeout_s."""

    kind: RequestKind
    parameters: dict[str, str]
    watch_timeout_s: int

    @property
    def verb(self) -> Literal["list", "watch"]:
        """The verb that RBAC needs for it."""
        return "list" if self.kind == "page" else "watch"


class Stop(msgspec.Struct, frozen=True):
    """The request is over: close it, wait as the reason demands, then ask for the next one."""

    reason: StopReason
    message: str
    retry_after_s: float | None = None


class Dropped(msgspec.Struct, frozen=True):
    """One object, or one line about an object, that could not be understood. The rest goes on."""

    error: DecodeError


class Pause(msgspec.Struct, frozen=True):
    """Much was decoded since the last await: let others run, then go on with the same iterator."""


Output = Event | Dropped | Pause | Stop


class ListWatch:
    """The protocol state of one resource.

    selectors: labelSelector and fieldSelector, as the query carries them.
    page_size: objects in one page.
    max_object_bytes, max_page_bytes: bounds of one object, and of one page's body.
    pause_bytes: how much JSON is decoded between two `Pause` outputs.
    """

    def __init__(
        self,
        resource: Resource,
        selectors: Mapping[str, str],
        *,
        page_size: int = 500,
        max_object_bytes: int = 16 << 20,  # etcd takes 1.5 MiB for one object unless told otherwise
        max_page_bytes: int = 256 << 20,
        pause_bytes: int = 256 << 10,  # 6 ms of decoding EndpointSlices of ten endpoints
    ) -> None:
        self._resource: Resource = resource
        self._selectors = dict(selectors)
        self._page_size = page_size
        self._max_object_bytes = max_object_bytes
        self._max_page_bytes = max_page_bytes
        self._pause_bytes = pause_bytes
        self._can_stream = True
        self._kind: RequestKind = "stream"
        self._lines = LineBuffer(max_object_bytes)
        self._listing: dict[ObjectKey, Object] = {}
        self._page = bytearray()
        self._continue = ""
        self._expired_lists = 0
        self._useless_watches = 0
        self._unpaused_bytes = 0
        self.position = ""
        self.has_bookmarks = False

    @property
    def is_listing(self) -> bool:
        """Whether the list is not complete yet, so that `request` is about the list."""
        return not self.position

    def request(self, watch_timeout_s: int) -> Request:
        """Return the request to make now. What an earlier one left half-read is forgotten.

        watch_timeout_s: whole seconds after which the server is to end a watch, > 0.
        """
        self._lines = LineBuffer(self._max_object_bytes)
        self._page = bytearray()
        self.has_bookmarks = False  # of the watch that is open now: each server may do otherwise
        if self.position:
            self._kind = "watch"
        elif self._can_stream:
            self._kind = "stream"
            self._listing = {}
        else:
            self._kind = "page"
        parameters = self._selectors | self._parameters(watch_timeout_s)
        return Request(self._kind, parameters, watch_timeout_s)

    def _parameters(self, watch_timeout_s: int) -> dict[str, str]:
        if self._kind == "page":
            # No resourceVersion: what is newest. "0" would be served from a cache that may be old.
            if self._expired_lists > 1:  # a list slower than the compaction: take it in one piece
                return {}
            page = {"limit": str(self._page_size)}
            return page | {"continue": self._continue} if self._continue else page
        watch = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(watch_timeout_s),
        }
        if self._kind == "watch":
            return watch | {"resourceVersion": self.position}
        return watch | {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}

    def refuse(self, status: int, body: bytes, retry_after_s: float | None = None) -> Stop:
        """Take an answer that is not 200. retry_after_s: from its header."""
        try:
            answer = STATUS.decode(body)
        except UNREADABLE:  # a proxy in between may answer in HTML
            answer = Status()
        text = answer.message or body[:200].decode(errors="replace").strip() or "no message"
        message = f"the API server answered {status}: {text}"
        if status in (400, 422) and self._kind == "stream":
            return self._not_streaming(message)
        reason = _STATUS_REASONS.get(status, "server_error" if status >= 500 else "rejected")
        if retry_after_s is None:
            retry_after_s = answer.retry_after_s
        if reason == "expired":
            return self._expired(message)
        # A position is suspect only when the server says that it cannot serve it: an overloaded or
        # unwilling server would be hit by a list on top.
        if reason == "rejected":
            self._count_useless_watch()
        return Stop(reason, message, retry_after_s)

    def fall_silent(self) -> Stop:
        """Take that no byte came for too long."""
        if self._kind == "stream" and self.is_listing:
            # A server that is too old ignores sendInitialEvents, sends the objects, and never says
            # that this was all. Silence taken for the end could lose objects; a plain list cannot.
            return self._not_streaming("no end of the initial events came")
        return Stop("silent", "no byte came for too long; the connection is given up")

    def receive(self, data: bytes) -> Iterator[Output]:
        """Take some bytes of the body. After a `Stop` there is nothing more to read."""
        if self._kind == "page":
            self._page += data
            if len(self._page) > self._max_page_bytes:
                self._page_size = max(1, self._page_size // 2)
                yield Stop("too_large", f"a page of the list is over {self._max_page_bytes} bytes")
            return
        for line in self._lines.feed(data):
            for output in self._read_line(line):
                yield output
                if isinstance(output, Stop):
                    return
            yield from self._pause(len(line))
        if self._lines.has_overflowed:
            message = f"a line of the watch is over {self._max_object_bytes} bytes"
            yield self._untrusted("too_large", message)

    def finish(self) -> Iterator[Output]:
        """Take the end of the body. Without a `Stop`, the next request can be made at once."""
        if self._kind == "page":
            yield from self._read_page()
        elif self._lines.is_within_line:
            yield self._untrusted("truncated", "the watch ended within a line")
        elif self.is_listing:
            yield self._not_streaming("the stream ended before the end of the initial events")
        else:
            yield Stop("ended", "the server ended the watch")

    # Lists by pages.

    def _read_page(self) -> Iterator[Output]:
        try:
            page = PAGE.decode(self._page)
        except UNREADABLE as fault:
            yield Stop("malformed", f"the list cannot be read: {fault}")
            return
        if not page.metadata.resource_version:
            # A watch without a position starts anywhere: what changed in between would be lost.
            yield Stop("malformed", "the list has no resourceVersion")
            return
        if not self._continue:
            self._listing = {}
        for item in page.items or ():
            yield from self._list_item(item)
            yield from self._pause(memoryview(item).nbytes)
        self._continue = page.metadata.continue_ or ""
        if not self._continue:
            yield self._complete(page.metadata.resource_version)

    def _list_item(self, item: msgspec.Raw) -> Iterator[Output]:
        if memoryview(item).nbytes > self._max_object_bytes:
            message = f"an object is over {self._max_object_bytes} bytes and is left out"
            yield self._dropped(message)
            return
        try:
            value = decode(self._resource, item)
        except DecodeError as error:
            yield Dropped(error)
        else:
            self._listing[key_of(value)] = value

    def _complete(self, resource_version: str) -> Listed:
        listed = Listed(self._resource, tuple(self._listing.values()))
        self.position = resource_version
        self._listing = {}
        self._expired_lists = 0
        self._useless_watches = 0
        return listed

    # Lines of a watch.

    def _read_line(self, line: bytes) -> Iterator[Output]:
        if not line.strip():
            return
        try:
            event = WATCH_EVENT.decode(line)
        except UNREADABLE as fault:
            yield self._untrusted("malformed", f"a line of the watch cannot be read: {fault}")
        else:
            yield from self._read_event(event)

    def _read_event(self, event: WatchEvent) -> Iterator[Output]:
        match event.type:
            case "ADDED" | "MODIFIED" | "DELETED":
                yield from self._read_object(event)
            case "BOOKMARK":
                yield from self._read_bookmark(event.object)
            case "ERROR":
                yield self._read_error(event.object)
            case _:
                yield self._dropped(f"the watch sent an event of unknown type {event.type!r}")

    def _read_object(self, event: WatchEvent) -> Iterator[Output]:
        try:
            metadata = PEEK.decode(event.object).metadata
        except UNREADABLE as fault:
            yield self._dropped(f"a watch event has no readable metadata: {fault}")
            return
        self._useless_watches = 0
        key = (metadata.namespace, metadata.name)
        value: Object | None = None
        if event.type != "DELETED":
            try:
                value = decode(self._resource, event.object)
            except DecodeError as error:
                yield Dropped(error)
        if self.is_listing:
            # Real changes may come between the initial objects (client-go, Reflector.watchList).
            if value is None:
                self._listing.pop(key, None)
            else:
                self._listing[key_of(value)] = value
            return
        if metadata.resource_version:
            self.position = metadata.resource_version
        if value is None:
            yield Deleted(self._resource, key)
        else:
            yield Applied(self._resource, value)

    def _read_bookmark(self, raw: msgspec.Raw) -> Iterator[Output]:
        try:
            metadata = BOOKMARK.decode(raw).metadata
        except UNREADABLE as fault:
            yield self._untrusted("malformed", f"a bookmark cannot be read: {fault}")
        else:
            yield from self._pass_bookmark(metadata)

    def _pass_bookmark(self, metadata: BookmarkMeta) -> Iterator[Output]:
        if not metadata.resource_version:
            return
        self._useless_watches = 0
        if not self.is_listing:
            self.position = metadata.resource_version
            self.has_bookmarks = True
        elif (metadata.annotations or {}).get(_INITIAL_EVENTS_END) == "true":
            yield self._complete(metadata.resource_version)
        else:
            # A server that knows streaming lists marks its first bookmark (apiserver cacheWatcher).
            yield self._not_streaming("a bookmark came before the end of the initial events")

    def _read_error(self, raw: msgspec.Raw) -> Stop:
        try:
            status = STATUS.decode(raw)
        except UNREADABLE:
            status = Status()
        message = f"the watch sent an error: {status.message or status.reason or status.code}"
        if status.code == 410 or status.reason in ("Expired", "Gone"):
            return self._expired(message)
        self._count_useless_watch()
        return Stop("watch_error", message, status.retry_after_s)

    # What all of them do.

    def _dropped(self, message: str) -> Dropped:
        return Dropped(DecodeError(f"{self._resource}: {message}"))

    def _pause(self, decoded_bytes: int) -> Iterator[Pause]:
        self._unpaused_bytes += decoded_bytes
        if self._unpaused_bytes >= self._pause_bytes:
            self._unpaused_bytes = 0
            yield Pause()

    def _expired(self, message: str) -> Stop:
        """List again. The owner keeps what it has until the new list is complete."""
        if self._kind == "page":
            self._expired_lists += 1
        self._list_again()
        return Stop("expired", message)

    def _not_streaming(self, message: str) -> Stop:
        """List by pages from now on: that works with every server, and only costs it more."""
        self._can_stream = False
        self._list_again()
        return Stop("not_streaming", f"no streaming list: {message}")

    def _untrusted(self, reason: StopReason, message: str) -> Stop:
        """Give up a watch whose bytes make no sense; what was read before them stands."""
        if self.is_listing:
            self._can_stream = False  # perhaps something in between breaks long streams
        self._count_useless_watch()
        return Stop(reason, message)

    def _count_useless_watch(self) -> None:
        self._useless_watches += 1
        if self._useless_watches >= _MAX_USELESS_WATCHES:
            self._list_again()

    def _list_again(self) -> None:
        self.position = ""
        self._continue = ""
        self._useless_watches = 0
