"""What the page shows of each Service: what it is, which changes seldom, and how it does.

Rows are made anew only for Services that have changed since the last look, with turns for others.
A Service has a number here for as long as it exists, which takes less room than its name.
"""

import asyncio
import itertools
import math
from typing import Any, NamedTuple

import msgspec

from pyproxy.app import control_lists
from pyproxy.app.control_parts import Parts
from pyproxy.app.ui_traffic import Rates
from pyproxy.core.history import History
from pyproxy.core.service_state import Seen, State, state_of
from pyproxy.model.endpoint import EndpointSlice
from pyproxy.model.service import Service, ServiceName
from pyproxy.model.table import Frontend

_IN_A_TURN = 20
_LOOKED_AT_IN_A_TURN = 500
# The points of a table's sparkline: four minutes.
SPARK_STEPS = 48

Row = dict[str, Any]
_Basis = tuple[Service, tuple[Frontend, ...], tuple[EndpointSlice, ...]]


class Known(NamedTuple):
    """A Service as it was last looked at. basis: what its row was made from."""

    number: int
    basis: _Basis
    row: Row
    seen: Seen


class Changed(NamedTuple):
    """What is new since the last look."""

    rows: list[Row]
    gone: list[int]


class Services:
    """The Services by name, as the viewers know them."""

    def __init__(self, parts: Parts) -> None:
        self.known: dict[ServiceName, Known] = {}
        self._parts = parts
        self._numbers = itertools.count(1)
        self._faults: dict[Any, str] = {}

    async def look(self) -> Changed:
        """Look at every Service; make the rows of those that have changed."""
        store = self._parts.store
        changed = Changed([], [])
        services = dict(store.services())
        for name in self.known.keys() - services.keys():
            changed.gone.append(self.known.pop(ServiceName(*name)).number)
        renewed = self._with_other_faults()
        for number, (key, service) in enumerate(services.items(), start=1):
            if not number % _LOOKED_AT_IN_A_TURN:
                await asyncio.sleep(0)
            name = ServiceName(*key)
            basis = service, store.frontends_of(name), store.slices_of(name)
            known = self.known.get(name)
            if known is not None and known.basis == basis and name not in renewed:
                continue
            rows = control_lists.service_rows(self._parts, service)
            number_of_it = known.number if known else next(self._numbers)
            row = _row(number_of_it, service, rows)
            self.known[name] = Known(number_of_it, basis, row, _seen(rows))
            changed.rows.append(row)
            if not len(changed.rows) % _IN_A_TURN:
                await asyncio.sleep(0)
        return changed

    def _with_other_faults(self) -> set[ServiceName]:
        """The Services of which more or fewer addresses can be listened on than before."""
        faults = dict(self._parts.forwarding.bind_faults())
        if faults == self._faults:
            return set()
        frontends = self._parts.store.table().frontends
        differing = {key for key, _ in faults.items() ^ self._faults.items()}
        self._faults = faults
        found = (frontends.get(key) for key in differing)
        return {frontend.backend.name.service for frontend in found if frontend is not None}


def _row(number: int, service: Service, rows: list[control_lists.Row]) -> Row:
    return {
        "id": number,
        "namespace": service.namespace,
        "name": service.name,
        "type": service.type,
        "left": rows[0]["not_proxied"],
        "ports": [[row["port"], row["protocol"], row["number"]] for row in rows if row["number"]],
        "address": _address(service),
        "ready": sum(row["endpoints"]["ready"] for row in rows),
        "total": sum(row["endpoints"]["total"] for row in rows),
    }


def _address(service: Service) -> str:
    if service.type == "ExternalName":
        return service.external_name
    return next(iter(service.cluster_ips.values()), "")


def _seen(rows: list[control_lists.Row]) -> Seen:
    frontends = [frontend for row in rows for frontend in row["frontends"]]
    left = rows[0]["not_proxied"]
    has_ports = left != "NoPorts"
    counts = {
        key: sum(row["endpoints"][key] for row in rows) for key in ("total", "ready", "usable")
    }
    return Seen(
        left=left if has_ports else None,
        ports=len(rows) if has_ports else 0,
        frontends=len(frontends),
        unbound=sum(frontend["fault"] is not None for frontend in frontends),
        **counts,
    )


class Doing(NamedTuple):
    """How a Service does, as it is sent: rates of a second, connect times in milliseconds."""

    number: int
    connections: float
    to_endpoint: int
    to_client: int
    active: int
    errors: int
    p50_ms: float | None
    p95_ms: float | None
    state: State
    why: str


def doing(known: Known, name: ServiceName, rates: Rates, history: History) -> Doing:
    """Put together how a Service does."""
    errors, last = history.errors(name), history.last(name)
    seen = known.seen
    if rates.ejected or errors:
        seen = msgspec.structs.replace(seen, ejected=rates.ejected, errors=errors)
    state, why = state_of(seen)
    return Doing(
        known.number,
        round(rates.connections, 1),
        round(rates.to_endpoint),
        round(rates.to_client),
        rates.active,
        errors,
        _milliseconds(last.p50_s),
        _milliseconds(last.p95_s),
        state,
        why,
    )


def _milliseconds(seconds: float) -> float | None:
    return None if math.isnan(seconds) else round(seconds * 1000, 2)


def spark(history: History, name: ServiceName) -> list[float]:
    """The latest points of a sparkline: connections of a second."""
    points = history.column(name, "connections", SPARK_STEPS)
    return [round(point or 0.0, 1) for point in points]
