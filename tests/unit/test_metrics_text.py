"""What is written straight to text reads back as what prometheus_client would have written."""

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parsed_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parsed_text
from prometheus_client.registry import Collector

from pyproxy.metrics import TO_CLIENT, TO_ENDPOINT, Exposition, Metrics, ServicePortCounters
from pyproxy.metrics.histogram import CONNECT_BOUNDS_S, DURATION_BOUNDS_S
from pyproxy.metrics.service_ports import SERVICE_LABELS, service_ports
from pyproxy.model.service import ServicePortName
from tests.support.builders import make_service, make_slice, make_table

OPENMETRICS = "application/openmetrics-text;version=1.0.0"
ANY_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=8)
COUNTS = st.integers(0, 1 << 53)  # a sample is a double
HISTOGRAMS = {"connect_times": CONNECT_BOUNDS_S, "durations": DURATION_BOUNDS_S}


@st.composite
def counters(draw: st.DrawFn) -> ServicePortCounters:
    made = ServicePortCounters()
    for name in ServicePortCounters.__slots__:
        value = getattr(made, name)
        if isinstance(value, Counter):
            value.update(draw(st.dictionaries(st.sampled_from(["ok", "timeout"]), COUNTS)))
        elif isinstance(value, list):
            few = st.lists(st.integers(0, 1 << 40), min_size=len(value), max_size=len(value))
            setattr(made, name, draw(few))
        else:
            setattr(made, name, draw(COUNTS))
    return made


NAMES = st.builds(ServicePortName, ANY_TEXT, ANY_TEXT, ANY_TEXT, st.sampled_from(["TCP", "UDP"]))


def reference(ports: dict[ServicePortName, ServicePortCounters]) -> Iterator[Metric]:
    """The same families as objects of prometheus_client."""
    simple = {
        "connections_opened": (CounterMetricFamily, "opened", "TCP UDP"),
        "connections_active": (GaugeMetricFamily, "active", "TCP UDP"),
        "connect_retries": (CounterMetricFamily, "retries", "TCP"),
        "endpoint_ejections": (CounterMetricFamily, "ejections", "TCP UDP"),
        "endpoints_ejected": (GaugeMetricFamily, "ejected", "TCP UDP"),
        "udp_flows_active": (GaugeMetricFamily, "active", "UDP"),
        "udp_flows_moved": (CounterMetricFamily, "flows_moved", "UDP"),
    }
    for name, (kind, attribute, protocols) in simple.items():
        family = kind(f"pyproxy_{name}", "", labels=SERVICE_LABELS)
        for port, counted in ports.items():
            if port.protocol in protocols:
                family.add_metric(port, getattr(counted, attribute))
        yield family
    for name, attribute, label, protocols in (
        ("connections_closed", "closed", "reason", "TCP UDP"),
        ("connect_attempts", "attempts", "result", "TCP UDP"),
        ("udp_datagrams_dropped", "dropped", "reason", "UDP"),
    ):
        family = CounterMetricFamily(f"pyproxy_{name}", "", labels=(*SERVICE_LABELS, label))
        for port, counted in ports.items():
            if port.protocol in protocols:
                for word, count in getattr(counted, attribute).items():
                    family.add_metric((*port, word), count)
        yield family
    for name, prefix, protocols in (
        ("bytes", "bytes", "TCP UDP"),
        ("udp_datagrams", "datagrams", "UDP"),
    ):
        family = CounterMetricFamily(f"pyproxy_{name}", "", labels=(*SERVICE_LABELS, "direction"))
        for port, counted in ports.items():
            if port.protocol in protocols:
                family.add_metric((*port, TO_ENDPOINT), getattr(counted, f"{prefix}_to_endpoint"))
                family.add_metric((*port, TO_CLIENT), getattr(counted, f"{prefix}_to_client"))
        yield family
    for name, attribute in (("connect", "connect_times"), ("connection", "durations")):
        family = HistogramMetricFamily(
            f"pyproxy_{name}_duration_seconds", "", labels=SERVICE_LABELS
        )
        for port, counted in ports.items():
            *buckets, microseconds = getattr(counted, attribute)
            if any((*buckets, microseconds)):
                bounds = [*map(str, HISTOGRAMS[attribute]), "+Inf"]
                sums = [sum(buckets[: n + 1]) for n in range(len(buckets))]
                found = list(zip(bounds, sums, strict=True))
                family.add_metric(port, found, sum_value=microseconds / 1e6)
        yield family


class _Of(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def samples(text: str, accept: str) -> dict[tuple[str, str, frozenset[tuple[str, str]]], float]:
    """By name of the sample, type of the family, and labels."""
    parse = parsed_openmetrics if accept else parsed_text
    found = [
        ((sample.name, family.type, frozenset(sample.labels.items())), sample.value)
        for family in parse(text)
        for sample in family.samples
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
@settings(deadline=None)
@given(ports=st.dictionaries(NAMES, counters(), max_size=3))
def test_the_series_of_service_ports_read_back_as_prometheus_clients_own(
    accept: str, ports: dict[ServicePortName, ServicePortCounters]
) -> None:
    metrics = Metrics()
    for name, counted in ports.items():
        kept = metrics.service_port(name)
        for slot in ServicePortCounters.__slots__:
            setattr(kept, slot, getattr(counted, slot))
    text = "".join(service_ports(metrics, is_openmetrics=bool(accept)))
    encode, _ = choose_encoder(accept)
    registry = CollectorRegistry()
    registry.register(_Of(list(reference(ports))))
    expected = encode(registry).decode()
    assert samples(text + "# EOF\n" * bool(accept), accept) == samples(expected, accept)


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_a_whole_scrape_has_each_family_once_and_can_be_read(accept: str) -> None:
    exposition, metrics = exposed()
    text = b"".join(exposition.pieces(accept)).decode()
    heads = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(heads) == len(set(heads))
    assert len(heads) == len([line for line in text.splitlines() if line.startswith("# HELP")])
    found = samples(text, accept)
    assert len(found) == len([line for line in text.splitlines() if not line.startswith("#")])
    assert metrics.table
    assert ("# EOF" in text) == bool(accept)


def test_no_piece_has_more_than_fifty_service_ports() -> None:
    exposition, metrics = exposed()
    for number in range(160):
        counted = metrics.service_port(ServicePortName("shop", f"s{number}", "http", "TCP"))
        counted.connect_times[0] = 1
    lines = [
        piece.count(b"pyproxy_connect_duration_seconds_count") for piece in exposition.pieces("")
    ]
    assert sorted(filter(None, lines)) == [10, 50, 50, 50]


def exposed() -> tuple[Exposition, Metrics]:
    metrics = Metrics()
    metrics.watch_restarts["services", "reset"] += 4
    metrics.source_address_fallbacks["ports"] += 1
    metrics.table = make_table(make_service(), make_slice()).frontends
    return Exposition(metrics), metrics
