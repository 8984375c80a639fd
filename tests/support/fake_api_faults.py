"""What can go wrong between a client and an API server, on demand.

`FakeFaults` holds what every request has to pass; the faults of open watches are methods of the
server itself, next to the watches.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from pyproxy.model.events import Resource
from tests.support.fake_api_store import ApiStatus

Verb = Literal["list", "watch", "write"]
_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class Refusal:
    """Requests of one sort that are answered with an error; `count` of them so far."""

    def __init__(
        self,
        code: int,
        message: str,
        resource: Resource | None,
        verb: Verb | None,
        headers: dict[str, str],
    ) -> None:
        self.status = ApiStatus(code, _REASONS[code], message)
        self.headers = headers
        self.count = 0
        self._resource = resource
        self._verb = verb

    def concerns(self, resource: Resource, verb: Verb) -> bool:
        return self._resource in (None, resource) and self._verb in (None, verb)


class FakeFaults:
    """The faults that are on now.

    watch_list: "refused" and "ignored" are what servers do that know no streaming lists.
    gone: whether an expired position is told by an ERROR event, as real servers do, or by status.
    watches_end_at_once: a watch is answered, and ended in order before anything comes.
    hangs: requests are read and never answered.
    """

    def __init__(self) -> None:
        self.watch_list: Literal["served", "refused", "ignored"] = "served"
        self.gone: Literal["event", "status"] = "event"
        self.watches_end_at_once = False
        self.hangs = False
        self._refusals: list[Refusal] = []

    @contextmanager
    def refusing(
        self,
        code: int,
        *,
        resource: Resource | None = None,
        verb: Verb | None = None,
        message: str = "refused by the test",
        headers: dict[str, str] | None = None,
    ) -> Iterator[Refusal]:
        """Answer matching requests with an error as long as the context is open."""
        refusal = Refusal(code, message, resource, verb, headers or {})
        self._refusals.append(refusal)
        try:
            yield refusal
        finally:
            self._refusals.remove(refusal)

    def refusal_of(self, resource: Resource, verb: Verb) -> Refusal | None:
        """Return the refusal that a request meets, counted, or None."""
        for refusal in self._refusals:
            if refusal.concerns(resource, verb):
                refusal.count += 1
                return refusal
        return None
