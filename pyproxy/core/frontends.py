"""The frontends of one Service: which address:port it claims, and the backend behind each.

Values of one Service and one node in, frontends out (PARITY sections 1, 4, 6). Who wins when two
Services claim the same address:port is for the store to settle.
"""

from collections.abc import Iterator

from pyproxy.core.slices import merge
from pyproxy.core.topology import categorize
from pyproxy.model.addresses import FAMILIES, Cidr, Family, family_of
from pyproxy.model.endpoint import EndpointSlice
from pyproxy.model.node import NodeView
from pyproxy.model.options import ServiceOptions
from pyproxy.model.service import Service, ServicePort, ServicePortName
from pyproxy.model.table import Backend, Frontend, FrontendKind


def backends_of(
    service: Service,
    slices: tuple[EndpointSlice, ...],
    node: NodeView,
    options: ServiceOptions,
) -> Iterator[tuple[ServicePort, Backend]]:
    """Yield each port of a proxied Service with its backend, family by family.

    slices: the Service's, in the order of their names. options: the Service's too. SCTP ports have
    no backend: this is a proxy for TCP and UDP.
    """
    for family in FAMILIES:
        if family not in service.cluster_ips:
            continue  # not proxied in this family, external addresses neither (1.7)
        for port in service.ports:
            if port.protocol != "SCTP":
                yield port, _backend(service, port, family, slices, node, options)


def _backend(
    service: Service,
    port: ServicePort,
    family: Family,
    slices: tuple[EndpointSlice, ...],
    node: NodeView,
    options: ServiceOptions,
) -> Backend:
    endpoints = merge(slices, port, family, node.name)
    load_balancer_ips = _of_family(service.load_balancer_ips, family)
    is_external = bool(
        port.node_port or load_balancer_ips or _of_family(service.external_ips, family)
    )
    usable = categorize(
        endpoints,
        uses_cluster=is_external or not service.internal_local,  # 3.2
        uses_local=service.internal_local or (service.external_local and is_external),
        node_name=node.name,
        zone=node.zone,
    )
    return Backend(
        name=ServicePortName(service.namespace, service.name, port.name, port.protocol),
        family=family,
        cluster=usable.cluster,
        local=usable.local,
        has_any=usable.has_any,
        serving=frozenset([(e.address, e.port) for e in endpoints if e.serving]),
        internal_local=service.internal_local,
        external_local=service.external_local,
        affinity_seconds=service.affinity_seconds,
        source_ranges=_ranges_of_family(service.source_ranges, family),
        load_balancer_ips=load_balancer_ips,
        options=options,
    )


def frontends_of(
    service: Service, port: ServicePort, backend: Backend, node: NodeView
) -> Iterator[Frontend]:
    """Yield every address:port that leads to a backend (section 4).

    Where one address is both a load-balancer IP and an external IP, the former comes last and so
    replaces the latter in a table: its source ranges must hold.
    """
    family, protocol = backend.family, port.protocol
    claims: list[tuple[FrontendKind, tuple[str, ...]]] = [
        ("ClusterIP", (service.cluster_ips[family],)),
        ("ExternalIP", _of_family(service.external_ips, family)),
        ("LoadBalancer", backend.load_balancer_ips),
    ]
    for kind, addresses in claims:
        for address in addresses:
            yield Frontend(address, port.port, protocol, kind, backend)
    if port.node_port:  # honoured whatever spec.type says (4.5)
        for address in _of_family(node.node_port_addresses, family):
            yield Frontend(address, port.node_port, protocol, "NodePort", backend)


def _of_family(addresses: tuple[str, ...], family: Family) -> tuple[str, ...]:
    return tuple([address for address in addresses if family_of(address) == family])


def _ranges_of_family(cidrs: tuple[Cidr, ...], family: Family) -> tuple[Cidr, ...]:
    return tuple([cidr for cidr in cidrs if cidr.family == family])
