"""The families with series for each Service port: hundreds of thousands of samples, at worst.

A scrape renders them in a thread of its own. That thread has the interpreter's lock for as long as
it computes, so it stops now and then for who waits: traffic, health answers.
"""

import time
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

from pyproxy.metrics.histogram import CONNECT_BOUNDS_S, DURATION_BOUNDS_S, cumulative

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

    from pyproxy.metrics.state import Metrics
    from pyproxy.model.service import ServicePortName

TO_ENDPOINT = "client_to_endpoint"
TO_CLIENT = "endpoint_to_client"
SERVICE_LABELS = ("service_namespace", "service_name", "service_port", "protocol")

# To make and to render so many samples takes about a millisecond.
_SAMPLES_IN_A_SLICE = 100
# Any time lets go of the lock; so short a one is hardly more than that.
_PAUSE_S = 0.0001
_CONNECT_LABELS = (*map(floatToGoString, CONNECT_BOUNDS_S), "+Inf")
_DURATION_LABELS = (*map(floatToGoString, DURATION_BOUNDS_S), "+Inf")

_F = TypeVar("_F", CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily)


class _Paced(list["Sample"]):
    """Samples that whoever renders them gets in slices."""

    def __iter__(self) -> "Iterator[Sample]":
        for number, sample in enumerate(super().__iter__()):
            if number % _SAMPLES_IN_A_SLICE == 0:
                time.sleep(_PAUSE_S)
            yield sample


def _family(kind: type[_F], name: str, documentation: str, *labels: str) -> _F:
    family = kind(f"pyproxy_{name}", documentation, labels=(*SERVICE_LABELS, *labels))
    family.samples = _Paced()
    return family


def service_ports(metrics: "Metrics") -> Iterator[Metric]:
    """What is counted for each Service port."""
    opened = _family(CounterMetricFamily, "connections_opened", "Connections and UDP flows.")
    active = _family(GaugeMetricFamily, "connections_active", "Those that are open now.")
    closed = _family(
        CounterMetricFamily, "connections_closed", "Those that ended, by reason.", "reason"
    )
    size = _family(CounterMetricFamily, "bytes", "Payload forwarded, by direction.", "direction")
    datagrams = _family(
        CounterMetricFamily, "udp_datagrams", "Forwarded, by direction.", "direction"
    )
    attempts = _family(
        CounterMetricFamily, "connect_attempts", "Attempts to reach an endpoint.", "result"
    )
    retries = _family(
        CounterMetricFamily, "connect_retries", "Attempts after another endpoint had failed."
    )
    moved = _family(CounterMetricFamily, "udp_flows_moved", "UDP flows given another endpoint.")
    ejections = _family(
        CounterMetricFamily,
        "endpoint_ejections",
        "Times that an endpoint was left out because it could not be connected.",
    )
    ejected = _family(
        GaugeMetricFamily,
        "endpoints_ejected",
        "Endpoints that are left out now; each worker sees for itself, and these are added up.",
    )
    # A scrape renders in another thread: tuple() takes a copy in one step.
    for number, (name, counters) in enumerate(metrics.service_ports()):
        if number % _SAMPLES_IN_A_SLICE == 0:
            time.sleep(_PAUSE_S)
        opened.add_metric(name, counters.opened)
        active.add_metric(name, counters.active)
        for reason, count in tuple(counters.closed.items()):
            closed.add_metric((*name, reason), count)
        size.add_metric((*name, TO_ENDPOINT), counters.bytes_to_endpoint)
        size.add_metric((*name, TO_CLIENT), counters.bytes_to_client)
        for result, count in tuple(counters.attempts.items()):
            attempts.add_metric((*name, result), count)
        ejections.add_metric(name, counters.ejections)
        ejected.add_metric(name, counters.ejected)
        if name.protocol == "UDP":
            datagrams.add_metric((*name, TO_ENDPOINT), counters.datagrams_to_endpoint)
            datagrams.add_metric((*name, TO_CLIENT), counters.datagrams_to_client)
            moved.add_metric(name, counters.flows_moved)
        else:
            retries.add_metric(name, counters.retries)
    yield from (opened, active, closed, size, datagrams, attempts, retries)
    yield from (ejections, ejected, moved)
    yield from _histograms(metrics)


def _histograms(metrics: "Metrics") -> Iterator[Metric]:
    """Only of Service ports that had a connection: they have 26 samples each."""
    connecting = _family(
        HistogramMetricFamily,
        "connect_duration_seconds",
        "From the accepted client to the connected endpoint, retries included.",
    )
    lasting = _family(
        HistogramMetricFamily,
        "connection_duration_seconds",
        "Of TCP connections that had an endpoint.",
    )
    for name, counters in metrics.service_ports():
        for family, histogram, bounds, labels in (
            (connecting, counters.connect_times, CONNECT_BOUNDS_S, _CONNECT_LABELS),
            (lasting, counters.durations, DURATION_BOUNDS_S, _DURATION_LABELS),
        ):
            counts, sum_s = cumulative(histogram, bounds)
            if counts[-1]:
                buckets = list(zip(labels, counts, strict=True))
                family.add_metric(name, buckets, sum_value=sum_s)
    yield from (connecting, lasting)


def endpoint_states(metrics: "Metrics") -> Metric:
    """How many endpoints each Service port has, of both address families, by state."""
    family = _family(
        GaugeMetricFamily,
        "endpoints",
        "Endpoints that this node may use, by state: ready, serving (though not ready), or"
        " terminating (though serving).",
        "state",
    )
    found: dict[ServicePortName, Counter[str]] = {}
    backends = {id(f.backend): f.backend for f in metrics.table.values()}
    for number, backend in enumerate(backends.values()):
        if number % _SAMPLES_IN_A_SLICE == 0:
            time.sleep(_PAUSE_S)
        states = found.setdefault(backend.name, Counter())
        for endpoint in {
            (e.address, e.port): e for e in (*backend.cluster, *backend.local)
        }.values():
            if endpoint.terminating:
                states["terminating"] += 1
            else:
                states["ready" if endpoint.ready else "serving"] += 1
    for name, states in found.items():
        for state in ("ready", "serving", "terminating"):
            family.add_metric((*name, state), states[state])
    return family
