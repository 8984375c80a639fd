"""A cluster's Services as they are served on a developer's machine.

Each Service is made into one whose ClusterIP is its loopback address and whose ports are its local
ports; a headless one into a Service for each of its pods. From there on store, balancer and
forwarder do what they do on a node. What only means something on a node goes: traffic policies,
topology hints, external addresses.
"""

from collections.abc import Iterable, Iterator

import msgspec

from pyproxy.core.local_service import LocalService, pod_label
from pyproxy.core.loopback import Placement, Placements
from pyproxy.model.endpoint import EndpointSlice, SliceEndpoint
from pyproxy.model.events import Applied, Deleted, Event, Object, ObjectKey, Resource, key_of
from pyproxy.model.service import Service, ServicePort

_PROJECTED: tuple[Resource, ...] = ("services", "endpointslices")


def projected(
    services: Iterable[LocalService], placements: Placements
) -> Iterator[Service | EndpointSlice]:
    """Yield what is served: for each placement a Service, and the slices that feed it."""
    for local in services:
        for placement in _placements_of(local, placements):
            name = _name(local, placement)
            yield _service(local.service, name, placement)
            yield from _slices(local, name, placement.claimant.pod)


class Projection:
    """What was said of the projected objects, to say the next time what has changed."""

    def __init__(self) -> None:
        self._said: dict[Resource, dict[ObjectKey, Object]] = {r: {} for r in _PROJECTED}

    def changes(self, objects: Iterable[Service | EndpointSlice]) -> list[Event]:
        """Return what leads from the objects of the last time to these."""
        wanted: dict[Resource, dict[ObjectKey, Object]] = {r: {} for r in _PROJECTED}
        for value in objects:
            resource: Resource = "services" if isinstance(value, Service) else "endpointslices"
            wanted[resource][key_of(value)] = value
        events: list[Event] = []
        for resource, said in self._said.items():
            new = wanted[resource]
            events += [Deleted(resource, key) for key in said if key not in new]
            events += [Applied(resource, v) for key, v in new.items() if said.get(key) != v]
        self._said = wanted
        return events


def _placements_of(local: LocalService, placements: Placements) -> Iterator[Placement]:
    if local.kind == "ClusterIP":
        placement = placements.get(local.claimant)
        if placement is not None:
            yield placement
    elif local.kind == "Headless":
        pods = {pod_label(e) for s in local.slices for e in s.endpoints if e.ready}
        for pod in sorted(pods):
            placement = placements.get(local.claimant._replace(pod=pod))
            if placement is not None:
                yield placement


def _name(local: LocalService, placement: Placement) -> str:
    """The projected Service's name. No Service of a cluster has a dot in its name (RFC 1035)."""
    pod = placement.claimant.pod
    return f"{local.service.name}.{pod}" if pod else local.service.name


def _service(service: Service, name: str, placement: Placement) -> Service:
    ports = tuple(ServicePort(p.name, p.protocol, p.local) for p in placement.ports)
    return Service(
        namespace=service.namespace,
        name=name,
        type="ClusterIP",
        cluster_ip=placement.address,
        cluster_ips={"IPv4": placement.address},
        ports=ports,
        affinity_seconds=service.affinity_seconds,
        annotations=service.annotations,
        created=service.created,
        uid=service.uid,
    )


def _slices(local: LocalService, name: str, pod: str) -> Iterator[EndpointSlice]:
    """The slices of one family, IPv4 where there is any.

    They are told as of IPv4, the family of the loopback address: where a connection comes from and
    where it goes are two connections here, and need not be of one family.
    """
    families = {s.address_type for s in local.slices if s.endpoints}
    family = "IPv4" if "IPv4" in families else "IPv6"
    for endpoint_slice in local.slices:
        if endpoint_slice.address_type == family:
            yield msgspec.structs.replace(
                endpoint_slice,
                name=f"{endpoint_slice.name}.{pod}" if pod else endpoint_slice.name,
                service_name=name,
                address_type="IPv4",
                headless=False,
                endpoints=tuple(_endpoints(endpoint_slice, pod)),
            )


def _endpoints(endpoint_slice: EndpointSlice, pod: str) -> Iterator[SliceEndpoint]:
    for endpoint in endpoint_slice.endpoints:
        if not pod or pod_label(endpoint) == pod:
            yield msgspec.structs.replace(endpoint, zones=(), nodes=(), node_name="")
