"""Which parts of a Service get a local address of their own, and with which ports.

A Service gets one; a headless Service gets one for each of its ready pods, because clients of it
pick their pod by name; an ExternalName Service is a name only and gets none.
"""

import re
from typing import Literal, NamedTuple

import msgspec

from pyproxy.model.endpoint import EndpointSlice, SliceEndpoint
from pyproxy.model.service import Protocol, Service, ServicePort

Kind = Literal["ClusterIP", "Headless", "ExternalName"]

# RFC 1123 2.1. A pod's name may be longer and have dots; then it is no label, and no host name.
LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


class Claimant(NamedTuple):
    """Who has a local address: a Service of a context, or one pod of it when `pod` is not "".

    A plain tuple inside: it sorts the same way everywhere.
    """

    context: str
    namespace: str
    name: str
    pod: str = ""

    @property
    def service(self) -> "Claimant":
        """The Service itself."""
        return self._replace(pod="")

    def __str__(self) -> str:
        name = f"{self.namespace}/{self.name}"
        return f"{name}/{self.pod}" if self.pod else name


class LocalService(msgspec.Struct, frozen=True, kw_only=True):
    """A Service as it is brought to this machine.

    context: of the kubeconfig, "" without one. slices: every EndpointSlice of the Service; unlike
    in a proxy, those of headless Services count.
    """

    context: str = ""
    service: Service
    slices: tuple[EndpointSlice, ...] = ()

    @property
    def claimant(self) -> Claimant:
        """The Service's own key."""
        return Claimant(self.context, self.service.namespace, self.service.name)

    @property
    def kind(self) -> Kind:
        """What it is to its clients. Without a ClusterIP yet, it is about to get one."""
        if self.service.type == "ExternalName":
            return "ExternalName"
        return "Headless" if self.service.cluster_ip == "None" else "ClusterIP"

    @property
    def ready_count(self) -> int:
        """How many endpoints are ready; a pod with an address of each family is one."""
        return len(
            {
                endpoint.pod or endpoint.address
                for endpoint_slice in self.slices
                for endpoint in endpoint_slice.endpoints
                if endpoint.ready
            }
        )


class Wanted(msgspec.Struct, frozen=True):
    """A claimant, the ports that it should have, and for a pod the addresses that the pod has."""

    claimant: Claimant
    ports: tuple[ServicePort, ...]
    pod_addresses: tuple[str, ...] = ()


def wanted_of(
    local: LocalService, protocols: frozenset[Protocol] = frozenset({"TCP", "UDP"})
) -> tuple[Wanted, ...]:
    """Return what a Service wants local addresses for. Ports of other protocols are left out."""
    if local.kind == "ExternalName":
        return ()
    if local.kind == "Headless":
        return _pods_of(local, protocols)
    ports = tuple(port for port in local.service.ports if port.protocol in protocols)
    return (Wanted(local.claimant, ports),)


def _pods_of(local: LocalService, protocols: frozenset[Protocol]) -> tuple[Wanted, ...]:
    """The ready pods of a headless Service.

    Their ports are those of the slices: what answers for a headless Service is the pod itself, at
    its target port. A pod with two families of addresses stands in two slices.
    """
    ports: dict[str, dict[tuple[str, Protocol], ServicePort]] = {}
    addresses: dict[str, set[str]] = {}
    for endpoint_slice in sorted(local.slices, key=lambda s: s.name):
        found = [
            ServicePort(port.name, port.protocol, port.port)
            for port in endpoint_slice.ports
            if port.protocol in protocols
        ]
        for endpoint in endpoint_slice.endpoints:
            if endpoint.ready:
                name = pod_label(endpoint)
                addresses.setdefault(name, set()).add(endpoint.address)
                ports.setdefault(name, {}).update({(p.name, p.protocol): p for p in found})
    return tuple(
        Wanted(
            local.claimant._replace(pod=name),
            tuple(ports[name].values()),
            tuple(sorted(addresses[name])),
        )
        for name in sorted(ports)
    )


def pod_label(endpoint: SliceEndpoint) -> str:
    """Return the name of an endpoint in DNS: the pod's, else its address with dashes.

    A pod of a StatefulSet has its own name as its hostname; for the others CoreDNS has the address
    (coredns plugin/kubernetes `object/endpoint.go`, `endpointHostname`).
    """
    if LABEL.fullmatch(endpoint.pod):
        return endpoint.pod
    return endpoint.address.replace(".", "-").replace(":", "-").strip("-")
