"""The counts of one process, by Service port and of the process itself.

A Service's series go when the Service goes.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import msgspec
from prometheus_client import Histogram

from pyproxy.metrics.api_requests import ApiRequests
from pyproxy.metrics.counters import ServicePortCounters, SteeringCounts

if TYPE_CHECKING:
    from pyproxy.metrics.endpoint_series import EndpointSeries
    from pyproxy.model.events import Resource
    from pyproxy.model.service import ServicePortName
    from pyproxy.model.table import Frontend, FrontendKey

# kube-proxy's, for the same thing (v1.36 `metrics.go`): up to a second, a minute, two, and five.
PROGRAMMING_BUCKETS = (0.25, 0.5, *range(1, 60), *range(60, 120, 5), *range(120, 301, 30))
# kube-proxy's of one update, which are also good for one transaction: 1 ms to 16 s.
SYNC_BUCKETS = tuple(0.001 * 2**n for n in range(15))
# Of one process's Metrics, what its data plane counts: an agent with workers adds up theirs.
DATA_PLANE = ("accept_pauses", "bind_errors", "source_address_fallbacks")


class Vitals(msgspec.Struct, frozen=True, array_like=True):
    """How one process is.

    lag_s: how late its event loop came to the last look. cpu_s: of the processor, user and system
    time since its start. resident_bytes: of memory, pages shared with others included.
    """

    descriptors: int
    descriptor_limit: int
    lag_s: float
    cpu_s: float
    resident_bytes: int


class Metrics:
    """All counts of one process; those of the agent are what a scrape sees.

    table: that is served; it never changes, so another thread may read it.
    vitals: of each process, by its name. access_log: records that were written, limited by the
    rate, or dropped for want of room.
    """

    def __init__(self) -> None:
        self._service_ports: dict[ServicePortName, ServicePortCounters] = {}
        self.table: Mapping[FrontendKey, Frontend] = {}
        self.table_generation = 0
        self.frontends = 0
        self.watch_states: dict[Resource, str] = {}
        self.watch_restarts: Counter[tuple[Resource, str]] = Counter()
        self.decode_errors: Counter[Resource] = Counter()
        self.bind_errors = 0
        self.accept_pauses = 0
        self.worker_restarts = 0
        self.pins_dropped = 0
        self.source_address_fallbacks: Counter[str] = Counter()
        self.access_log: Counter[str] = Counter()
        self.endpoint_series: EndpointSeries | None = None  # where they are asked for
        self.health_answers: Counter[tuple[str, int]] = Counter()
        self.vitals: dict[str, Vitals] = {}
        self.last_update_s = 0.0  # Unix time
        self.last_queued_s = 0.0  # Unix time
        self.event_counts: Counter[Resource] = Counter()
        self.pending_changes: Counter[Resource] = Counter()  # visible, since the last update
        self.tasks = 0  # of the event loop, at the last look
        self.api_requests = ApiRequests()
        self.steering = SteeringCounts()
        self.programming_latency = Histogram(
            "pyproxy_network_programming_duration_seconds",
            "From the change of endpoints in the control plane to its being served here.",
            buckets=PROGRAMMING_BUCKETS,
            registry=None,
        )
        self.update_time = Histogram(
            "pyproxy_update_duration_seconds",
            "Of one update of forwarding and steering, failed ones included.",
            buckets=SYNC_BUCKETS,
            registry=None,
        )
        # Of an update: whether it looked at all of the table, or at what had changed.
        self.full_update_time, self.partial_update_time = (
            Histogram(
                f"pyproxy_{kind}_update_duration_seconds", "", buckets=SYNC_BUCKETS, registry=None
            )
            for kind in ("full", "partial")
        )
        self.steering_time = Histogram(
            "pyproxy_steering_duration_seconds",
            "Of bringing nftables up to date once, failures included.",
            buckets=SYNC_BUCKETS,
            registry=None,
        )

    def service_port(self, name: "ServicePortName") -> ServicePortCounters:
        """Return the counters of a Service port, made at the first call."""
        counters = self._service_ports.get(name)
        if counters is None:
            counters = self._service_ports[name] = ServicePortCounters()
        return counters

    def service_port_if_known(self, name: "ServicePortName") -> ServicePortCounters:
        """Return its counters; of one that was forgotten, some that nobody sees."""
        return self._service_ports.get(name) or ServicePortCounters()

    def forget(self, name: "ServicePortName") -> None:
        """Drop a Service port's series. Whoever holds its counters may go on adding to them."""
        self._service_ports.pop(name, None)
        if self.endpoint_series is not None:
            self.endpoint_series.forget(name)

    def knows(self, name: "ServicePortName") -> bool:
        """Whether a Service port has series."""
        return name in self._service_ports

    def service_ports(self) -> Iterator[tuple["ServicePortName", ServicePortCounters]]:
        """Every Service port with its counters, as they are now."""
        return iter(tuple(self._service_ports.items()))
