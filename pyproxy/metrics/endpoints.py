"""How many endpoints each Service port has, by state. Counted from the table, in pieces."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from pyproxy.metrics.service_ports import SERVICE_LABELS
from pyproxy.metrics.text import Family, batches, labels

if TYPE_CHECKING:
    from pyproxy.metrics.state import Metrics
    from pyproxy.model.endpoint import Endpoint
    from pyproxy.model.service import ServicePortName
    from pyproxy.model.table import Backend

FAMILY = Family(
    "gauge",
    "pyproxy_endpoints",
    "Endpoints that this node may use, of both address families, by state: ready, serving (though"
    " not ready), or terminating (though serving).",
)
STATES = ("ready", "serving", "terminating")


def backends_of(metrics: "Metrics") -> Iterator[list["Backend"]]:
    """Each backend of the table once, in lists of a few that may be empty."""
    seen: set[int] = set()
    for some in batches(metrics.table.values()):  # it keeps them, so that no id is used twice
        found = {id(frontend.backend): frontend.backend for frontend in some}
        yield [backend for number, backend in found.items() if number not in seen]
        seen.update(found)


def endpoint_states(metrics: "Metrics", *, is_openmetrics: bool) -> Iterator[str]:
    """The family of endpoints by state, in pieces."""
    found: dict[ServicePortName, list[int]] = {}
    for backends in backends_of(metrics):
        for backend in backends:
            counts = found.setdefault(backend.name, [0] * len(STATES))
            for endpoint in _usable(backend):
                counts[_state(endpoint)] += 1
        yield ""  # a turn for others
    yield FAMILY.head(is_openmetrics=is_openmetrics)
    for batch in batches(found.items()):
        yield "".join([_lines(name, counts) for name, counts in batch])


def _usable(backend: "Backend") -> "Iterable[Endpoint]":
    if not backend.local:
        return backend.cluster
    return {(e.address, e.port): e for e in (*backend.cluster, *backend.local)}.values()


def _state(endpoint: "Endpoint") -> int:
    """Its index in STATES."""
    if endpoint.terminating:
        return 2
    return 0 if endpoint.ready else 1


def _lines(name: "ServicePortName", counts: list[int]) -> str:
    at = labels(SERVICE_LABELS, name)
    pairs = zip(STATES, counts, strict=True)
    return "".join([f'{FAMILY.name}{{{at},state="{state}"}} {count}\n' for state, count in pairs])
