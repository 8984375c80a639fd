"""Counters on their way from the workers to the agent, which shows their sums.

A worker counts in Metrics of its own, and tells now and then what has come since. So what it has
told outlives it; what it still had open when it died is counted as lost.
"""

from collections import Counter
from typing import TYPE_CHECKING

from pyproxy.metrics import DATA_PLANE, GAUGES, Metrics, ServicePortCounters

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from pyproxy.app.worker_wire import Counts, EndpointCounts
    from pyproxy.model.reasons import CloseReason
    from pyproxy.model.service import ServicePortName

_LOST: "CloseReason" = "worker_lost"

_PORTS_IN_A_PART = 500

# What has come, by the name of the count: a number, one for each label, or one for each bucket.
Increments = dict[str, int | dict[str, int] | list[int]]


class _Seen:
    """The last state of some counts."""

    __slots__ = ("_names", "_values")

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._values: dict[str, int | Counter[str] | list[int]] = {}

    def __getitem__(self, name: str) -> int | Counter[str] | list[int]:
        return self._values.get(name, 0)

    def take(self, counted: object) -> Increments:
        """Return what has come to the counts of an object since the last call."""
        found: Increments = {}
        for name in self._names:
            value, before = getattr(counted, name), self._values.get(name)
            if not value and not before:
                continue
            if isinstance(value, Counter):
                counted_before = before if isinstance(before, Counter) else Counter()
                news = {
                    k: n - counted_before[k] for k, n in value.items() if n != counted_before[k]
                }
                if news:
                    found[name] = news
                    self._values[name] = value.copy()
            elif isinstance(value, list):
                if value != before:
                    old = before if isinstance(before, list) else [0] * len(value)
                    if any(grown := [n - b for n, b in zip(value, old, strict=True)]):
                        found[name] = grown
                        self._values[name] = value.copy()
            elif value != (before or 0):
                found[name] = value - (before or 0)
                self._values[name] = value
        return found


class CountsSource:
    """A worker's end: what has come since it was last asked."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._process = _Seen(DATA_PLANE)
        self._ports: dict[ServicePortName, tuple[ServicePortCounters, _Seen]] = {}

    def process(self) -> Increments:
        """What has come to the counts of the whole process."""
        return self._process.take(self._metrics)

    def service_ports(self) -> "Iterator[list[tuple[ServicePortName, Increments]]]":
        """What has come to those of each Service port, in parts, that other work may come between.

        A part takes about a millisecond to make, if thousands of Service ports are in use. A count
        that moves without any connection or attempt waits for the next one.
        """
        # Most of 10,000 Service ports never had a client.
        used = [
            (name, c)
            for name, c in self._metrics.service_ports()
            if c.opened or c.attempts or c.dropped
        ]
        if len(self._ports) > len(used):
            names = {name for name, _ in used}
            self._ports = {name: kept for name, kept in self._ports.items() if name in names}
        for start in range(0, len(used), _PORTS_IN_A_PART):
            yield list(self._changed(used[start : start + _PORTS_IN_A_PART]))

    def _changed(
        self, used: "list[tuple[ServicePortName, ServicePortCounters]]"
    ) -> "Iterator[tuple[ServicePortName, Increments]]":
        for name, counters in used:
            known, seen = self._ports.get(name, (None, None))
            if known is not counters or seen is None:
                seen = _Seen(ServicePortCounters.__slots__)
                self._ports[name] = (counters, seen)
            # Attempts or drops alone: of UDP clients that no endpoint could be had for.
            moving = ("opened", "attempts", "dropped", "ejected")
            has_moved = any((getattr(counters, name) or 0) != seen[name] for name in moving)
            if counters.active or has_moved or seen["active"]:
                increments = seen.take(counters)
                if increments:
                    yield name, increments


class CountsSum:
    """The agent's end: adds what workers tell to its own Metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        # By worker: what it has open.
        self._open: dict[int, dict[ServicePortName, Counter[str]]] = {}

    def add(self, worker: int, counts: "Counts", wanted: "Container[ServicePortName]") -> None:
        """Add a worker's increments; those of Service ports that are gone are nobody's."""
        _add(self._metrics, counts.process)
        open_ = self._open.setdefault(worker, {})
        for name, increments in counts.service_ports:
            if name not in wanted:
                continue
            _add(self._metrics.service_port(name), increments)
            for gauge in GAUGES:
                change = increments.get(gauge)
                if isinstance(change, int):
                    held = open_.setdefault(name, Counter())
                    held[gauge] += change

    def add_endpoints(self, worker: int, counts: "EndpointCounts") -> None:
        """Add what a worker counted of endpoints."""
        series = self._metrics.endpoint_series
        if series is not None:
            series.add(worker, counts.ended, counts.live, self._metrics.knows)

    def lost(self, worker: int) -> int:
        """Close what a worker had open that has died; return how many connections and flows."""
        lost = 0
        if self._metrics.endpoint_series is not None:
            self._metrics.endpoint_series.lost(worker)
        for name, held in self._open.pop(worker, {}).items():
            counters = self._metrics.service_port(name)
            for gauge, value in held.items():
                setattr(counters, gauge, getattr(counters, gauge) - value)
            if held["active"]:
                counters.closed[_LOST] += held["active"]
                lost += held["active"]
        return lost

    def forget(self, name: "ServicePortName") -> None:
        """Drop the series of a Service port that is gone."""
        self._metrics.forget(name)
        for open_ in self._open.values():
            open_.pop(name, None)


def _add(counted: object, increments: Increments) -> None:
    for name, change in increments.items():
        if isinstance(change, dict):
            getattr(counted, name).update(change)
        elif isinstance(change, list):
            buckets = getattr(counted, name)
            buckets[:] = [n + more for n, more in zip(buckets, change, strict=True)]
        else:
            setattr(counted, name, getattr(counted, name) + change)
