"""Series of each endpoint, where they are asked for: summed over the processes that forward.

Each process tells what its connections that ended came to, and how its live ones stand; the sum of
both never goes down. When it dies, its live ones have ended. Series go with their endpoint, once
its last connection is over, or with its Service port.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from pyproxy.metrics.endpoints import backends_of
from pyproxy.metrics.service_ports import SERVICE_LABELS, TO_CLIENT, TO_ENDPOINT
from pyproxy.metrics.text import Family, batches, labels
from pyproxy.model.addresses import join_host_port

if TYPE_CHECKING:
    from pyproxy.metrics.state import Metrics
    from pyproxy.model.service import ServicePortName

_Key = tuple["ServicePortName", tuple[str, int]]

# Each endpoint has so many series.
SERIES_EACH = 5
# Of endpoints that have none for want of room, as many are counted.
_MOST_LEFT_OUT = 100_000


class Count(Protocol):
    """pyproxy.forward.endpoint_counts.EndpointCount says what these are."""

    service_port: "ServicePortName"
    endpoint: tuple[str, int]
    connections: int
    failures: int
    bytes_to_endpoint: int
    bytes_to_client: int


class _Sums:
    """active: of live connections; the others have these in them."""

    __slots__ = ("active", "bytes_to_client", "bytes_to_endpoint", "failures", "opened")

    def __init__(self) -> None:
        self.opened = self.active = self.failures = 0
        self.bytes_to_endpoint = self.bytes_to_client = 0

    def add(self, count: Count, sign: int = 1) -> None:
        self.opened += sign * count.connections
        self.failures += sign * count.failures
        self.bytes_to_endpoint += sign * count.bytes_to_endpoint
        self.bytes_to_client += sign * count.bytes_to_client


class EndpointSeries:
    """most: series that there may be."""

    def __init__(self, most: int) -> None:
        self._most = most // SERIES_EACH
        self._sums: dict[_Key, _Sums] = {}
        self._live: dict[int, list[Count]] = {}  # by process, of endpoints that have series
        self._left_out: set[_Key] = set()

    def __len__(self) -> int:
        return len(self._sums)

    @property
    def left_out(self) -> int:
        """Endpoints that have none for want of room."""
        return len(self._left_out)

    def add(
        self,
        process: int,
        ended: Iterable[Count],
        live: Iterable[Count],
        is_known: "Callable[[ServicePortName], bool]",
    ) -> None:
        """Take in what a process tells; what is told of unknown Service ports is nobody's."""
        self._withdraw(process)
        for count in ended:
            if is_known(count.service_port) and (sums := self._sums_of(count)) is not None:
                sums.add(count)
        kept = self._live[process] = []
        for count in live:
            if is_known(count.service_port) and (sums := self._sums_of(count)) is not None:
                sums.add(count)
                sums.active += count.connections
                kept.append(count)

    def lost(self, process: int) -> None:
        """A process has died: what was live in it has ended."""
        for count in self._live.pop(process, ()):
            sums = self._sums.get((count.service_port, count.endpoint))
            if sums is not None:
                sums.active -= count.connections

    def forget(self, name: "ServicePortName") -> None:
        """Drop the series of a Service port."""
        self._keep(lambda key, _: key[0] != name)

    def keep_only(self, endpoints: set[_Key]) -> None:
        """Drop the series of other endpoints than these, unless they have connections."""
        self._keep(lambda key, sums: key in endpoints or sums.active > 0)

    def rows(self) -> Iterator[tuple[_Key, _Sums]]:
        """All, as they are now."""
        return iter(tuple(self._sums.items()))

    def _keep(self, wanted: Callable[[_Key, _Sums], bool]) -> None:
        sums = {key: sums for key, sums in self._sums.items() if wanted(key, sums)}
        if len(sums) < len(self._sums):
            self._left_out.clear()  # some of them have room now; who has not, comes again
            self._sums = sums

    def _withdraw(self, process: int) -> None:
        for count in self._live.pop(process, ()):
            sums = self._sums.get((count.service_port, count.endpoint))
            if sums is not None:
                sums.add(count, -1)
                sums.active -= count.connections

    def _sums_of(self, count: Count) -> _Sums | None:
        key = count.service_port, count.endpoint
        sums = self._sums.get(key)
        if sums is None:
            if len(self._sums) >= self._most:
                if len(self._left_out) < _MOST_LEFT_OUT:
                    self._left_out.add(key)
                return None
            sums = self._sums[key] = _Sums()
        return sums


_OPENED = Family(
    "counter",
    "pyproxy_endpoint_connections_opened",
    "Connections and UDP flows that an endpoint was given.",
)
_ACTIVE = Family(
    "gauge", "pyproxy_endpoint_connections_active", "Those of an endpoint that are open now."
)
_FAILURES = Family(
    "counter",
    "pyproxy_endpoint_connect_failures",
    "Connections and UDP flows that tried an endpoint in vain.",
)
_BYTES = Family("counter", "pyproxy_endpoint_bytes", "Payload of an endpoint, by direction.")
_LEFT_OUT = Family(
    "gauge",
    "pyproxy_endpoints_without_series",
    "Endpoints that have no series of their own, as there are too many (metricsMaxSeries).",
)
_LINES: tuple[tuple[Family, Callable[[str, _Sums], str]], ...] = (
    (_OPENED, lambda at, s: f"{_OPENED.sample}{{{at}}} {s.opened}\n"),
    (_ACTIVE, lambda at, s: f"{_ACTIVE.sample}{{{at}}} {s.active}\n"),
    (_FAILURES, lambda at, s: f"{_FAILURES.sample}{{{at}}} {s.failures}\n"),
    (
        _BYTES,
        lambda at, s: (
            f'{_BYTES.sample}{{{at},direction="{TO_ENDPOINT}"}} {s.bytes_to_endpoint}\n'
            f'{_BYTES.sample}{{{at},direction="{TO_CLIENT}"}} {s.bytes_to_client}\n'
        ),
    ),
)


def endpoint_series(metrics: "Metrics", *, is_openmetrics: bool) -> Iterator[str]:
    """The families, in pieces, of the endpoints that are still in the table or in use."""
    series = metrics.endpoint_series
    if series is None:
        return
    there: set[_Key] = set()
    for backends in backends_of(metrics):
        for backend in backends:
            used = {(e.address, e.port) for e in (*backend.cluster, *backend.local)}
            there.update((backend.name, endpoint) for endpoint in used | backend.serving)
        yield ""  # a turn for others
    series.keep_only(there)
    rows: list[tuple[str, _Sums]] = []
    for some in batches(series.rows()):
        rows += [(_labels(*key), sums) for key, sums in some]
        yield ""
    for family, lines in _LINES:
        yield family.head(is_openmetrics=is_openmetrics)
        for batch in batches(rows):
            yield "".join([lines(at, sums) for at, sums in batch])
    yield _LEFT_OUT.head(is_openmetrics=is_openmetrics) + f"{_LEFT_OUT.sample} {series.left_out}\n"


def _labels(name: "ServicePortName", endpoint: tuple[str, int]) -> str:
    return labels((*SERVICE_LABELS, "endpoint"), (*name, join_host_port(*endpoint)))
