"""The families of the process itself, for prometheus_client: a few hundred samples at most."""

import platform
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from pyproxy import __version__
from pyproxy.metrics import kubeproxy
from pyproxy.metrics.state import Metrics

if TYPE_CHECKING:
    from prometheus_client import Metric

    from pyproxy.metrics.counters import SteeringCounts


class _Collector(Collector):
    """Renders the counts of an agent."""

    def __init__(self, metrics: Metrics, *, with_kubeproxy: bool) -> None:
        self._metrics = metrics
        self._with_kubeproxy = with_kubeproxy

    def collect(self) -> Iterator["Metric"]:
        """Yield every metric family, for a scrape."""
        metrics = self._metrics
        yield from _process(metrics)
        yield from _vitals(metrics)
        yield from _updates(metrics)
        yield from _watches(metrics)
        if self._with_kubeproxy:
            yield from kubeproxy.families(metrics)

    def describe(self) -> Iterator["Metric"]:
        """Nothing is asked for at the registration."""
        return iter(())


def _process(metrics: Metrics) -> Iterator["Metric"]:
    build = GaugeMetricFamily(
        "pyproxy_build_info", "Versions, always 1.", labels=("version", "python_version")
    )
    build.add_metric((__version__, platform.python_version()), 1)
    yield build
    yield GaugeMetricFamily(
        "pyproxy_table_generation",
        "Generation of the table that is served; grows with every visible change.",
        value=metrics.table_generation,
    )
    yield GaugeMetricFamily(
        "pyproxy_frontends", "Addresses and ports in the table.", value=metrics.frontends
    )
    yield CounterMetricFamily(
        "pyproxy_bind_errors",
        "Attempts to listen on an address and port of the table that failed.",
        value=metrics.bind_errors,
    )
    yield CounterMetricFamily(
        "pyproxy_accept_pauses",
        "Times that accepting paused because descriptors or memory ran out.",
        value=metrics.accept_pauses,
    )
    yield CounterMetricFamily(
        "pyproxy_worker_restarts",
        "Worker processes that were started in place of one that had died.",
        value=metrics.worker_restarts,
    )
    yield CounterMetricFamily(
        "pyproxy_affinity_pins_dropped",
        "Clients' session affinity that a worker did not tell the others for want of room.",
        value=metrics.pins_dropped,
    )
    fallbacks = CounterMetricFamily(
        "pyproxy_source_address_fallbacks",
        "Connections and UDP flows that kube-proxy would show with their client's address, and "
        "that have the node's.",
        labels=("reason",),
    )
    for reason, count in sorted(metrics.source_address_fallbacks.items()):
        fallbacks.add_metric((reason,), count)
    yield fallbacks
    records = CounterMetricFamily(
        "pyproxy_access_log_records",
        "Records of the access log that were written, left out to keep within the rate, or dropped"
        " because they could not be written.",
        labels=("result",),
    )
    for result in ("written", "limited", "dropped"):
        records.add_metric((result,), metrics.access_log[result])
    yield records
    answers = CounterMetricFamily(
        "pyproxy_health_answers", "Answers of the health port.", labels=("path", "code")
    )
    for (path, code), count in sorted(metrics.health_answers.items()):
        answers.add_metric((path, str(code)), count)
    yield answers


def _vitals(metrics: Metrics) -> Iterator["Metric"]:
    used = GaugeMetricFamily(
        "pyproxy_descriptors", "File descriptors that a process has open.", labels=("process",)
    )
    limit = GaugeMetricFamily(
        "pyproxy_descriptors_limit", "File descriptors that it may open.", labels=("process",)
    )
    lag = GaugeMetricFamily(
        "pyproxy_event_loop_lag_seconds",
        "How late the event loop of a process came to its last timer.",
        labels=("process",),
    )
    cpu = CounterMetricFamily(
        "pyproxy_process_cpu_seconds",
        "Processor time of a process, user and system.",
        labels=("process",),
    )
    memory = GaugeMetricFamily(
        "pyproxy_process_resident_memory_bytes",
        "Memory of a process that is in RAM.",
        labels=("process",),
    )
    for process, vitals in sorted(metrics.vitals.items()):
        used.add_metric((process,), vitals.descriptors)
        limit.add_metric((process,), vitals.descriptor_limit)
        lag.add_metric((process,), vitals.lag_s)
        cpu.add_metric((process,), vitals.cpu_s)
        memory.add_metric((process,), vitals.resident_bytes)
    yield from (used, limit, lag, cpu, memory)


def _updates(metrics: Metrics) -> Iterator["Metric"]:
    yield GaugeMetricFamily(
        "pyproxy_last_update_timestamp_seconds",
        "When the newest table was served, in Unix time; 0 before the first.",
        value=metrics.last_update_s,
    )
    yield GaugeMetricFamily(
        "pyproxy_last_update_queued_timestamp_seconds",
        "When an update was last asked for, in Unix time; 0 before the first.",
        value=metrics.last_queued_s,
    )
    yield _histogram(metrics.programming_latency)
    yield _histogram(metrics.update_time)
    yield _histogram(metrics.steering_time)
    yield from _steering(metrics.steering)


def _steering(counts: "SteeringCounts") -> Iterator["Metric"]:
    for name, documentation, value in (
        ("transactions", "Transactions with nftables that were done.", counts.transactions),
        ("operations", "Changes of nftables objects in them.", counts.operations),
        ("failures", "Transactions with nftables that were refused.", counts.failures),
        (
            "repairs",
            "Times that somebody else had changed what steers, and it was mended.",
            counts.repairs,
        ),
    ):
        yield CounterMetricFamily(f"pyproxy_steering_{name}", documentation, value=value)


def _histogram(observed: Histogram) -> "Metric":
    """Without when it was made, which the start of the process tells."""
    (family,) = observed.collect()
    family.samples = [s for s in family.samples if not s.name.endswith("_created")]
    return family


def _watches(metrics: Metrics) -> Iterator["Metric"]:
    states = GaugeMetricFamily(
        "pyproxy_watch_state",
        "1 for the state that the watch of a resource is in.",
        labels=("resource", "state"),
    )
    for resource, state in sorted(metrics.watch_states.items()):
        states.add_metric((resource, state), 1)
    yield states
    restarts = CounterMetricFamily(
        "pyproxy_watch_restarts",
        "Times that a watch broke and was made anew.",
        labels=("resource", "reason"),
    )
    for (resource, reason), count in sorted(metrics.watch_restarts.items()):
        restarts.add_metric((resource, reason), count)
    yield restarts
    faults = CounterMetricFamily(
        "pyproxy_objects_undecodable",
        "API objects that could not be read and were left out.",
        labels=("resource",),
    )
    for resource, count in sorted(metrics.decode_errors.items()):
        faults.add_metric((resource,), count)
    yield faults


def registry(metrics: Metrics, *, with_kubeproxy: bool = True) -> CollectorRegistry:
    """Return the registry of a process: all but the families with series for each Service port.

    with_kubeproxy: also those that dashboards for kube-proxy ask for.
    """
    collected = CollectorRegistry()
    collected.register(_Collector(metrics, with_kubeproxy=with_kubeproxy))
    ProcessCollector(registry=collected)
    return collected
