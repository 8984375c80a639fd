"""Which UDP flows exist, and which of them is the next to go. It opens no socket and has no clock.

A flow is idle too long after one time while its endpoint has not answered, and after a longer one
once it has: conntrack's rule (PARITY 11.1). Both times are fixed, so the flows of each kind, in the
order of their last datagram, are also in the order in which they expire. Every step is O(1).

Times are seconds of one monotonic clock, and never go back.
"""

import itertools
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from pyproxy.model.table import Backend


class Flow:
    """A client's datagrams to one frontend, and the answers. A subclass adds the socket.

    key: what the table finds it by. last_s: when its last datagram passed, in either direction.
    is_replied: whether the endpoint has answered, ever.
    """

    __slots__ = ("is_replied", "key", "last_s")

    def __init__(self, key: Hashable, now_s: float) -> None:
        self.key = key
        self.last_s = now_s
        self.is_replied = False


F = TypeVar("F", bound=Flow)


class FlowTable(Generic[F]):
    """At most `max_flows` flows; when it is full, the longest idle makes room for a new one.

    Invariant: each of the two dicts is ordered by `last_s`.
    """

    def __init__(
        self, max_flows: int, unreplied_timeout_s: float, replied_timeout_s: float
    ) -> None:
        self._max_flows = max_flows
        self._unreplied: OrderedDict[Hashable, F] = OrderedDict()
        self._replied: OrderedDict[Hashable, F] = OrderedDict()
        self._kinds = (
            (self._unreplied, unreplied_timeout_s),
            (self._replied, replied_timeout_s),
        )

    def __len__(self) -> int:
        return len(self._unreplied) + len(self._replied)

    def __iter__(self) -> Iterator[F]:
        """The flows; the table must not change meanwhile."""
        return itertools.chain(self._unreplied.values(), self._replied.values())

    def get(self, key: Hashable) -> F | None:
        """Return the flow of this key, or None. Its time is not touched."""
        return self._replied.get(key) or self._unreplied.get(key)

    def add(self, flow: F) -> F | None:
        """Take in a new flow whose key is not in here; return the flow that had to go for it."""
        evicted = self.evict_oldest() if len(self) >= self._max_flows else None
        self._unreplied[flow.key] = flow
        return evicted

    def sent(self, flow: F, now_s: float) -> None:
        """Note a datagram of the client."""
        flow.last_s = now_s
        (self._replied if flow.is_replied else self._unreplied).move_to_end(flow.key)

    def replied(self, flow: F, now_s: float) -> None:
        """Note a datagram of the endpoint."""
        flow.last_s = now_s
        if flow.is_replied:
            self._replied.move_to_end(flow.key)
        else:
            flow.is_replied = True
            del self._unreplied[flow.key]
            self._replied[flow.key] = flow

    def remove(self, flow: F) -> None:
        """Forget a flow. One that is not in here is no error."""
        (self._replied if flow.is_replied else self._unreplied).pop(flow.key, None)

    def evict_oldest(self) -> F | None:
        """Remove and return the flow that is idle longest; None when there is no flow."""
        heads = [next(iter(flows.values())) for flows, _ in self._kinds if flows]
        if not heads:
            return None
        oldest = min(heads, key=lambda flow: flow.last_s)
        self.remove(oldest)
        return oldest

    def expire(self, now_s: float) -> list[F]:
        """Remove and return the flows that have been idle for their whole time."""
        expired: list[F] = []
        for flows, timeout_s in self._kinds:
            while flows:
                flow = next(iter(flows.values()))
                if now_s - flow.last_s < timeout_s:
                    break
                expired.append(flows.popitem(last=False)[1])
        return expired

    def clear(self) -> list[F]:
        """Remove and return every flow."""
        flows = [*self._unreplied.values(), *self._replied.values()]
        self._unreplied.clear()
        self._replied.clear()
        return flows


def is_stale(endpoint: tuple[str, int], backend: Backend) -> bool:
    """Whether a flow to this (address, port) must move to another endpoint.

    Serving is the test, not ready: a terminating endpoint that still serves keeps its flows (PARITY
    11.3, 11.5, 11.8). While nothing serves, flows stay where they are (11.6).
    """
    return bool(backend.serving) and endpoint not in backend.serving
