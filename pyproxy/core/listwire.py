"""The JSON around the objects of a list or a watch, and the lines of a watch.

It knows shapes only; what they mean for the state of a watch is `core.listwatch`'s.
"""

import msgspec


class ListMeta(msgspec.Struct, rename="camel"):
    """The metadata of a list."""

    resource_version: str = ""
    continue_: str | None = msgspec.field(name="continue", default=None)


class Page(msgspec.Struct):
    """A list, or one page of it; each item is decoded on its own."""

    metadata: ListMeta
    items: list[msgspec.Raw] | None = None


class WatchEvent(msgspec.Struct):
    """One line of a watch."""

    type: str
    object: msgspec.Raw


class ObjectMeta(msgspec.Struct, rename="camel"):
    """What is needed of an object that is not decoded as a whole."""

    name: str
    namespace: str = ""
    resource_version: str = ""


class Peek(msgspec.Struct):
    """An object of which only the metadata is read."""

    metadata: ObjectMeta


class BookmarkMeta(msgspec.Struct, rename="camel"):
    """The metadata of a bookmark: everything up to here has been sent."""

    resource_version: str = ""
    annotations: dict[str, str] | None = None


class Bookmark(msgspec.Struct):
    """The object of a BOOKMARK event."""

    metadata: BookmarkMeta


class StatusDetails(msgspec.Struct, rename="camel"):
    """The details of a Status."""

    retry_after_seconds: int | None = None


class Status(msgspec.Struct):
    """Why the API server cannot serve: a body of its own, or the object of an ERROR event."""

    code: int | None = None
    reason: str | None = None
    message: str | None = None
    details: StatusDetails | None = None

    @property
    def retry_after_s(self) -> float | None:
        """The seconds to wait that it asks for; it says 0 when it asks for none."""
        seconds = self.details.retry_after_seconds if self.details else None
        return float(seconds) if seconds else None


PAGE = msgspec.json.Decoder(Page)
WATCH_EVENT = msgspec.json.Decoder(WatchEvent)
PEEK = msgspec.json.Decoder(Peek)
BOOKMARK = msgspec.json.Decoder(Bookmark)
STATUS = msgspec.json.Decoder(Status)

# What msgspec raises for bytes that are not JSON of the right shape.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class LineBuffer:
    """Bytes in, whole lines out, without their ends. A line over `max_bytes` ends it all."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._rest = bytearray()
        self.has_overflowed = False

    @property
    def is_within_line(self) -> bool:
        """Whether bytes came after the last line end."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that are whole now, up to one that is too long."""
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = bytes(self._rest) + lines[0]
            self._rest = bytearray(rest)
        else:
            self._rest += rest
        self.has_overflowed = len(self._rest) > self._max_bytes
        for index, line in enumerate(lines):
            if len(line) > self._max_bytes:
                self.has_overflowed = True
                return lines[:index]
        return lines
