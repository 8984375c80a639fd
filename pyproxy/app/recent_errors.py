"""What went wrong lately: the growth of the error counters, looked at every few seconds.

The counters tell how often since the start; an operator asks what is wrong now.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from pyproxy.metrics import Metrics, ServicePortCounters
from pyproxy.model.reasons import ORDINARY_ENDS
from pyproxy.model.service import ServiceName, ServicePortName

INTERVAL_S = 2.0
WINDOW_S = 600.0
_PORTS_IN_A_TURN = 500
# Kept of a bad time; the oldest go first.
_MOST = 5_000

Kind = Literal["connect", "closed"]


class Error(msgspec.Struct, frozen=True):
    """kind: `connect`, of an attempt to connect; `closed`, of how a connection ended.

    reason: a word of pyproxy.model.reasons. last_s: Unix time of the last one.
    """

    service_port: ServicePortName
    kind: Kind
    reason: str
    count: int
    last_s: float


class RecentErrors:
    """Follows the counters. clock: Unix time."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._clock = clock
        self._seen: dict[ServicePortName, Counter[tuple[Kind, str]]] = {}
        self._growth: deque[Error] = deque(maxlen=_MOST)

    async def follow(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            for _ in self._look():
                await asyncio.sleep(0)

    def latest(self, of: ServiceName | None = None) -> list[Error]:
        """Return the errors of the last ten minutes, of a Service or of all; the most first."""
        for _ in self._look(of):
            pass
        begin_s = self._clock() - WINDOW_S
        summed: dict[tuple[ServicePortName, Kind, str], Error] = {}
        for error in self._growth:
            if error.last_s >= begin_s and (of is None or error.service_port.service == of):
                key = error.service_port, error.kind, error.reason
                before = summed.get(key)
                count = error.count + (before.count if before else 0)
                summed[key] = msgspec.structs.replace(error, count=count)
        return sorted(summed.values(), key=lambda error: -error.count)

    def _look(self, of: ServiceName | None = None) -> Iterator[None]:
        """Note what has grown, of a Service or of all; yield where others may have a turn."""
        now_s, ports = self._clock(), list(self._metrics.service_ports())
        if of is not None:
            ports = [(name, counters) for name, counters in ports if name[:2] == of]
        elif len(self._seen) > len(ports):
            names = {name for name, _ in ports}
            self._seen = {name: seen for name, seen in self._seen.items() if name in names}
        for number, (name, counters) in enumerate(ports):
            if number % _PORTS_IN_A_TURN == _PORTS_IN_A_TURN - 1:
                yield
            if not (counters.attempts or counters.closed):  # most of 10,000 never had a client
                continue
            errors = _errors(counters)
            if not errors:
                continue
            before = self._seen.get(name, Counter())
            self._seen[name] = errors
            for (kind, reason), count in errors.items():
                if count > before[kind, reason]:
                    grown = count - before[kind, reason]
                    self._growth.append(Error(name, kind, reason, grown, now_s))


def error_count(counters: ServicePortCounters) -> int:
    """How many errors a Service port has counted since the start."""
    return _errors(counters).total()


def _errors(counters: ServicePortCounters) -> Counter[tuple[Kind, str]]:
    found: Counter[tuple[Kind, str]] = Counter()
    for result, count in counters.attempts.items():
        if result != "ok":
            found["connect", result] = count
    for reason, count in counters.closed.items():
        if reason not in ORDINARY_ENDS:
            found["closed", reason] = count
    return found
