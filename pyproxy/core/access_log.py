"""Which ends of connections the access log tells of, and how many of them.

Two questions: does the mode want it (`Choice`), and is there room for it (`Limiter`). One Service
with a fault must neither fill a disk nor hide the faults of the others.

Times are seconds of one monotonic clock; records of several processes may come out of order.
"""

from collections.abc import Callable
from typing import get_args

import msgspec

from pyproxy.model.ended import AccessMode
from pyproxy.model.reasons import ORDINARY_ENDS, CloseReason, DatagramDrop, FlowEnd
from pyproxy.model.service import ServicePortName

_ALL: frozenset[str] = frozenset(
    {*get_args(CloseReason), *get_args(FlowEnd), *get_args(DatagramDrop)}
)

# How far the rate may be exceeded for a moment: by what a second of it is.
_BURST_S = 1.0
# Of the rate, what each Service and reason has for itself when there is not enough for all.
_SHARE = 0.1
# A Service and reason that was not heard of for ten seconds has its whole share again, so to
# forget the longest silent of so many changes nothing. Each takes about 300 bytes.
_MOST_SHARES = 4096


class AccessRules(msgspec.Struct, frozen=True, kw_only=True):
    """mode: see docs/access-log.md. sample: `sampled` takes one of so many, >= 1.

    records_per_second: over all processes, >= 1.
    """

    mode: AccessMode = "off"
    sample: int = 100
    records_per_second: int = 100


def told_reasons(mode: AccessMode) -> frozenset[str]:
    """Return the reasons for an end that a mode may tell of."""
    if mode == "off":
        return frozenset()
    return _ALL - ORDINARY_ENDS if mode == "errors" else _ALL


class _Bucket:
    """Tokens, which come at a rate up to a most."""

    __slots__ = ("_at_s", "_most", "_rate", "tokens")

    def __init__(self, rate: float, now_s: float) -> None:
        self._rate = rate
        self._most = max(rate * _BURST_S, 1.0)
        self._at_s = now_s
        self.tokens = self._most

    def refill(self, now_s: float) -> None:
        if now_s > self._at_s:
            self.tokens = min(self._most, self.tokens + (now_s - self._at_s) * self._rate)
            self._at_s = now_s


class Limiter:
    """Lets so many records a second pass, and counts those that it leaves out.

    While there is plenty, all pass, be they of one Service. When less than half of a second's worth
    is left, only a Service and reason that has not had its share yet does.
    """

    def __init__(self, rate: float) -> None:
        self.left_out = 0
        self._rate = rate
        self._scarce = max(rate * _BURST_S, 1.0) / 2
        self._total: _Bucket | None = None
        self._shares: dict[tuple[str, str, str], _Bucket] = {}  # the longest silent first

    def allows(self, name: ServicePortName, reason: str, now_s: float) -> bool:
        """Whether a record may be written now."""
        total = self._total
        if total is None:
            total = self._total = _Bucket(self._rate, now_s)
        total.refill(now_s)
        share = self._share(name, reason, now_s)
        has_share = share.tokens >= 1
        if total.tokens < 1 or not (has_share or total.tokens > self._scarce):
            self.left_out += 1
            return False
        total.tokens -= 1
        if has_share:
            share.tokens -= 1
        return True

    def _share(self, name: ServicePortName, reason: str, now_s: float) -> _Bucket:
        key = (name.namespace, name.name, reason)
        share = self._shares.pop(key, None)
        if share is None:
            share = _Bucket(self._rate * _SHARE, now_s)
            if len(self._shares) >= _MOST_SHARES:
                del self._shares[next(iter(self._shares))]
        self._shares[key] = share
        share.refill(now_s)
        return share


class Choice:
    """Decides which ends one process tells of. draw: random, >= 0 and < 1."""

    def __init__(self, rules: AccessRules, draw: Callable[[], float]) -> None:
        self.limiter = Limiter(rules.records_per_second)
        self._told = told_reasons(rules.mode)
        self._sample = rules.sample if rules.mode == "sampled" else 1
        self._draw = draw

    def tells(self, name: ServicePortName, reason: str, now_s: float) -> bool:
        """Whether to tell of an end.

        The sample is drawn: every hundredth connection would always be of the same endpoint where
        ten take turns.
        """
        if reason not in self._told:
            return False
        if self._sample > 1 and reason in ORDINARY_ENDS and self._draw() * self._sample >= 1:
            return False
        return self.limiter.allows(name, reason, now_s)
