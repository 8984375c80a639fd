"""Health-check node ports: which Services have one, and what it answers (PARITY 12.1 to 12.10).

A cloud's load balancer asks each node on this port whether the Service has a ready endpoint there,
and sends its traffic to the nodes that say yes.
"""

import json
from collections.abc import Mapping

import msgspec

from pyproxy.core.selection import why_not_proxied
from pyproxy.core.slices import merge
from pyproxy.core.store import Store
from pyproxy.model.addresses import FAMILIES, Cidr, Family, family_of
from pyproxy.model.endpoint import EndpointSlice
from pyproxy.model.events import Applied, Deleted, Event, Listed, ObjectKey
from pyproxy.model.node import NodeView
from pyproxy.model.service import Service, ServiceName, ServicePort

# Served nowhere, as node ports are not: nobody can be told to ask there.
_LINK_LOCAL = Cidr("fe80::", 10)
_WILDCARDS: dict[Family, str] = {"IPv4": "0.0.0.0", "IPv6": "::"}  # noqa: S104  (12.2)


class HealthCheck(msgspec.Struct, frozen=True):
    """A health-check node port.

    counts: for each family that the Service has, how many addresses of this node's own endpoints
    are ready (12.3).
    """

    service: ServiceName
    port: int
    counts: Mapping[Family, int]
    uid: str = ""

    def answer(self, family: Family, *, is_healthy: bool) -> tuple[int, dict[str, str], str]:
        """Return status, headers and body for who asks in a family (12.4 to 12.6)."""
        count = self.counts.get(family, 0)
        body = {
            "service": {"namespace": self.service.namespace, "name": self.service.name},
            "localEndpoints": count,
            "serviceProxyHealthy": is_healthy,
        }
        headers = {
            "Content-Type": "application/json",
            "X-Content-Type-Options": "nosniff",
            "X-Load-Balancing-Endpoint-Weight": str(count),
        }
        return (200 if count and is_healthy else 503), headers, json.dumps(body, indent="\t")


class HealthChecks:
    """Follows the events that the store has taken in; computes only the Services they touch."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._checks: dict[ServiceName, HealthCheck] = {}
        # A deletion names the slice, but not whose it was.
        self._owners: dict[ObjectKey, ServiceName] = {}

    def wanted(self) -> dict[int, HealthCheck]:
        """What holds now, by port. Of several Services with one port, the first by name has it."""
        found: dict[int, HealthCheck] = {}
        for name in sorted(self._checks):
            found.setdefault(self._checks[name].port, self._checks[name])
        return found

    def apply(self, event: Event) -> bool:
        """Take in an event after the store has; return whether `wanted` differs."""
        return True in {self._recompute(name) for name in self._touched(event)}

    def _touched(self, event: Event) -> set[ServiceName]:
        match event:
            case Applied(value=Service() as service):
                return {service.key}
            case Deleted(resource="services", key=key):
                return {ServiceName(*key)}
            case Listed(resource="services"):
                return {*self._checks, *(ServiceName(*key) for key in self._store.services())}
            case Applied(value=EndpointSlice() as endpoint_slice):
                key = (endpoint_slice.namespace, endpoint_slice.name)
                before = self._owners.get(key, endpoint_slice.service)
                self._owners[key] = endpoint_slice.service
                return {before, endpoint_slice.service}
            case Deleted(resource="endpointslices", key=key):
                return {self._owners.pop(key)} if key in self._owners else set()
            case Listed(resource="endpointslices", values=values):
                slices = [value for value in values if isinstance(value, EndpointSlice)]
                self._owners = {(each.namespace, each.name): each.service for each in slices}
                return set(self._checks)
            case _:
                return set()

    def _recompute(self, name: ServiceName) -> bool:
        service = self._store.services().get(name)
        before = self._checks.pop(name, None)
        if service is None or not self._has_one(service):
            return before is not None
        slices, node_name = self._store.slices_of(name), self._store.config.node_name
        counts = {
            family: _count(slices, family, node_name)
            for family in FAMILIES
            if family in service.cluster_ips
        }
        check = HealthCheck(name, service.health_check_node_port, counts, service.uid)
        self._checks[name] = check
        return check != before

    def _has_one(self, service: Service) -> bool:
        """Whether the Service has a health-check node port (12.1)."""
        return (
            service.type == "LoadBalancer"
            and service.external_local
            and service.health_check_node_port != 0
            and why_not_proxied(service, self._store.config.proxy_name) is None
        )


def _count(slices: tuple[EndpointSlice, ...], family: Family, node_name: str) -> int:
    """Count distinct addresses over all ports; two ports of one pod count once (12.3)."""
    ports = {(port.name, port.protocol) for found in slices for port in found.ports}
    return len(
        {
            endpoint.address
            for name, protocol in ports
            for endpoint in merge(slices, ServicePort(name, protocol, 0), family, node_name)
            if endpoint.is_local and endpoint.ready
        }
    )


def listen_addresses(node: NodeView) -> tuple[str, ...]:
    """Return where the ports listen (12.2): where node ports are served.

    A family of which no address is left out has its wildcard: then nothing has to be opened or
    closed as addresses come and go.
    """
    found: list[str] = []
    for family in FAMILIES:
        served = [a for a in node.node_port_addresses if family_of(a) == family]
        local = [a for a in node.local_addresses if family_of(a) == family and a not in _LINK_LOCAL]
        if served:
            found += [_WILDCARDS[family]] if len(served) == len(local) else served
    return tuple(found)
