"""The names that dashboards and alerts for kube-proxy ask for, where they mean something here.

Buckets, labels and types are those of kube-proxy v1.36 `metrics.go` (PARITY section 15); one update
serves both address families, and each is shown it.
"""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from pyproxy.metrics import api_requests
from pyproxy.metrics.endpoints import backends_of
from pyproxy.metrics.text import Family, labels
from pyproxy.model.addresses import FAMILIES

if TYPE_CHECKING:
    from prometheus_client import Histogram

    from pyproxy.metrics.state import Metrics
    from pyproxy.model.events import Resource


def families(metrics: "Metrics") -> Iterator[Metric]:
    """What kube-proxy would count."""
    yield from _histograms(metrics)
    yield _by_family(
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
        "When the last update succeeded, in Unix time.",
        metrics.last_update_s,
    )
    yield _by_family(
        "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
        "When an update was last asked for, in Unix time.",
        metrics.last_queued_s,
    )
    changes: dict[str, Resource] = {"endpoint": "endpointslices", "service": "services"}
    for what, resource in changes.items():
        yield CounterMetricFamily(
            f"kubeproxy_sync_proxy_rules_{what}_changes",
            f"Changes of {resource} that were taken in.",
            value=metrics.event_counts[resource],
        )
        yield GaugeMetricFamily(
            f"kubeproxy_sync_proxy_rules_{what}_changes_pending",
            f"Changes of {resource} that wait for the next update.",
            value=metrics.pending_changes[resource],
        )
    yield _failures(metrics)
    for path in ("healthz", "livez"):
        answers = CounterMetricFamily(
            f"kubeproxy_proxy_{path}", f"Answers of /{path}.", labels=("code",)
        )
        for code in (200, 503):
            answers.add_metric((str(code),), metrics.health_answers[f"/{path}", code])
        yield answers
    yield from api_requests.families(metrics.api_requests)
    # The dashboard has a panel of it; what comes closest.
    yield GaugeMetricFamily(
        "go_goroutines", "Tasks of the agent's event loop.", value=metrics.tasks
    )


def _histograms(metrics: "Metrics") -> Iterator[Metric]:
    for name, documentation, observed in (
        ("sync_proxy_rules", "Of one update, failed ones included.", metrics.update_time),
        (
            "sync_full_proxy_rules",
            "Of one update that looked at the whole table.",
            metrics.full_update_time,
        ),
        (
            "sync_partial_proxy_rules",
            "Of one update that looked at what had changed.",
            metrics.partial_update_time,
        ),
        (
            "network_programming",
            "From the change of endpoints in the control plane to its being served here.",
            metrics.programming_latency,
        ),
    ):
        yield _histogram(observed, f"kubeproxy_{name}_duration_seconds", documentation)


def _failures(metrics: "Metrics") -> Metric:
    """One table serves both address families."""
    family = CounterMetricFamily(
        "kubeproxy_sync_proxy_rules_nftables_sync_failures",
        "Transactions with nftables that were refused.",
        labels=("ip_family",),
    )
    for ip_family in FAMILIES:
        family.add_metric((ip_family,), metrics.steering.failures)
    return family


def _histogram(observed: "Histogram", name: str, documentation: str) -> Metric:
    """The same observations under another name, for each address family."""
    family = Metric(name, documentation, "histogram")
    (own,) = observed.collect()
    for ip_family in FAMILIES:
        for sample in own.samples:
            suffix = sample.name.removeprefix(own.name)
            if suffix != "_created":
                labels = {"ip_family": ip_family, **sample.labels}
                family.add_sample(name + suffix, labels, sample.value)
    return family


def _by_family(name: str, documentation: str, value: float) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=("ip_family",))
    for ip_family in FAMILIES:
        family.add_metric((ip_family,), value)
    return family


_NO_LOCAL = Family(
    "gauge",
    "kubeproxy_sync_proxy_rules_no_local_endpoints_total",  # a gauge at kube-proxy too
    "Service ports whose traffic policy is Local, that have endpoints, and none on this node.",
)


def no_local_endpoints(metrics: "Metrics", *, is_openmetrics: bool) -> Iterator[str]:
    """Service ports that kube-proxy would drop traffic of, counted in pieces (PARITY 5.2, 5.3)."""
    found: Counter[tuple[str, str]] = Counter()
    for backends in backends_of(metrics):
        for backend in backends:
            if backend.has_any and not backend.local:
                found["internal", backend.family] += backend.internal_local
                found["external", backend.family] += backend.external_local
        yield ""  # a turn for others
    text = _NO_LOCAL.head(is_openmetrics=is_openmetrics)
    for policy in ("internal", "external"):
        for family in FAMILIES:
            at = labels(("traffic_policy", "ip_family"), (policy, family))
            text += f"{_NO_LOCAL.name}{{{at}}} {found[policy, family]}\n"
    yield text
