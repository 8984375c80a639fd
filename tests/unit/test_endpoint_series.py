"""Series of endpoints: summed over processes, capped, and gone with what they are of."""

from prometheus_client.parser import text_string_to_metric_families

from pyproxy.forward.endpoint_counts import EndpointCount
from pyproxy.metrics import Exposition, Metrics
from pyproxy.metrics.endpoint_series import SERIES_EACH, EndpointSeries
from pyproxy.model.endpoint import Endpoint
from pyproxy.model.service import ServicePortName
from pyproxy.model.table import Backend, Frontend

WEB = ServicePortName("shop", "web", "http", "TCP")
CART = ServicePortName("shop", "cart", "http", "TCP")
ONE, TWO = ("10.1.0.1", 80), ("10.1.0.2", 80)


def series_of(*names: ServicePortName, most: int = 100) -> tuple[Metrics, EndpointSeries]:
    metrics = Metrics()
    series = metrics.endpoint_series = EndpointSeries(most)
    for name in names:
        metrics.service_port(name)
    serve(metrics, *names)
    return metrics, series


def serve(
    metrics: Metrics, *names: ServicePortName, without: tuple[str, int] | None = None
) -> None:
    """Have both endpoints in the table of each Service port, but for one."""
    endpoints = tuple(Endpoint(*key) for key in (ONE, TWO) if key != without)
    backends = [Backend(name=name, family="IPv4", cluster=endpoints) for name in names]
    metrics.table = {
        (b.name.name, 80, "TCP"): Frontend(b.name.name, 80, "TCP", "ClusterIP", b) for b in backends
    }


def shown(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """What is told of endpoints, by the end of the name, the Service, the endpoint, direction."""
    text = b"".join(Exposition(metrics, with_kubeproxy=False).pieces("")).decode()
    return {
        (
            sample.name.removeprefix("pyproxy_endpoint_"),
            sample.labels["service_name"],
            sample.labels["endpoint"],
            *([sample.labels["direction"]] if "direction" in sample.labels else []),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "endpoint" in sample.labels
    }


def test_what_ended_and_what_lives_is_summed_over_processes() -> None:
    metrics, series = series_of(WEB)
    series.add(0, [EndpointCount(WEB, ONE, 3, 1, 30, 300)], [], metrics.knows)
    series.add(1, [], [EndpointCount(WEB, ONE, 2, 0, 20, 200)], metrics.knows)
    assert shown(metrics) == {
        ("connections_opened_total", "web", "10.1.0.1:80"): 5,
        ("connections_active", "web", "10.1.0.1:80"): 2,
        ("connect_failures_total", "web", "10.1.0.1:80"): 1,
        ("bytes_total", "web", "10.1.0.1:80", "client_to_endpoint"): 50,
        ("bytes_total", "web", "10.1.0.1:80", "endpoint_to_client"): 500,
    }


def test_a_live_connection_counts_once_however_often_it_is_told_of_and_when_it_ends() -> None:
    metrics, series = series_of(WEB)
    for moved in (10, 20, 30):
        series.add(0, [], [EndpointCount(WEB, ONE, 1, 0, moved, 0)], metrics.knows)
    series.add(0, [EndpointCount(WEB, ONE, 1, 0, 40, 0)], [], metrics.knows)
    found = shown(metrics)
    assert found["connections_opened_total", "web", "10.1.0.1:80"] == 1
    assert found["connections_active", "web", "10.1.0.1:80"] == 0
    assert found["bytes_total", "web", "10.1.0.1:80", "client_to_endpoint"] == 40


def test_what_a_dead_worker_had_live_has_ended_and_its_counts_stay() -> None:
    metrics, series = series_of(WEB)
    series.add(0, [], [EndpointCount(WEB, ONE, 4, 0, 40, 400)], metrics.knows)
    series.lost(0)
    series.lost(0)
    series.add(0, [], [EndpointCount(WEB, ONE, 1, 0, 1, 1)], metrics.knows)
    found = shown(metrics)
    assert found["connections_opened_total", "web", "10.1.0.1:80"] == 5
    assert found["connections_active", "web", "10.1.0.1:80"] == 1
    assert found["bytes_total", "web", "10.1.0.1:80", "endpoint_to_client"] == 401


def test_series_go_with_their_service_port_and_late_news_of_it_are_nobodys() -> None:
    metrics, series = series_of(WEB, CART)
    news = [EndpointCount(WEB, ONE, 1), EndpointCount(CART, ONE, 1)]
    series.add(0, news, news, metrics.knows)
    metrics.forget(WEB)
    series.add(0, news, news, metrics.knows)
    series.lost(0)
    assert {key[1] for key in shown(metrics)} == {"cart"}


def test_series_go_with_their_endpoint_once_its_last_connection_is_over() -> None:
    metrics, series = series_of(WEB)
    live = [EndpointCount(WEB, ONE, 1), EndpointCount(WEB, TWO, 1)]
    series.add(0, [], live, metrics.knows)
    serve(metrics, WEB, without=TWO)
    assert {key[2] for key in shown(metrics)} == {"10.1.0.1:80", "10.1.0.2:80"}
    series.add(0, live, [], metrics.knows)
    assert {key[2] for key in shown(metrics)} == {"10.1.0.1:80"}


def test_endpoints_beyond_the_cap_are_left_out_counted_and_get_room_when_others_go() -> None:
    metrics, series = series_of(WEB, CART, most=2 * SERIES_EACH)
    first = [EndpointCount(WEB, ONE, 1), EndpointCount(WEB, TWO, 1)]
    series.add(0, first, [], metrics.knows)
    second = [EndpointCount(CART, ONE, 1, 0, 5), EndpointCount(CART, TWO, 1)]
    series.add(0, [], second, metrics.knows)
    assert (len(series), series.left_out) == (2, 2)
    serve(metrics, WEB, CART, without=TWO)
    assert {key[1:3] for key in shown(metrics)} == {("web", "10.1.0.1:80")}
    assert series.left_out == 0
    series.add(0, [], second, metrics.knows)
    assert (len(series), series.left_out) == (2, 1)
    assert shown(metrics)["bytes_total", "cart", "10.1.0.1:80", "client_to_endpoint"] == 5


def test_there_are_none_unless_asked_for() -> None:
    metrics = Metrics()
    metrics.service_port(WEB)
    text = b"".join(Exposition(metrics).pieces("")).decode()
    assert "pyproxy_endpoint_connections" not in text
    assert "pyproxy_endpoints_without_series" not in text
