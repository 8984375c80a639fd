"""The families with series for each Service port: hundreds of thousands of samples, at worst.

They come in pieces, each of which takes less than a millisecond to make; other work may be done
between two. Counts go on meanwhile: each series is of its own moment.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from pyproxy.metrics.histogram import CONNECT_BOUNDS_S, DURATION_BOUNDS_S
from pyproxy.metrics.text import Family, HistogramLines, batches, labels

if TYPE_CHECKING:
    from collections import Counter

    from pyproxy.metrics.counters import ServicePortCounters
    from pyproxy.metrics.state import Metrics
    from pyproxy.model.service import Protocol, ServicePortName

TO_ENDPOINT = "client_to_endpoint"
TO_CLIENT = "endpoint_to_client"
SERVICE_LABELS = ("service_namespace", "service_name", "service_port", "protocol")

# The lines of one Service port, given its written labels; "" for none.
_Lines = Callable[[str, "ServicePortCounters"], str]


class PortFamily(NamedTuple):
    """A family, what is written of each Service port, and which protocol has it; None: all."""

    family: Family
    lines: _Lines
    protocol: "Protocol | None" = None


def _number(
    family: Family,
    value: "Callable[[ServicePortCounters], int]",
    protocol: "Protocol | None" = None,
) -> PortFamily:
    sample = family.sample
    return PortFamily(family, lambda at, c: f"{sample}{{{at}}} {value(c)}\n", protocol)


def _by_word(
    family: Family,
    label: str,
    counts: "Callable[[ServicePortCounters], Counter[str]]",
    protocol: "Protocol | None" = None,
) -> PortFamily:
    """A series for each word that was counted."""
    sample = family.sample

    def lines(at: str, counters: "ServicePortCounters") -> str:
        found = counts(counters).items()
        return "".join([f'{sample}{{{at},{label}="{word}"}} {count}\n' for word, count in found])

    return PortFamily(family, lines, protocol)


def _by_direction(
    family: Family,
    values: "Callable[[ServicePortCounters], tuple[int, int]]",
    protocol: "Protocol | None" = None,
) -> PortFamily:
    """values: to the endpoint, and to the client."""
    sample = family.sample

    def lines(at: str, counters: "ServicePortCounters") -> str:
        to_endpoint, to_client = values(counters)
        return (
            f'{sample}{{{at},direction="{TO_ENDPOINT}"}} {to_endpoint}\n'
            f'{sample}{{{at},direction="{TO_CLIENT}"}} {to_client}\n'
        )

    return PortFamily(family, lines, protocol)


def _histogram(
    family: Family,
    bounds: tuple[float, ...],
    observed: "Callable[[ServicePortCounters], list[int]]",
) -> PortFamily:
    """Only of Service ports that have had an observation: each has a line for every bucket."""
    write = HistogramLines(family, bounds)

    def lines(at: str, counters: "ServicePortCounters") -> str:
        histogram = observed(counters)
        return write(at, histogram) if any(histogram) else ""

    return PortFamily(family, lines)


def _counter(name: str, documentation: str) -> Family:
    return Family("counter", f"pyproxy_{name}", documentation)


def _gauge(name: str, documentation: str) -> Family:
    return Family("gauge", f"pyproxy_{name}", documentation)


FAMILIES = (
    _number(
        _counter("connections_opened", "Connections and UDP flows that came."), lambda c: c.opened
    ),
    _number(
        _gauge("connections_active", "Connections and UDP flows that are open now."),
        lambda c: c.active,
    ),
    _by_word(
        _counter("connections_closed", "Connections and UDP flows that ended, by reason."),
        "reason",
        lambda c: c.closed,
    ),
    _by_direction(
        _counter("bytes", "Payload forwarded, by direction."),
        lambda c: (c.bytes_to_endpoint, c.bytes_to_client),
    ),
    _by_direction(
        _counter("udp_datagrams", "Datagrams forwarded, by direction."),
        lambda c: (c.datagrams_to_endpoint, c.datagrams_to_client),
        "UDP",
    ),
    _by_word(
        _counter("connect_attempts", "Attempts to reach an endpoint, by result."),
        "result",
        lambda c: c.attempts,
    ),
    _number(
        _counter("connect_retries", "Attempts after another endpoint had failed."),
        lambda c: c.retries,
        "TCP",
    ),
    _number(
        _counter(
            "endpoint_ejections",
            "Times that an endpoint was left out because it could not be connected.",
        ),
        lambda c: c.ejections,
    ),
    _number(
        _gauge(
            "endpoints_ejected",
            "Endpoints that are left out now; each worker sees for itself, and these are added up.",
        ),
        lambda c: c.ejected,
    ),
    _number(
        _counter("udp_flows_moved", "UDP flows that were given another endpoint."),
        lambda c: c.flows_moved,
        "UDP",
    ),
    _number(_gauge("udp_flows_active", "UDP flows that are open now."), lambda c: c.active, "UDP"),
    _by_word(
        _counter("udp_datagrams_dropped", "Datagrams that were not passed on, by reason."),
        "reason",
        lambda c: c.dropped,
        "UDP",
    ),
    _histogram(
        Family(
            "histogram",
            "pyproxy_connect_duration_seconds",
            "From the accepted client to the connected endpoint, retries included.",
        ),
        CONNECT_BOUNDS_S,
        lambda c: c.connect_times,
    ),
    _histogram(
        Family(
            "histogram",
            "pyproxy_connection_duration_seconds",
            "How long TCP connections lasted that had an endpoint.",
        ),
        DURATION_BOUNDS_S,
        lambda c: c.durations,
    ),
)


def service_ports(metrics: "Metrics", *, is_openmetrics: bool) -> Iterator[str]:
    """What is counted for each Service port, in pieces."""
    ports: list[tuple[ServicePortName, str, ServicePortCounters]] = []
    for some in batches(metrics.service_ports()):
        ports += [(name, labels(SERVICE_LABELS, name), counters) for name, counters in some]
        yield ""  # a turn for others
    for family, lines, protocol in FAMILIES:
        yield family.head(is_openmetrics=is_openmetrics)
        for batch in batches(ports):
            yield "".join(
                [lines(at, c) for name, at, c in batch if protocol in {None, name.protocol}]
            )
