"""Merging the EndpointSlices of a Service into the endpoints of one of its ports.

The rules are those of kube-proxy v1.36 `endpointslicecache.go` (PARITY section 2), made independent
of the order in which slices arrive: slices are taken by name, where kube-proxy walks a Go map.
"""

from collections.abc import Iterable, Sequence

import msgspec

from pyproxy.model.addresses import Family, is_loopback, join_host_port
from pyproxy.model.endpoint import Endpoint, EndpointSlice
from pyproxy.model.service import ServicePort


def merge(
    slices: Iterable[EndpointSlice], port: ServicePort, family: Family, node_name: str
) -> tuple[Endpoint, ...]:
    """Return the endpoints of a Service port in one family, sorted by the text "address:port".

    slices: all of the Service's, in the order of their names. A slice port feeds the Service port
    of the same name and protocol (2.8). The targetPort of the Service is never looked at (1.10).
    """
    merged: dict[str, Endpoint] = {}
    for endpoint_slice in slices:
        if endpoint_slice.address_type != family:
            continue
        for number in _port_numbers(endpoint_slice, port):
            _add(merged, endpoint_slice, number, node_name)
    return tuple(merged[text] for text in sorted(merged))


def count(slices: Sequence[EndpointSlice], port: ServicePort, family: Family) -> tuple[int, int]:
    """Return how many endpoints `merge` finds, and how many of them are ready.

    Of one slice, as nearly every Service has it, in a tenth of the time.
    """
    feeding = [s for s in slices if s.address_type == family for _ in _port_numbers(s, port)]
    if len(feeding) == 1:
        found = feeding[0].endpoints
        if len({endpoint.address for endpoint in found}) == len(found):
            return len(found), sum([endpoint.ready for endpoint in found])
    merged = merge(slices, port, family, "")
    return len(merged), sum(endpoint.ready for endpoint in merged)


def without_loopback(endpoint_slice: EndpointSlice) -> EndpointSlice:
    """Leave out endpoints with loopback addresses, and say so in its problems.

    The API takes none (ValidateEndpointIP), and to kube-proxy's NAT they lead nowhere. A process
    that connects by itself would open the loopback of its node to whoever asks the Service.
    """
    kept = tuple([e for e in endpoint_slice.endpoints if not is_loopback(e.address)])
    if len(kept) == len(endpoint_slice.endpoints):
        return endpoint_slice
    problem = "endpoints.addresses: loopback addresses are no endpoints, and left out"
    problems = (*endpoint_slice.problems, problem)
    return msgspec.structs.replace(endpoint_slice, endpoints=kept, problems=problems)


def _port_numbers(endpoint_slice: EndpointSlice, port: ServicePort) -> Iterable[int]:
    return [
        candidate.port
        for candidate in endpoint_slice.ports
        if candidate.name == port.name and candidate.protocol == port.protocol
    ]


def _add(
    merged: dict[str, Endpoint], endpoint_slice: EndpointSlice, number: int, node_name: str
) -> None:
    for found in endpoint_slice.endpoints:
        text = join_host_port(found.address, number)
        # While a pod moves between slices it stands in two of them. A terminating entry must not
        # hide one that is not; otherwise the later one wins (2.4).
        if found.terminating and text in merged:
            continue
        merged[text] = Endpoint(
            found.address,
            number,
            found.ready,
            found.serving,
            found.terminating,
            bool(node_name) and found.node_name == node_name,  # 2.10
            found.zones,
            found.nodes,
            found.pod,
            found.node_name,
        )
