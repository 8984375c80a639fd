"""Requests to the API server, counted as client-go does, under its names."""

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

from pyproxy.metrics.histogram import cumulative, empty, observe

# client-go's, as Kubernetes v1.36 component-base `restclient/metrics.go` sets them.
BOUNDS_S = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
# In place of a status, where there was no answer.
NO_ANSWER = "<error>"


class ApiRequests:
    """How requests to the API server went.

    results: by status (or NO_ANSWER), method, and host with its port. times: histograms
    (pyproxy.metrics.histogram) by method and host, until the headers of the answer.
    """

    def __init__(self) -> None:
        self.results: Counter[tuple[str, str, str]] = Counter()
        self.times: dict[tuple[str, str], list[int]] = {}

    def add(self, method: str, host: str, code: str, seconds: float) -> None:
        """Count a request. code: the status, or NO_ANSWER."""
        self.results[code, method, host] += 1
        observe(self.times.setdefault((method, host), empty(BOUNDS_S)), BOUNDS_S, seconds)


def families(requests: ApiRequests) -> Iterator[Metric]:
    """The families that client-go has of them."""
    results = CounterMetricFamily(
        "rest_client_requests",
        "Requests to the API server, by status code, method and host.",
        labels=("code", "method", "host"),
    )
    for key, count in sorted(requests.results.items()):
        results.add_metric(key, count)
    yield results
    times = HistogramMetricFamily(
        "rest_client_request_duration_seconds",
        "Until the headers of the API server's answer, by method and host.",
        labels=("verb", "host"),
    )
    bounds = (*map(floatToGoString, BOUNDS_S), "+Inf")
    for at, histogram in sorted(requests.times.items()):
        counts, sum_s = cumulative(histogram, BOUNDS_S)
        times.add_metric(at, list(zip(bounds, counts, strict=True)), sum_value=sum_s)
    yield times
