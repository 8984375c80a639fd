"""The rendered series: names, labels and vocabularies that dashboards rely on."""

import re
from typing import get_args

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pyproxy.metrics import Metrics, registry
from pyproxy.model.reasons import CloseReason, ConnectResult, FlowEnd
from pyproxy.model.service import ServicePortName

TCP = ServicePortName("shop", "cart", "http", "TCP")
UDP = ServicePortName("kube-system", "kube-dns", "dns", "UDP")


def rendered(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Every sample of pyproxy's own, by its name and the values of its labels."""
    text = generate_latest(registry(metrics)).decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
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
