"""The rendered series: names, labels and vocabularies that dashboards rely on."""

import re
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pyproxy.metrics import NO_ANSWER, Exposition, Metrics, Vitals
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


def test_processes_tell_of_their_descriptors_lag_processor_and_memory() -> None:
    metrics = Metrics()
    metrics.vitals["worker-0"] = Vitals(12, 1024, 0.25, 3.5, 4096)
    found = rendered(metrics)
    assert found["pyproxy_descriptors", "worker-0"] == 12
    assert found["pyproxy_descriptors_limit", "worker-0"] == 1024
    assert found["pyproxy_process_cpu_seconds_total", "worker-0"] == 3.5
    assert found["pyproxy_process_resident_memory_bytes", "worker-0"] == 4096
    assert found["pyproxy_event_loop_lag_seconds", "worker-0"] == 0.25


def kubeproxy_names(metrics: Metrics) -> set[str]:
    found = {family.name for family in text_string_to_metric_families(scraped(metrics))}
    return {name.removeprefix("kubeproxy_") for name in found if name.startswith("kubeproxy_")}


def test_the_names_of_kube_proxy_are_there_unless_switched_off() -> None:
    assert {"sync_proxy_rules_duration_seconds", "proxy_healthz"} <= kubeproxy_names(Metrics())
    left = scraped(Metrics(), with_kubeproxy=False)
    assert not [name for name in ("kubeproxy_", "rest_client_", "go_") if f"# TYPE {name}" in left]


def test_kube_proxys_histograms_have_its_buckets() -> None:
    text = scraped(Metrics())
    families = {family.name: family for family in text_string_to_metric_families(text)}
    samples = families["kubeproxy_sync_proxy_rules_duration_seconds"].samples
    bounds = [
        s.labels["le"] for s in samples if s.labels.get("ip_family") == "IPv4" and "le" in s.labels
    ]
    assert bounds == [*(str(0.001 * 2**n) for n in range(15)), "+Inf"]


def test_service_ports_that_are_dropped_for_want_of_a_local_endpoint_are_counted_by_policy() -> (
    None
):
    here = Endpoint("10.1.0.1", 80, is_local=True)
    backends = [
        Backend(name=TCP, family="IPv4", internal_local=True, has_any=True),
        Backend(name=TCP, family="IPv4", internal_local=True, has_any=True, local=(here,)),
        Backend(name=TCP, family="IPv4", internal_local=True),  # none anywhere: another case
        Backend(name=TCP, family="IPv6", external_local=True, has_any=True),
        Backend(name=UDP, family="IPv4", has_any=True, cluster=(here,)),
    ]
    metrics = Metrics()
    frontends = [
        Frontend(f"10.96.0.{n}", 80, "TCP", "ClusterIP", b) for n, b in enumerate(backends)
    ]
    frontends += [
        Frontend("10.96.1.0", 80, "TCP", "ClusterIP", backends[0])
    ]  # the same Service port
    metrics.table = {frontend.key: frontend for frontend in frontends}
    name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total"
    found = {
        (s.labels["traffic_policy"], s.labels["ip_family"]): s.value
        for family in text_string_to_metric_families(scraped(metrics))
        for s in family.samples
        if s.name == name
    }
    assert found == {
        ("internal", "IPv4"): 1,
        ("internal", "IPv6"): 0,
        ("external", "IPv4"): 0,
        ("external", "IPv6"): 1,
    }


def test_requests_to_the_api_server_are_counted_as_client_go_does() -> None:
    metrics = Metrics()
    for code, seconds in (("200", 0.004), ("200", 3.0), (NO_ANSWER, 90.0)):
        metrics.api_requests.add("GET", "10.0.0.1:6443", code, seconds)
    text = scraped(metrics)
    at = 'host="10.0.0.1:6443"'
    assert f'rest_client_requests_total{{code="200",{at},method="GET"}} 2.0' in text
    assert f'rest_client_requests_total{{code="<error>",{at},method="GET"}} 1.0' in text
    bounds = re.findall(rf'duration_seconds_bucket{{{at},le="(.*)",verb="GET"}} (.*)', text)
    assert bounds[0] == ("0.005", "1.0")
    assert bounds[7] == ("4.0", "2.0")
    assert bounds[-2:] == [("60.0", "2.0"), ("+Inf", "3.0")]
    assert len(bounds) == 13
