"""Whether the proxy is healthy: kube-proxy's rule for /healthz and /livez (PARITY 12.11 to 12.19).

A family is unhealthy while an update has been queued for longer than the time-out without having
been applied. Being idle is healthy, for however long. What is told of times is in UTC, given by the
caller; how long something waits goes by a clock of its own, which nobody sets.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from pyproxy.model.addresses import FAMILIES, Family

_ZERO = datetime(1, 1, 1, tzinfo=UTC)


class ProxyHealth:
    """Remembers when updates were asked for and when they were applied.

    timeout_s: seconds. clock: monotonic, in seconds.
    """

    def __init__(self, timeout_s: float, clock: Callable[[], float]) -> None:
        self._timeout_s = timeout_s
        self._clock = clock
        self._queued_s: dict[Family, float] = {}
        self._updated: dict[Family, datetime] = {}
        self.is_node_eligible = True
        self.is_stopping = False

    def queued(self) -> None:
        """Note that an update waits; the first one since the last success counts (12.13)."""
        now_s = self._clock()
        for family in FAMILIES:
            self._queued_s.setdefault(family, now_s)

    def updated(self, now: datetime) -> None:
        """Note that every update so far is applied."""
        self._queued_s.clear()
        self._updated = dict.fromkeys(FAMILIES, now)

    def is_healthy(self) -> bool:
        """Whether no family waits too long (12.12)."""
        return all(self._is_family_healthy(family) for family in self._queued_s)

    def healthz(self, now: datetime) -> tuple[int, dict[str, Any]]:
        """Return the status and the body of /healthz."""
        is_ok = self.is_healthy() and self.is_node_eligible and not self.is_stopping
        extra = {"nodeEligible": self.is_node_eligible}
        if self.is_stopping:  # kube-proxy never says so: its rules outlive it
            extra["stopping"] = True
        return self._answer(now, is_ok=is_ok, extra=extra)

    def livez(self, now: datetime) -> tuple[int, dict[str, Any]]:
        """Return the status and the body of /livez: a node that leaves is no reason to restart."""
        return self._answer(now, is_ok=self.is_healthy(), extra={})

    def _answer(
        self, now: datetime, *, is_ok: bool, extra: dict[str, Any]
    ) -> tuple[int, dict[str, Any]]:
        newest = max(self._updated.values(), default=_ZERO)
        body: dict[str, Any] = {
            "lastUpdated": rfc3339(now if is_ok else newest),  # 12.17
            "currentTime": rfc3339(now),
            **extra,
            "healthy": self.is_healthy(),
        }
        if self._updated:
            body["status"] = {
                family: {
                    "lastUpdated": rfc3339(self._updated[family]),
                    "healthy": self._is_family_healthy(family),
                }
                for family in FAMILIES
            }
        return (200 if is_ok else 503), body

    def _is_family_healthy(self, family: Family) -> bool:
        since_s = self._queued_s.get(family)
        return since_s is None or self._clock() - since_s < self._timeout_s


def rfc3339(moment: datetime) -> str:
    """Return a moment in UTC as Go writes it in JSON."""
    return moment.isoformat().replace("+00:00", "Z")
