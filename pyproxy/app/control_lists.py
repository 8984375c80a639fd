"""What there is, as rows: Service ports, endpoints, connections. Made in turns, traffic between."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from pyproxy.app.control_parts import Parts
from pyproxy.app.questions import Told
from pyproxy.core.near import near, near_texts
from pyproxy.core.selection import why_not_proxied
from pyproxy.core.slices import count, merge
from pyproxy.metrics import ServicePortCounters
from pyproxy.model.addresses import join_host_port
from pyproxy.model.endpoint import Endpoint
from pyproxy.model.events import ObjectKey
from pyproxy.model.service import Service, ServiceName, ServicePort, ServicePortName
from pyproxy.model.table import Backend, Frontend
from pyproxy.ops.control import ControlError

# Rows of one answer, at most; `total` tells of more.
MAX_ROWS = 10_000
_IN_A_TURN = 50
# Of endpoints in use, that one worker tells of.
_MAX_TOLD = 200_000

_T = TypeVar("_T")
Row = dict[str, Any]
_Key = tuple[ServicePortName, tuple[str, int]]
_Keep = Callable[[Row], Any]
_encoder = msgspec.json.Encoder()


def _whole(row: Row) -> Row:
    return row


def encoded(row: Row) -> msgspec.Raw:
    """A row as it is sent: many of them wake no collector, and the answer is made at once."""
    return msgspec.Raw(_encoder.encode(row))


async def services(parts: Parts, of: ServiceName | None, keep: _Keep = _whole) -> dict[str, Any]:
    """The answer to GET /services: a row for each Service port, and one for what has no port.

    keep: makes what stands in the answer of a row; so of the other lists.
    """
    rows: list[Any] = []
    async for service in _in_turns(_wanted(parts, of)):
        rows += map(keep, service_rows(parts, service))
    return {"services": rows}


def service_rows(parts: Parts, service: Service) -> list[Row]:
    """The rows of one Service."""
    why = why_not_proxied(service, parts.store.config.proxy_name)
    if why or not service.ports:
        return [_portless_row(service, why)]
    counters_of = parts.metrics.service_port_if_known
    by_port = _by_port(parts.store.frontends_of(service.key))
    names = [ServicePortName(*service.key, port.name, port.protocol) for port in service.ports]
    return [
        _service_row(parts, service, port, by_port.get(name, ()), counters_of(name))
        for name, port in zip(names, service.ports, strict=True)
    ]


async def endpoints(parts: Parts, of: ServiceName | None, keep: _Keep = _whole) -> dict[str, Any]:
    """The answer to GET /endpoints: a row for each endpoint of each Service port, used or not."""
    wanted = _wanted(parts, of)
    told = await parts.forwarding.live("endpoints", of, _MAX_TOLD)
    live = _Live(told)
    rows: list[Any] = []
    total = 0
    async for service in _in_turns(wanted):
        for backend in _backends(parts.store.frontends_of(service.key)):
            total += _count(parts, backend)[0]
            room = MAX_ROWS - len(rows)
            if room:
                found = _endpoints(parts, backend)[:room]
                rows += [keep(_endpoint_row(backend, endpoint, live)) for endpoint in found]
    return {"endpoints": rows, "total": total, "complete": told.is_whole and total == len(rows)}


async def connections(
    parts: Parts, of: ServiceName | None, limit: int, keep: _Keep = _whole
) -> dict[str, Any]:
    """The answer to GET /connections: TCP connections and UDP flows."""
    _wanted(parts, of)
    told = await parts.forwarding.live("connections", of, limit)
    pods: dict[ServiceName, dict[str, str]] = {}
    rows: list[Any] = []
    async for one in _in_turns(told.connections[:limit]):
        service = one.service_port.service
        if service not in pods:
            slices = parts.store.slices_of(service)
            pods[service] = {e.address: e.pod for s in slices for e in s.endpoints if e.pod}
        row = {
            **_names(one.service_port),
            "client": join_host_port(*one.client),
            "frontend": join_host_port(*one.frontend),
            "endpoint": one.endpoint and join_host_port(*one.endpoint),
            "pod": pods[service].get(one.endpoint[0], "") if one.endpoint else "",
            "connected": one.is_connected,
            "age_seconds": _rounded(one.age_s),
            "idle_seconds": _rounded(one.idle_s),
            "bytes_to_endpoint": one.bytes_to_endpoint,
            "bytes_to_client": one.bytes_to_client,
        }
        rows.append(keep(row))
    is_complete = told.is_whole and len(rows) == told.total
    return {"connections": rows, "total": told.total, "complete": is_complete}


def _wanted(parts: Parts, of: ServiceName | None) -> Iterable[Service]:
    """The Services asked for, by name. Raises ControlError with near names when there are none."""
    known = parts.store.services()
    if of is None:
        return _by_name(known)
    if of.name:
        service = known.get(of)
        if service is not None:
            return [service]
        found = near(of.namespace, of.name, known)
        raise ControlError(404, f"there is no Service {of}", near=found)
    in_namespace = [known[key] for key in sorted(known) if key[0] == of.namespace]
    if not in_namespace:
        found = near_texts(of.namespace, sorted({namespace for namespace, _ in known}))
        raise ControlError(404, f"no Service is in namespace {of.namespace}", near=found)
    return in_namespace


def _by_name(known: Mapping[ObjectKey, Service]) -> Iterator[Service]:
    """All Services in order; one namespace is sorted at a time, as 10,000 names take 10 ms."""
    names: dict[str, list[str]] = defaultdict(list)
    for namespace, name in known:
        names[namespace].append(name)
    for namespace in sorted(names):
        for name in sorted(names[namespace]):
            service = known.get((namespace, name))
            if service is not None:  # it may have gone meanwhile
                yield service


async def _in_turns(items: Iterable[_T]) -> AsyncIterator[_T]:
    for number, item in enumerate(items, start=1):
        yield item
        if not number % _IN_A_TURN:
            await asyncio.sleep(0)


def _by_port(frontends: Iterable[Frontend]) -> dict[ServicePortName, list[Frontend]]:
    found: dict[ServicePortName, list[Frontend]] = defaultdict(list)
    for frontend in frontends:
        found[frontend.backend.name].append(frontend)
    return found


def _backends(frontends: Iterable[Frontend]) -> list[Backend]:
    return list({(f.backend.name, f.backend.family): f.backend for f in frontends}.values())


def _names(name: ServicePortName) -> Row:
    return {
        "namespace": name.namespace,
        "name": name.name,
        "port": name.port,
        "protocol": name.protocol,
    }


def _service_row(
    parts: Parts,
    service: Service,
    port: ServicePort,
    frontends: Collection[Frontend],
    counters: ServicePortCounters,
) -> Row:
    backends = _backends(frontends)
    counts = [_count(parts, backend) for backend in backends]
    return {
        "namespace": service.namespace,
        "name": service.name,
        "port": port.name,
        "protocol": port.protocol,
        "type": service.type,
        "not_proxied": None,
        "number": port.port,
        "frontends": [_frontend(parts, frontend) for frontend in frontends],
        "endpoints": {
            "total": sum([total for total, _ in counts]),
            "ready": sum([ready for _, ready in counts]),
            "usable": sum([_count_usable(backend) for backend in backends]),
        },
        "connections": {
            "active": counters.active,
            "opened": counters.opened,
            "closed": dict(counters.closed),
        },
        "connect_attempts": dict(counters.attempts),
        "bytes_to_endpoint": counters.bytes_to_endpoint,
        "bytes_to_client": counters.bytes_to_client,
        "ejections": counters.ejections,
    }


def _portless_row(service: Service, why: str | None) -> Row:
    """What is left alone has the shape of the others, and nothing in it."""
    return {
        **_names(ServicePortName(service.namespace, service.name, "", "TCP")),
        "type": service.type,
        "not_proxied": why or "NoPorts",
        "number": 0,
        "frontends": [],
        "endpoints": {"total": 0, "ready": 0, "usable": 0},
        "connections": {"active": 0, "opened": 0, "closed": {}},
        "connect_attempts": {},
        "bytes_to_endpoint": 0,
        "bytes_to_client": 0,
        "ejections": 0,
    }


def _frontend(parts: Parts, frontend: Frontend) -> Row:
    """fault: why it is not listened on although it should be."""
    holder = parts.store.table().frontends.get(frontend.key)
    is_held = holder is not None and holder.backend.name.service == frontend.backend.name.service
    fault = parts.forwarding.bind_faults().get(frontend.key)
    return {
        "address": frontend.address,
        "port": frontend.port,
        "kind": frontend.kind,
        "listening": is_held and parts.forwarding.is_listening(frontend.key),
        "fault": fault if is_held else "another Service has this address and port",
    }


def _endpoints(parts: Parts, backend: Backend) -> tuple[Endpoint, ...]:
    slices = parts.store.slices_of(backend.name.service)
    return merge(slices, _port(backend), backend.family, parts.store.table().node.name)


def _count(parts: Parts, backend: Backend) -> tuple[int, int]:
    """How many endpoints, and how many that are ready."""
    return count(parts.store.slices_of(backend.name.service), _port(backend), backend.family)


def _port(backend: Backend) -> ServicePort:
    return ServicePort(backend.name.port, backend.name.protocol, 0)  # its number is never looked at


def _count_usable(backend: Backend) -> int:
    if not backend.local or not backend.cluster:
        return len(backend.local) + len(backend.cluster)
    return len({*backend.cluster, *backend.local})


def _endpoint_row(backend: Backend, endpoint: Endpoint, live: "_Live") -> Row:
    key = backend.name, (endpoint.address, endpoint.port)
    return {
        **_names(backend.name),
        "endpoint": str(endpoint),
        "ready": endpoint.ready,
        "serving": endpoint.serving,
        "terminating": endpoint.terminating,
        "used": endpoint in backend.cluster or endpoint in backend.local,
        "local": endpoint.is_local,
        "node": endpoint.node_name,
        "zones": list(endpoint.zones),
        "pod": endpoint.pod,
        "connections": live.connections.get(key, 0),
        "ejected_by": live.ejected_by.get(key, 0),
        "ejected_seconds": round(live.ejected_s.get(key, 0.0), 3),
    }


class _Live:
    """What all processes have told of endpoints, summed; ejected_by: in how many, for how long."""

    def __init__(self, told: Told) -> None:
        self.connections: Counter[_Key] = Counter()
        self.ejected_by: Counter[_Key] = Counter()
        self.ejected_s: dict[_Key, float] = {}
        for row in told.endpoints:
            key = row.service_port, row.endpoint
            self.connections[key] += row.connections
            if row.ejected_s:
                self.ejected_by[key] += 1
                self.ejected_s[key] = max(row.ejected_s, self.ejected_s.get(key, 0.0))


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
