"""Slow start: a new endpoint gets less than its share of connections until it is warm.

The same for all policies that may choose freely: while an endpoint warms up it sits out some of
the picks, at first nine of ten, then ever fewer. The share grows in a line from a tenth to the
whole, as in Envoy (`slow_start_config`, aggression 1.0, min_weight_percent 10). Time and
randomness are arguments.
"""

from collections.abc import Callable
from collections.abc import Set as AbstractSet

from pyproxy.core.affinity import EndpointKey
from pyproxy.model.endpoint import Endpoint

FIRST_SHARE = 0.1


class SlowStart:
    """Which endpoints of a Service port warm up, and since when. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._since_s: dict[EndpointKey, float] = {}

    def __bool__(self) -> bool:
        """Whether any endpoint may be warming up."""
        return bool(self._since_s)

    def update(
        self,
        before: AbstractSet[EndpointKey],
        after: AbstractSet[EndpointKey],
        duration_s: float,
        now_s: float,
    ) -> None:
        """Take in which endpoints have served, and which serve now.

        Where none of those serves any more, all are new alike, and nobody could take their part.
        """
        if duration_s <= 0 or before.isdisjoint(after):
            self._since_s.clear()
            return
        begun_s = {key: since_s for key, since_s in self._since_s.items() if key in after}
        self._since_s = begun_s | dict.fromkeys(after - before, now_s)

    def taking_part(
        self,
        endpoints: tuple[Endpoint, ...],
        duration_s: float,
        now_s: float,
        random: Callable[[], float],
    ) -> tuple[Endpoint, ...]:
        """Return the endpoints without those that sit this pick out; all, if all would."""
        self._since_s = {
            key: since_s for key, since_s in self._since_s.items() if now_s - since_s < duration_s
        }
        if not self._since_s:
            return endpoints
        found = [e for e in endpoints if self._takes_part(e, duration_s, now_s, random)]
        return tuple(found) or endpoints

    def _takes_part(
        self, endpoint: Endpoint, duration_s: float, now_s: float, random: Callable[[], float]
    ) -> bool:
        since_s = self._since_s.get((endpoint.address, endpoint.port))
        if since_s is None:
            return True
        return random() < FIRST_SHARE + (1 - FIRST_SHARE) * (now_s - since_s) / duration_s
