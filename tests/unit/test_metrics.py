"""The rendered series: names, labels and vocabularies that dashboards rely on."""

import re
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pyproxy.metrics import Exposition, Metrics, Vitals
from pyproxy.metrics.histogram import CONNECT_BOUNDS_S, observe
from pyproxy.model.endpoint import Endpoint
from pyproxy.model.reasons import CloseReason, ConnectResult, FlowEnd
from pyproxy.model.service import ServicePortName
from pyproxy.model.table import Backend, Frontend

TCP = ServicePortName("shop", "cart", "http", "TCP")
UDP = ServicePortName("kube-system", "kube-dns", "dns", "UDP")


def scraped(metrics: Metrics, accept: str = "", *, with_kubeproxy: bool = True) -> str:
    """The text that a scrape gets."""
    exposition = Exposition(metrics, with_kubeproxy=with_kubeproxy)
    return b"".join(exposition.pieces(accept)).decode()


def rendered(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Every sample of pyproxy's own, by its name and the values of its labels, sorted by label."""
    text = scraped(metrics)
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("pyproxy_")
    }


@pytest.mark.parametrize("reason", [*get_args(CloseReason), *get_args(FlowEnd)])
def test_each_reason_for_an_end_is_a_series_of_its_service_port(reason: str) -> None:
    metrics = Metrics()
    metrics.service_port(TCP).closed[reason] += 2
    found = rendered(metrics)
    assert ("pyproxy_connections_closed_total", *sorted_labels(TCP, reason=reason)) in found


@pytest.mark.parametrize("result", get_args(ConnectResult))
def test_each_result_of_an_attempt_is_a_series_of_its_service_port(result: str) -> None:
    metrics = Metrics()
    metrics.service_port(TCP).attempts[result] += 1
    found = rendered(metrics)
    assert found["pyproxy_connect_attempts_total", *sorted_labels(TCP, result=result)] == 1


def sorted_labels(name: ServicePortName, **more: str) -> list[str]:
    labels = {
        "service_namespace": name.namespace,
        "service_name": name.name,
        "service_port": name.port,
        "protocol": name.protocol,
        **more,
    }
    return [labels[key] for key in sorted(labels)]


def test_the_words_of_the_vocabularies_can_be_label_values_of_any_tool() -> None:
    words = [*get_args(CloseReason), *get_args(FlowEnd), *get_args(ConnectResult)]
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", word) for word in words)


def test_datagrams_are_counted_for_udp_only() -> None:
    metrics = Metrics()
    metrics.service_port(TCP)
    metrics.service_port(UDP).datagrams_to_client = 3
    found = rendered(metrics)
    answers = sorted_labels(UDP, direction="endpoint_to_client")
    assert found["pyproxy_udp_datagrams_total", *answers] == 3
    assert not [key for key in found if key[0] == "pyproxy_udp_datagrams_total" and "shop" in key]


def test_the_series_of_a_service_port_go_when_it_is_forgotten() -> None:
    metrics = Metrics()
    counters = metrics.service_port(TCP)
    metrics.forget(TCP)
    counters.opened += 1  # a connection that is still live
    assert not [key for key in rendered(metrics) if "shop" in key]


def test_watches_and_undecodable_objects_are_counted_by_resource() -> None:
    metrics = Metrics()
    metrics.watch_states["services"] = "watching"
    metrics.watch_restarts["services", "reset"] += 4
    metrics.decode_errors["endpointslices"] += 5
    metrics.health_answers["/healthz", 503] += 6
    found = rendered(metrics)
    assert found["pyproxy_watch_state", "services", "watching"] == 1
    assert found["pyproxy_watch_restarts_total", "reset", "services"] == 4
    assert found["pyproxy_objects_undecodable_total", "endpointslices"] == 5
    assert found["pyproxy_health_answers_total", "503", "/healthz"] == 6


def test_a_histogram_adds_up_to_each_bound() -> None:
    metrics = Metrics()
    counters = metrics.service_port(TCP)
    for seconds in (0.0004, 0.0005, 0.3, 60.0):
        observe(counters.connect_times, CONNECT_BOUNDS_S, seconds)
    found = rendered(metrics)
    name, labels = "pyproxy_connect_duration_seconds", sorted_labels(TCP)
    assert found[f"{name}_count", *labels] == 4
    assert found[f"{name}_sum", *labels] == pytest.approx(60.3009)
    bounds = {le: found[f"{name}_bucket", *sorted_labels(TCP, le=le)] for le in ("0.0005", "5.0")}
    assert bounds == {"0.0005": 2, "5.0": 3}


def test_a_service_port_without_connections_has_no_histograms() -> None:
    metrics = Metrics()
    metrics.service_port(TCP)
    assert not [key for key in rendered(metrics) if "duration_seconds" in key[0] and "shop" in key]


def test_endpoints_are_counted_once_and_by_state() -> None:
    metrics = Metrics()
    ready, late = Endpoint("10.1.0.1", 80), Endpoint("10.1.0.2", 80, ready=False)
    leaving = Endpoint("10.1.0.3", 80, ready=False, terminating=True)
    backend = Backend(name=TCP, family="IPv4", cluster=(ready, late, leaving), local=(ready,))
    frontend = Frontend("10.96.0.1", 80, "TCP", "ClusterIP", backend)
    metrics.table = {frontend.key: frontend}
    found = rendered(metrics)
    for state in ("ready", "serving", "terminating"):
        assert found["pyproxy_endpoints", *sorted_labels(TCP, state=state)] == 1


def test_processes_tell_of_their_descriptors_and_lag() -> None:
    metrics = Metrics()
    metrics.vitals["worker-0"] = Vitals(12, 1024, 0.25)
    found = rendered(metrics)
    assert found["pyproxy_descriptors", "worker-0"] == 12
    assert found["pyproxy_descriptors_limit", "worker-0"] == 1024
    assert found["pyproxy_event_loop_lag_seconds", "worker-0"] == 0.25


def kubeproxy_names(metrics: Metrics, *, wanted: bool) -> set[str]:
    text = scraped(metrics, with_kubeproxy=wanted)
    found = {family.name for family in text_string_to_metric_families(text)}
    return {name.removeprefix("kubeproxy_") for name in found if name.startswith("kubeproxy_")}


def test_the_names_of_kube_proxy_are_there_unless_switched_off() -> None:
    assert kubeproxy_names(Metrics(), wanted=True) == {
        "network_programming_duration_seconds",
        "proxy_healthz",
        "proxy_livez",
        "sync_proxy_rules_duration_seconds",
        "sync_proxy_rules_endpoint_changes",
        "sync_proxy_rules_last_queued_timestamp_seconds",
        "sync_proxy_rules_last_timestamp_seconds",
        "sync_proxy_rules_no_local_endpoints_total",
        "sync_proxy_rules_service_changes",
    }
    assert not kubeproxy_names(Metrics(), wanted=False)


def test_kube_proxys_histograms_have_its_buckets() -> None:
    text = scraped(Metrics())
    families = {family.name: family for family in text_string_to_metric_families(text)}
    samples = families["kubeproxy_sync_proxy_rules_duration_seconds"].samples
    bounds = [
        s.labels["le"] for s in samples if s.labels.get("ip_family") == "IPv4" and "le" in s.labels
    ]
    assert bounds == [*(str(0.001 * 2**n) for n in range(15)), "+Inf"]
