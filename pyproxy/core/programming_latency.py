"""How long a change of endpoints takes to be programmed (PARITY section 18).

The control plane writes the time of what it reacted to into each EndpointSlice. kube-proxy v1.36
`endpointschangetracker.go` is the model: times gather for each Service until an update succeeds.
Times are in UTC, given by the caller.
"""

from datetime import datetime
from typing import TYPE_CHECKING

from pyproxy.core.selection import feeds_endpoints
from pyproxy.model.endpoint import EndpointSlice
from pyproxy.model.events import Applied, Deleted, Event, Listed, ObjectKey

if TYPE_CHECKING:
    from pyproxy.model.service import ServiceName

# While updates fail, what waits must not grow without end.
MAX_PENDING = 100  # of a Service


class ProgrammingLatency:
    """Gathers the times of changes, and gives how long ago they were once they are programmed.

    start: when this process began to follow; what was triggered until then says nothing of it.
    """

    def __init__(self, start: datetime) -> None:
        self._start = start
        self._slices: dict[ObjectKey, EndpointSlice] = {}
        self._pending: dict[ServiceName, list[datetime]] = {}

    def apply(self, event: Event) -> None:
        """Take in an event of the source."""
        match event:
            case Applied(value=EndpointSlice() as value):
                self._put(value)
            case Deleted(resource="endpointslices", key=key):
                self._delete(key)
            case Listed(resource="endpointslices", values=values):
                listed = {(v.namespace, v.name): v for v in values if isinstance(v, EndpointSlice)}
                for key in self._slices.keys() - listed.keys():
                    self._delete(key)
                for value in listed.values():
                    self._put(value)
            case _:
                pass

    def programmed(self, now: datetime) -> list[float]:
        """Say that an update succeeded; return the seconds of each change that waited for it."""
        pending, self._pending = self._pending, {}
        seconds = [(now - at).total_seconds() for found in pending.values() for at in found]
        return [max(0.0, each) for each in seconds]  # the control plane's clock may be ahead

    def _put(self, value: EndpointSlice) -> None:
        key = (value.namespace, value.name)
        before, self._slices[key] = self._slices.get(key), value
        if value == before or not feeds_endpoints(value):
            return
        trigger = _parse(value.last_change)
        if trigger is None or trigger <= self._start:  # 18.2
            return
        waiting = self._pending.setdefault(value.service, [])
        if len(waiting) < MAX_PENDING:
            waiting.append(trigger)

    def _delete(self, key: ObjectKey) -> None:
        """Forget a slice, and with it all that waits of its Service (18.3)."""
        gone = self._slices.pop(key, None)
        if gone is not None:
            self._pending.pop(gone.service, None)


def _parse(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None
