"""What each Service did in the last quarter of an hour, in steps of five seconds.

Only Services that had traffic have a ring, and no more than MOST_RINGS of them: each takes about
5 kB, so all of them at most 10 MB. Time is no argument: each call of `add` is one step later.
"""

import itertools
import math
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping

import msgspec

from pyproxy.model.service import ServiceName

STEP_S = 5.0
STEPS = 180
MOST_RINGS = 2_000
_MINUTE = round(60 / STEP_S)
_IN_A_TURN = 250


class Step(msgspec.Struct, frozen=True, array_like=True):
    """One step of one Service. Rates are of a second, connect times seconds, or NaN without any."""

    connections: float = 0.0
    to_endpoint: float = 0.0
    to_client: float = 0.0
    active: float = 0.0
    errors: float = 0.0
    p50_s: float = math.nan
    p95_s: float = math.nan


COLUMNS = tuple(field.name for field in msgspec.structs.fields(Step))
_WIDTH = len(COLUMNS)
_ERRORS = COLUMNS.index("errors")
_QUIET = array("f", msgspec.structs.astuple(Step()))


class _Ring:
    """values: row by row. idle: steps in a row without anything. begin: its first step."""

    __slots__ = ("begin", "errors", "idle", "values")

    def __init__(self, begin: int) -> None:
        self.values = _QUIET * STEPS
        self.begin = begin
        self.idle = 0
        self.errors = 0


class History:
    """The rings, by Service."""

    def __init__(self, most: int = MOST_RINGS) -> None:
        self._most = most
        self._rings: dict[ServiceName, _Ring] = {}
        self._at = 0

    def __len__(self) -> int:
        return len(self._rings)

    def add(self, steps: Mapping[ServiceName, Step]) -> Iterator[None]:
        """Take in the newest step: of those that did something; all others were quiet.

        Yields where others may have a turn; the step is seen once all of it is taken in.
        """
        self._admit(steps.keys() - self._rings.keys())
        row = self._at % STEPS * _WIDTH
        ended = []
        for number, (name, ring) in enumerate(self._rings.items(), start=1):
            if not number % _IN_A_TURN:
                yield
            step = steps.get(name)
            if step is None:
                ring.idle += 1
                ring.values[row : row + _WIDTH] = _QUIET
                if ring.idle >= STEPS:
                    ended.append(name)
            else:
                ring.idle = 0
                ring.values[row : row + _WIDTH] = array("f", msgspec.structs.astuple(step))
            if ring.errors or (step is not None and step.errors):
                ring.errors = round(sum(self._column(ring, _ERRORS, _MINUTE, self._at)))
        for name in ended:
            del self._rings[name]
        self._at += 1

    def errors(self, name: ServiceName) -> int:
        """How many errors there were in the last minute."""
        ring = self._rings.get(name)
        return ring.errors if ring else 0

    def last(self, name: ServiceName) -> Step:
        """The newest step."""
        ring = self._rings.get(name)
        if ring is None:
            return Step()
        row = (self._at - 1) % STEPS * _WIDTH
        return Step(*ring.values[row : row + _WIDTH])

    def column(self, name: ServiceName, column: str, steps: int = STEPS) -> list[float | None]:
        """The values of a column, the oldest first, None for what is not known; [] without any."""
        ring = self._rings.get(name)
        if ring is None:
            return []
        values = self._column(ring, COLUMNS.index(column), steps, self._at - 1)
        return [None if math.isnan(value) else value for value in values]

    def keep_only(self, names: Iterable[ServiceName]) -> None:
        """Drop the rings of Services that are gone."""
        for name in self._rings.keys() - set(names):
            del self._rings[name]

    def _admit(self, names: Collection[ServiceName]) -> None:
        """Give rings to newcomers; where there is no room, those of whom is idle for longest."""
        lacking = len(self._rings) + len(names) - self._most
        if lacking > 0:
            idle = [name for name, ring in self._rings.items() if ring.idle]
            idle.sort(key=lambda name: -self._rings[name].idle)
            for name in idle[:lacking]:
                del self._rings[name]
        for name in itertools.islice(names, self._most - len(self._rings)):
            self._rings[name] = _Ring(self._at)

    @staticmethod
    def _column(ring: _Ring, column: int, steps: int, end: int) -> list[float]:
        """The last steps up to `end`, that one too; only what the ring has lived through."""
        count = min(steps, end - ring.begin + 1, STEPS)
        first = end - count + 1
        return [ring.values[at % STEPS * _WIDTH + column] for at in range(first, end + 1)]


def quantile(histogram: list[int], bounds: tuple[float, ...], share: float) -> float:
    """A quantile of a histogram, in between the bounds of its bucket; NaN when it is empty.

    histogram: counts of the buckets, that of what is above all bounds, and a sum (not looked at).
    """
    counts = histogram[: len(bounds) + 1]
    left = share * sum(counts)
    if not left:
        return math.nan
    low = 0.0
    for count, high in zip(counts, bounds, strict=False):
        if left <= count:
            return low + (high - low) * left / count
        left -= count
        low = high
    return bounds[-1]
