"""When live connections to an endpoint that has left have to go.

The maintainers' contract (kubernetes issue 108523): a connection is kept while its endpoint serves,
also when that is terminating; once the endpoint serves no more, or has left the Service, it is
closed. The Service says how soon. An endpoint that comes back in time keeps its connections.
"""

from collections.abc import Set as AbstractSet

from pyproxy.core.affinity import EndpointKey
from pyproxy.model.options import OnEndpointRemoved


class Departures:
    """Which endpoints with live connections have left, and when. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._left_s: dict[EndpointKey, float] = {}

    def update(
        self, used: AbstractSet[EndpointKey], serving: AbstractSet[EndpointKey], now_s: float
    ) -> None:
        """Take in which endpoints have live connections, and which serve."""
        self._left_s = {key: self._left_s.get(key, now_s) for key in used - serving}

    def due(
        self, policy: OnEndpointRemoved, now_s: float, drain_timeout_s: float
    ) -> AbstractSet[EndpointKey]:
        """Return the endpoints whose connections have to go by now."""
        if policy == "keep" or not self._left_s:
            return frozenset()
        patience_s = drain_timeout_s if policy == "drain" else 0.0
        return {key for key, left_s in self._left_s.items() if now_s - left_s >= patience_s}

    def __bool__(self) -> bool:
        """Whether any endpoint has left."""
        return bool(self._left_s)
