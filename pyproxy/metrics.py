"""What is counted. The hot paths add to plain integers; a scrape turns them into Prometheus series.

One `Metrics` belongs to one process. `ServicePortCounters` are handed out once for each frontend
and kept by who counts, so that no label is looked up for a connection or a chunk of bytes. A
Service's series go when the Service goes.
"""

import platform
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from pyproxy import __version__

if TYPE_CHECKING:
    from prometheus_client import Metric

    from pyproxy.model.events import Resource
    from pyproxy.model.service import ServicePortName

TO_ENDPOINT = "client_to_endpoint"
TO_CLIENT = "endpoint_to_client"
# kube-proxy's, for the same thing (v1.36 `metrics.go`): up to a second, a minute, two, and five.
PROGRAMMING_BUCKETS = (
    0.25,
    0.5,
    *range(1, 60),
    *range(60, 120, 5),
    *range(120, 301, 30),
)
# Of one process's Metrics, what its data plane counts: an agent with workers adds up theirs.
DATA_PLANE = ("accept_pauses", "bind_errors", "source_address_fallbacks")
# Of ServicePortCounters, what can go down: it ends with the process that counts it.
GAUGES = ("active",)
SERVICE_LABELS = ("service_namespace", "service_name", "service_port", "protocol")


class ServicePortCounters:
    """The counts of one Service port, over all of its frontends.

    closed: by close reason (pyproxy.model.reasons.CloseReason).
    attempts: connect attempts by result (pyproxy.model.reasons.ConnectResult).
    active: connections, or UDP flows, that are open now.
    ejections: of endpoints that could not be connected.
    """

    __slots__ = (
        "active",
        "attempts",
        "bytes_to_client",
        "bytes_to_endpoint",
        "closed",
        "datagrams_to_client",
        "datagrams_to_endpoint",
        "ejections",
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
        self.ejections = 0


class SteeringCounts:
    """What steering did: pyproxy.steer.reconciler.Steering says what each means."""

    __slots__ = ("failures", "operations", "repairs", "transactions")

    def __init__(self) -> None:
        self.transactions = 0
        self.operations = 0
        self.repairs = 0
        self.failures = 0


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
        self.worker_restarts = 0
        self.pins_dropped = 0
        self.source_address_fallbacks: Counter[str] = Counter()
        self.health_answers: Counter[tuple[str, int]] = Counter()
        self.last_update_s = 0.0  # Unix time
        self.steering = SteeringCounts()
        self.programming_latency = Histogram(
            "pyproxy_network_programming_duration_seconds",
            "From the change of endpoints in the control plane to its being served here.",
            buckets=PROGRAMMING_BUCKETS,
            registry=None,
        )

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
        yield from self._collect_process()
        yield from self._collect_updates()
        yield from self._collect_watches()
        yield from self._collect_service_ports()

    def _collect_updates(self) -> Iterator["Metric"]:
        yield GaugeMetricFamily(
            "pyproxy_last_update_timestamp_seconds",
            "When the newest table was served, in Unix time; 0 before the first.",
            value=self.last_update_s,
        )
        yield from self.programming_latency.collect()
        counts = CounterMetricFamily(
            "pyproxy_steering",
            "Transactions with nftables, their operations, those that failed, and repairs of what"
            " somebody else had changed.",
            labels=("what",),
        )
        for what in SteeringCounts.__slots__:
            counts.add_metric((what,), getattr(self.steering, what))
        yield counts

    def _collect_process(self) -> Iterator["Metric"]:
        build = GaugeMetricFamily(
            "pyproxy_build_info", "Versions, always 1.", labels=("version", "python_version")
        )
        build.add_metric((__version__, platform.python_version()), 1)
        yield build
        yield GaugeMetricFamily(
            "pyproxy_table_generation",
            "Generation of the table that is served; grows with every visible change.",
            value=self.table_generation,
        )
        yield GaugeMetricFamily(
            "pyproxy_frontends", "Addresses and ports in the table.", value=self.frontends
        )
        yield CounterMetricFamily(
            "pyproxy_bind_errors",
            "Attempts to listen on an address and port of the table that failed.",
            value=self.bind_errors,
        )
        yield CounterMetricFamily(
            "pyproxy_accept_pauses",
            "Times that accepting paused because descriptors or memory ran out.",
            value=self.accept_pauses,
        )
        yield CounterMetricFamily(
            "pyproxy_worker_restarts",
            "Worker processes that were started in place of one that had died.",
            value=self.worker_restarts,
        )
        yield CounterMetricFamily(
            "pyproxy_affinity_pins_dropped",
            "Clients' session affinity that a worker did not tell the others for want of room.",
            value=self.pins_dropped,
        )
        fallbacks = CounterMetricFamily(
            "pyproxy_source_address_fallbacks",
            "Connections and UDP flows that kube-proxy would show with their client's address, and "
            "that have the node's.",
            labels=("reason",),
        )
        for reason, count in sorted(self.source_address_fallbacks.items()):
            fallbacks.add_metric((reason,), count)
        yield fallbacks
        answers = CounterMetricFamily(
            "pyproxy_health_answers", "Answers of the health port.", labels=("path", "code")
        )
        for (path, code), count in sorted(self.health_answers.items()):
            answers.add_metric((path, str(code)), count)
        yield answers

    def _collect_watches(self) -> Iterator["Metric"]:
        states = GaugeMetricFamily(
            "pyproxy_watch_state",
            "1 for the state that the watch of a resource is in.",
            labels=("resource", "state"),
        )
        for resource, state in sorted(self.watch_states.items()):
            states.add_metric((resource, state), 1)
        yield states
        restarts = CounterMetricFamily(
            "pyproxy_watch_restarts",
            "Times that a watch broke and was made anew.",
            labels=("resource", "reason"),
        )
        for (resource, reason), count in sorted(self.watch_restarts.items()):
            restarts.add_metric((resource, reason), count)
        yield restarts
        faults = CounterMetricFamily(
            "pyproxy_objects_undecodable",
            "API objects that could not be read and were left out.",
            labels=("resource",),
        )
        for resource, count in sorted(self.decode_errors.items()):
            faults.add_metric((resource,), count)
        yield faults

    def _collect_service_ports(self) -> Iterator["Metric"]:
        opened = _family(CounterMetricFamily, "connections_opened", "Connections and UDP flows.")
        active = _family(GaugeMetricFamily, "connections_active", "Those that are open now.")
        closed = _family(
            CounterMetricFamily, "connections_closed", "Those that ended, by reason.", "reason"
        )
        size = _family(
            CounterMetricFamily, "bytes", "Payload forwarded, by direction.", "direction"
        )
        datagrams = _family(
            CounterMetricFamily, "udp_datagrams", "Forwarded, by direction.", "direction"
        )
        attempts = _family(
            CounterMetricFamily, "connect_attempts", "Attempts to reach an endpoint.", "result"
        )
        moved = _family(CounterMetricFamily, "udp_flows_moved", "UDP flows given another endpoint.")
        ejections = _family(
            CounterMetricFamily,
            "endpoint_ejections",
            "Times that an endpoint was left out because it could not be connected.",
        )
        # A scrape renders in another thread: tuple() takes a copy in one step.
        for name, counters in self.service_ports():
            opened.add_metric(name, counters.opened)
            active.add_metric(name, counters.active)
            for reason, count in tuple(counters.closed.items()):
                closed.add_metric((*name, reason), count)
            size.add_metric((*name, TO_ENDPOINT), counters.bytes_to_endpoint)
            size.add_metric((*name, TO_CLIENT), counters.bytes_to_client)
            for result, count in tuple(counters.attempts.items()):
                attempts.add_metric((*name, result), count)
            ejections.add_metric(name, counters.ejections)
            if name.protocol == "UDP":
                datagrams.add_metric((*name, TO_ENDPOINT), counters.datagrams_to_endpoint)
                datagrams.add_metric((*name, TO_CLIENT), counters.datagrams_to_client)
                moved.add_metric(name, counters.flows_moved)
        yield from (opened, active, closed, size, datagrams, attempts, ejections, moved)


_F = TypeVar("_F", CounterMetricFamily, GaugeMetricFamily)


def _family(kind: type[_F], name: str, documentation: str, *labels: str) -> _F:
    return kind(f"pyproxy_{name}", documentation, labels=(*SERVICE_LABELS, *labels))


def registry(metrics: Metrics) -> CollectorRegistry:
    """Return the registry of a process: pyproxy's own series and those of the process itself."""
    collected = CollectorRegistry()
    collected.register(metrics)
    ProcessCollector(registry=collected)
    return collected
