"""A whole scrape, in pieces: each takes about a millisecond at most, and anything may come between.

Families of the process come from prometheus_client, one at a time; those with series for each
Service port are written straight to text.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import exposition
from prometheus_client.registry import Collector

from pyproxy.metrics import kubeproxy
from pyproxy.metrics.collect import registry
from pyproxy.metrics.endpoint_series import endpoint_series
from pyproxy.metrics.endpoints import endpoint_states
from pyproxy.metrics.service_ports import service_ports

if TYPE_CHECKING:
    from prometheus_client import Metric

    from pyproxy.metrics.state import Metrics

_OPENMETRICS_END = b"# EOF\n"

# Makes the pieces of some families, as the format that was negotiated has them.
Pieces = Callable[..., Iterator[str]]


class _One(Collector):
    """A family alone."""

    def __init__(self, family: "Metric") -> None:
        self._family = family

    def collect(self) -> "Iterator[Metric]":
        yield self._family


class Exposition:
    """All that a process shows to a scrape.

    with_kubeproxy: also the names that dashboards for kube-proxy ask for.
    """

    def __init__(self, metrics: "Metrics", *, with_kubeproxy: bool = True) -> None:
        self._metrics = metrics
        self._registry = registry(metrics, with_kubeproxy=with_kubeproxy)
        self._written: list[Pieces] = [service_ports, endpoint_states, endpoint_series]
        if with_kubeproxy:
            self._written.append(kubeproxy.no_local_endpoints)

    def format(self, accept: str) -> str:
        """The content type that an Accept header gets: text, or OpenMetrics."""
        return exposition.choose_encoder(accept)[1]

    def pieces(self, accept: str) -> Iterator[bytes]:
        """The text in that format. Some pieces are empty: they are there to come between."""
        encode, content_type = exposition.choose_encoder(accept)
        is_openmetrics = content_type.startswith("application/openmetrics-text")
        for family in self._registry.collect():
            yield encode(_One(family)).removesuffix(_OPENMETRICS_END)
        for pieces in self._written:
            for piece in pieces(self._metrics, is_openmetrics=is_openmetrics):
                yield piece.encode()
        if is_openmetrics:
            yield _OPENMETRICS_END
