"""What the live TCP connections of one Service, and of one of its ports, share in this process."""

import logging
from typing import TYPE_CHECKING

from pyproxy.core.balancer import Pool
from pyproxy.core.departures import Departures

if TYPE_CHECKING:
    from pyproxy.forward.tcp import Connection
    from pyproxy.metrics import ServicePortCounters
    from pyproxy.model.endpoint import Endpoint
    from pyproxy.model.options import ServiceOptions
    from pyproxy.model.reasons import ConnectResult
    from pyproxy.model.service import ServiceName

log = logging.getLogger(__name__)


def note_failure(
    pool: Pool,
    counters: "ServicePortCounters",
    client: str,
    endpoint: "Endpoint",
    result: "ConnectResult",
    now_s: float,
) -> None:
    """Hold a failed attempt against its endpoint, unless it was this host's own fault."""
    if result == "error":
        return
    if pool.failed(client, endpoint, now_s):
        counters.ejections += 1
        name = pool.backend.name
        log.info("%s of %s is left out for a while: it cannot be connected", endpoint, name)


class ServedService:
    """Counts the live connections of all ports of a Service."""

    __slots__ = ("__weakref__", "live", "name")

    def __init__(self, name: "ServiceName") -> None:
        self.name = name
        self.live = 0


class ServedPort:
    """One Service port in one family. `pool.backend` is its newest state.

    live: the connections that are open, those that dial included.
    """

    __slots__ = ("__weakref__", "_departures", "counters", "live", "pool", "service")

    def __init__(self, service: ServedService, counters: "ServicePortCounters", pool: Pool) -> None:
        self.service = service
        self.counters = counters
        self.pool = pool
        self.live: set[Connection] = set()
        self._departures = Departures()

    @property
    def options(self) -> "ServiceOptions":
        """What the Service asks for now."""
        return self.pool.backend.options

    def limits_life(self) -> bool:
        """Whether its connections may last for too long by themselves."""
        options = self.options
        return options.idle_timeout_s is not None or options.max_connection_age_s is not None

    def needs_looks(self) -> bool:
        """Whether it has connections that may have to be ended."""
        return bool(self.live) and (self.limits_life() or bool(self._departures))

    def note_departures(self, now_s: float) -> None:
        """Look which endpoints of live connections have left, after a change of the backend."""
        used = {key for connection in self.live if (key := connection.endpoint_key) is not None}
        self._departures.update(used, self.pool.backend.serving, now_s)

    def overdue(self, now_s: float, drain_timeout_s: float) -> "list[Connection]":
        """Return the connections whose endpoint left too long ago."""
        policy = self.options.on_endpoint_removed
        due = self._departures.due(policy, now_s, drain_timeout_s)
        return [c for c in self.live if c.endpoint_key in due] if due else []
