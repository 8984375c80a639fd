"""docs/metrics.md has every metric with its type and labels, and none that is not there."""

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pyproxy.forward.endpoint_counts import EndpointCount
from pyproxy.metrics import Exposition, Metrics, Vitals
from pyproxy.metrics.endpoint_series import EndpointSeries
from pyproxy.metrics.service_ports import SERVICE_LABELS
from pyproxy.model.service import ServicePortName
from tests.support.builders import make_service, make_slice, make_table

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
_ROW = re.compile(r"^\| `(\w+)` \| (counter|gauge|histogram) \|([^|]*)\| .+ \|$", re.MULTILINE)
_LEFT_OUT = re.compile(r"^\| `(kubeproxy_\w+)` \| [^|]+ \|$", re.MULTILINE)

# Of kube-proxy v1.36 `pkg/proxy/metrics/metrics.go` (PARITY section 15).
KUBE_PROXY = {
    "conntrack_reconciler_deleted_entries_total",
    "conntrack_reconciler_sync_duration_seconds",
    "iptables_ct_state_invalid_dropped_packets_total",
    "iptables_localhost_nodeports_accepted_packets_total",
    "network_programming_duration_seconds",
    "proxy_healthz_total",
    "proxy_livez_total",
    "sync_full_proxy_rules_duration_seconds",
    "sync_partial_proxy_rules_duration_seconds",
    "sync_proxy_rules_duration_seconds",
    "sync_proxy_rules_endpoint_changes_pending",
    "sync_proxy_rules_endpoint_changes_total",
    "sync_proxy_rules_iptables_last",
    "sync_proxy_rules_iptables_partial_restore_failures_total",
    "sync_proxy_rules_iptables_restore_failures_total",
    "sync_proxy_rules_iptables_total",
    "sync_proxy_rules_last_queued_timestamp_seconds",
    "sync_proxy_rules_last_timestamp_seconds",
    "sync_proxy_rules_nftables_cleanup_failures_total",
    "sync_proxy_rules_nftables_sync_failures_total",
    "sync_proxy_rules_no_local_endpoints_total",
    "sync_proxy_rules_service_changes_pending",
    "sync_proxy_rules_service_changes_total",
}

Shown = dict[str, tuple[str, frozenset[str]]]


@pytest.fixture(scope="module")
def metrics() -> Metrics:
    """One of everything."""
    made = Metrics()
    made.vitals["agent"] = Vitals(12, 1024, 0.25, 3.5, 4096)
    made.source_address_fallbacks["ports"] += 1
    made.health_answers["/healthz", 200] += 1
    made.watch_states["services"] = "watching"
    made.watch_restarts["services", "reset"] += 1
    made.decode_errors["services"] += 1
    made.access_log["written"] += 1
    made.api_requests.add("GET", "10.0.0.1:6443", "200", 0.1)
    made.table = make_table(make_service(), make_slice()).frontends
    made.endpoint_series = EndpointSeries(100)
    for protocol in ("TCP", "UDP"):
        counters = made.service_port(ServicePortName("shop", "cart", "http", protocol))
        counters.closed["finished"] = counters.attempts["ok"] = 1
        counters.dropped["no_endpoint"] = 1
        count = EndpointCount(
            ServicePortName("shop", "cart", "http", protocol), ("10.1.0.1", 80), 1
        )
        made.endpoint_series.add(0, [], [count], made.knows)
        counters.connect_times[0] = counters.durations[0] = 1
    return made


@pytest.fixture(scope="module")
def shown(metrics: Metrics) -> Shown:
    text = b"".join(Exposition(metrics).pieces("")).decode()
    return {
        family.name + "_total" * (family.type == "counter"): (
            family.type,
            frozenset(label for s in family.samples for label in s.labels) - {"le"},
        )
        for family in text_string_to_metric_families(text)
    }


def documented() -> Shown:
    """What the tables say; rows of the first section have the labels of Service ports too."""
    text = DOCUMENT.read_text(encoding="utf-8")
    of_ports = text.index("## Of each Service port"), text.index("## Of the agent")
    return {
        row[1]: (
            row[2],
            frozenset(re.findall(r"`(\w+)`", row[3]))
            | (frozenset(SERVICE_LABELS) if of_ports[0] < row.start() < of_ports[1] else set()),
        )
        for row in _ROW.finditer(text)
    }


def test_each_metric_is_documented_with_its_type_and_labels(shown: Shown) -> None:
    assert documented() == shown


def test_every_metric_has_samples_when_all_is_counted(shown: Shown, metrics: Metrics) -> None:
    text = b"".join(Exposition(metrics).pieces("")).decode()
    empty = [f.name for f in text_string_to_metric_families(text) if not f.samples]
    assert not empty


def test_each_name_of_kube_proxy_is_shown_or_has_a_reason_why_not(shown: Shown) -> None:
    left_out = set(_LEFT_OUT.findall(DOCUMENT.read_text(encoding="utf-8")))
    found = {name for name in shown if name.startswith("kubeproxy_")}
    assert not left_out & found
    assert {name.removeprefix("kubeproxy_") for name in left_out | found} == KUBE_PROXY
