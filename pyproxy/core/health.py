"""Whether the proxy is healthy: kube-proxy's rule for /healthz and /livez (PARITY 12.11 to 12.19).

A family is unhealthy while an update has been queued for longer than the time-out without having
been applied. Being idle is healthy, for however long. Times are in UTC, given by the caller.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from pyproxy.model.addresses import FAMILIES, Family

_ZERO = datetime(1, 1, 1, tzinfo=UTC)


class ProxyHealth:
    """Remembers when updates were asked for and when they were applied."""

    def __init__(self, timeout: timedelta) -> None:
        self._timeout = timeout
        self._queued: dict[Family, datetime] = {}
        self._updated: dict[Family, datetime] = {}
        self.is_node_eligible = True
        self.is_stopping = False

    def queued(self, now: datetime) -> None:
        """Note that an update waits; the first one since the last success counts (12.13)."""
        for family in FAMILIES:
            self._queued.setdefault(family, now)

    def updated(self, now: datetime) -> None:
        """Note that every update so far is applied."""
        self._queued.clear()
        self._updated = dict.fromkeys(FAMILIES, now)

    def is_healthy(self, now: datetime) -> bool:
        """Whether no family waits too long (12.12)."""
        return all(now - since < self._timeout for since in self._queued.values())

    def healthz(self, now: datetime) -> tuple[int, dict[str, Any]]:
        """Return the status and the body of /healthz."""
        is_ok = self.is_healthy(now) and self.is_node_eligible and not self.is_stopping
        extra = {"nodeEligible": self.is_node_eligible}
        if self.is_stopping:  # kube-proxy never says so: its rules outlive it
            extra["stopping"] = True
        return self._answer(now, is_ok=is_ok, extra=extra)

    def livez(self, now: datetime) -> tuple[int, dict[str, Any]]:
        """Return the status and the body of /livez: a node that leaves is no reason to restart."""
        return self._answer(now, is_ok=self.is_healthy(now), extra={})

    def _answer(
        self, now: datetime, *, is_ok: bool, extra: dict[str, Any]
    ) -> tuple[int, dict[str, Any]]:
        newest = max(self._updated.values(), default=_ZERO)
        body: dict[str, Any] = {
            "lastUpdated": rfc3339(now if is_ok else newest),  # 12.17
            "currentTime": rfc3339(now),
            **extra,
            "healthy": self.is_healthy(now),
        }
        if self._updated:
            body["status"] = {
                family: {
                    "lastUpdated": rfc3339(self._updated[family]),
                    "healthy": self._is_family_healthy(family, now),
                }
                for family in FAMILIES
            }
        return (200 if is_ok else 503), body

    def _is_family_healthy(self, family: Family, now: datetime) -> bool:
        return now - self._queued.get(family, now) < self._timeout


def rfc3339(moment: datetime) -> str:
    """Return a moment in UTC as Go writes it in JSON."""
    return moment.isoformat().replace("+00:00", "Z")
