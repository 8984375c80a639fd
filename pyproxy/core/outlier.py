"""Passive ejection: endpoints that cannot be connected are left out for a while.

    in use --failures in a row--> ejected --its time is over--> due --picked--> probed
       ^                             ^                           |               |
       '------- it was connected ----+------- the probe failed --+---------------'

Only connect attempts are looked at, and only those of this process; Envoy calls the same
`consecutive_local_origin_failure`, and HAProxy `observe layer4`. Nothing is sent to find out: the
probe is a client's connection, which goes to another endpoint when it fails. Times are seconds of
one monotonic clock.

Invariant: no more endpoints are ejected than the settings allow, and never the only one.
"""

from collections.abc import Set as AbstractSet

from pyproxy.core.affinity import EndpointKey
from pyproxy.model.endpoint import Endpoint
from pyproxy.model.options import EjectionSettings


class _Ejection:
    """level: which in a row it is, from 1 on. until_s: picks avoid the endpoint before."""

    __slots__ = ("is_probed", "level", "until_s")

    def __init__(self, level: int, until_s: float) -> None:
        self.level = level
        self.until_s = until_s
        self.is_probed = False


class Outliers:
    """The endpoints of one Service port that failed of late. total: ejections, ever."""

    def __init__(self) -> None:
        self.total = 0
        self._failures: dict[EndpointKey, int] = {}  # in a row
        self._ejected: dict[EndpointKey, _Ejection] = {}
        self._past: dict[EndpointKey, _Ejection] = {}  # the last one of those that came back

    def __bool__(self) -> bool:
        """Whether any endpoint is ejected."""
        return bool(self._ejected)

    @property
    def is_watching(self) -> bool:
        """Whether a success would change anything."""
        return bool(self._failures or self._ejected)

    def ejected(self) -> list[tuple[EndpointKey, float]]:
        """Return the endpoints that are ejected, each with when it may be picked again."""
        return [(key, ejection.until_s) for key, ejection in self._ejected.items()]

    def without_ejected(
        self, endpoints: tuple[Endpoint, ...], now_s: float
    ) -> tuple[Endpoint, ...]:
        """Return the endpoints that may be picked; all, where none may: better one that fails."""
        ejected = self._ejected
        usable = tuple(
            [
                e
                for e in endpoints
                if (found := ejected.get((e.address, e.port))) is None or found.until_s <= now_s
            ]
        )
        return usable or endpoints

    def picked(self, key: EndpointKey, settings: EjectionSettings, now_s: float) -> None:
        """Note a pick. That of an endpoint which is due is its probe, and keeps others away.

        A probe that nothing is heard of does so for the base time only: its client may have gone
        away, or it is a UDP flow that is never answered. The next pick then brings the endpoint
        back, on trial: one more failure ejects it again.
        """
        ejection = self._ejected.get(key)
        if ejection is None or now_s < ejection.until_s:
            return
        if ejection.is_probed:
            self._bring_back(key)
            self._failures[key] = settings.consecutive_failures - 1
        else:
            ejection.is_probed = True
            ejection.until_s = now_s + settings.base_time_s

    def connected(self, key: EndpointKey) -> None:
        """Note that the endpoint was connected: that ends a row of failures, and an ejection."""
        self._failures.pop(key, None)
        if key in self._ejected:
            self._bring_back(key)

    def failed(
        self, key: EndpointKey, settings: EjectionSettings, count: int, now_s: float
    ) -> bool:
        """Note a failure; return whether it ejects the endpoint, one of `count`."""
        ejection = self._ejected.get(key)
        if ejection is not None:
            if ejection.is_probed:
                self._eject(key, ejection.level + 1, settings, now_s)
            return ejection.is_probed  # else the attempt began before the ejection
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        room = _most(settings, count) - len(self._ejected)
        if failures < settings.consecutive_failures or room <= 0:
            return False
        del self._failures[key]
        self._eject(key, self._next_level(key, settings, now_s), settings, now_s)
        return True

    def keep_only(
        self, keys: AbstractSet[EndpointKey], settings: EjectionSettings, count: int
    ) -> None:
        """Forget endpoints that have left; bring back some where too few are left otherwise."""
        self._failures = {key: n for key, n in self._failures.items() if key in keys}
        self._ejected = {key: found for key, found in self._ejected.items() if key in keys}
        self._past = {key: found for key, found in self._past.items() if key in keys}
        while len(self._ejected) > _most(settings, count):
            self._bring_back(min(self._ejected, key=lambda key: self._ejected[key].until_s))

    def clear(self) -> None:
        """Forget all endpoints."""
        self._failures.clear()
        self._ejected.clear()
        self._past.clear()

    def _eject(
        self, key: EndpointKey, level: int, settings: EjectionSettings, now_s: float
    ) -> None:
        # 2 to the 31st is beyond any time that is set; the level itself may grow for weeks.
        duration_s = min(settings.base_time_s * 2 ** min(level - 1, 31), settings.max_time_s)
        self._ejected[key] = _Ejection(level, now_s + duration_s)
        self.total += 1

    def _next_level(self, key: EndpointKey, settings: EjectionSettings, now_s: float) -> int:
        """One more than the last time, less one for each base time that it has served since."""
        past = self._past.pop(key, None)
        if past is None:
            return 1
        served_s = max(0.0, now_s - past.until_s)
        return max(0, past.level - int(served_s / settings.base_time_s)) + 1

    def _bring_back(self, key: EndpointKey) -> None:
        self._past[key] = self._ejected.pop(key)


def _most(settings: EjectionSettings, count: int) -> int:
    """How many of `count` endpoints may be ejected: one at least, but never the only one."""
    return max(1, count * settings.max_percent // 100) if count > 1 else 0
