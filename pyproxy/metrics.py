"""What is counted. The hot paths add to plain integers; a scrape turns them into Prometheus series.

One `Metrics` belongs to one process. `ServicePortCounters` are handed out once for each frontend
and kept by who counts, so that no label is looked up for a connection or a chunk of bytes. A
Service's series go when the Service goes.
"""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from pyproxy import __version__

if TYPE_CHECKING:
    from prometheus_client import Metric

    from pyproxy.model.events import Resource
    from pyproxy.model.service import ServicePortName

SERVICE_LABELS = ("service_namespace", "service_name", "service_port", "protocol")


class ServicePortCounters:
    """The counts of one Service port, over all of its frontends.

    closed: by close reason (pyproxy.model.reasons.CloseReason).
    attempts: connect attempts by result (pyproxy.model.reasons.ConnectResult).
    active: connections, or UDP flows, that are open now.
    """

    __slots__ = (
        "active",
        "attempts",
        "bytes_to_client",
        "bytes_to_endpoint",
        "closed",
        "datagrams_to_client",
        "datagrams_to_endpoint",
        "flows_moved",
        "opened",
    )

    def __init__(self) -> None:
        self.opened = 0
        self.active = 0
        self.closed: Counter[str] = Counter()
        self.attempts: Counter[str] = Counter()
        self.bytes_to_endpoint = 0
        self.bytes_to_client = 0
        self.datagrams_to_endpoint = 0
        self.datagrams_to_client = 0
        self.flows_moved = 0


class Metrics(Collector):
    """All counts of one process, and the collector that renders them."""

    def __init__(self) -> None:
        self._service_ports: dict[ServicePortName, ServicePortCounters] = {}
        self.table_generation = 0
        self.frontends = 0
        self.watch_states: dict[Resource, str] = {}
        self.watch_restarts: Counter[tuple[Resource, str]] = Counter()
        self.decode_errors: Counter[Resource] = Counter()
        self.bind_errors = 0
        self.accept_pauses = 0
        self.health_answers: Counter[tuple[str, int]] = Counter()

    def service_port(self, name: "ServicePortName") -> ServicePortCounters:
        """Return the counters of a Service port, made at the first call."""
        counters = self._service_ports.get(name)
        if counters is None:
            counters = self._service_ports[name] = ServicePortCounters()
        return counters

    def forget(self, name: "ServicePortName") -> None:
        """Drop a Service port's series. Whoever holds its counters may go on adding to them."""
        self._service_ports.pop(name, None)

    def service_ports(self) -> Iterator[tuple["ServicePortName", ServicePortCounters]]:
        """Every Service port with its counters, as they are now."""
        return iter(tuple(self._service_ports.items()))

    def collect(self) -> Iterator["Metric"]:
        """Yield every metric family, for a scrape."""
        yield GaugeMetricFamily("pyproxy_build_info", "Version of pyproxy, always 1.")
        yield from self._collect_process()
        yield from self._collect_service_ports()

    def _collect_process(self) -> Iterator["Metric"]:
        raise NotImplementedError

    def _collect_service_ports(self) -> Iterator["Metric"]:
        raise NotImplementedError
