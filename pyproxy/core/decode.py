"""API objects to model values: JSON bytes, or the plain data that YAML gives.

Raises DecodeError, and nothing else, for an object of the wrong shape: whoever reads drops that
one object. A fault in one element (a port, an address, a range) costs that element only; it is told
in the value's `problems`. Reads as leniently as kube-proxy (PARITY 1.7, 1.14, 2.1 to 2.9).
"""

from collections.abc import Callable
from typing import Any, cast

import msgspec

from pyproxy.core import wire as api
from pyproxy.core.options import ANNOTATION_PREFIX
from pyproxy.errors import DecodeError
from pyproxy.model.addresses import (
    Cidr,
    Family,
    family_of,
    is_link_local,
    is_nobodys,
    parse_address,
    parse_cidr,
)
from pyproxy.model.endpoint import EndpointSlice, SliceEndpoint, SlicePort
from pyproxy.model.events import Object, Resource, ServiceCidr
from pyproxy.model.node import AUTOSCALER_TAINT, ZONE_LABEL, Node
from pyproxy.model.service import (
    HEADLESS_LABEL,
    PROXY_NAME_LABEL,
    SERVICE_NAME_LABEL,
    Protocol,
    Service,
    ServicePort,
)

LAST_CHANGE_ANNOTATION = "endpoints.kubernetes.io/last-change-trigger-time"
DEFAULT_AFFINITY_SECONDS = 10800  # the API's own default for timeoutSeconds
MAX_AFFINITY_SECONDS = 86400


def decode(resource: Resource, data: bytes | msgspec.Raw) -> Object:
    """Decode one JSON object. Raises DecodeError that names the object, the field and the fault."""
    wire, build = _KINDS[resource]
    try:
        return build(wire.decode(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise _decode_error(resource, _name_in_json(data), fault) from fault


def convert(resource: Resource, data: object) -> Object:
    """Make the same of plain data, as a YAML parser gives it. Raises DecodeError likewise."""
    wire, build = _KINDS[resource]
    try:
        return build(msgspec.convert(data, wire.type))
    except (msgspec.ValidationError, RecursionError) as fault:
        raise _decode_error(resource, _name_in_data(data), fault) from fault


def _decode_error(resource: Resource, name: str, fault: Exception) -> DecodeError:
    return DecodeError(f"{resource}: object {name} cannot be read and is left out: {fault}")


def _name_in_json(data: bytes | msgspec.Raw) -> str:
    try:
        return _name_in_data(msgspec.json.decode(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "(unknown name)"


def _name_in_data(data: object) -> str:
    metadata = data.get("metadata") if isinstance(data, dict) else None
    if not isinstance(metadata, dict) or "name" not in metadata:
        return "(unknown name)"
    namespace = metadata.get("namespace")
    return f"{namespace}/{metadata['name']}" if namespace else str(metadata["name"])


def _service(wire: api.Service) -> Service:
    metadata, spec = wire.metadata, wire.spec or api.ServiceSpec()
    problems: list[str] = []
    affinity = None
    if spec.session_affinity == "ClientIP":
        affinity = _affinity_seconds(spec.session_affinity_config, problems)
    return Service(
        namespace=metadata.namespace or "default",
        name=metadata.name,
        type=spec.type or "",
        cluster_ip=spec.cluster_ip or "",
        cluster_ips=_cluster_ips(spec, problems),
        ports=_service_ports(spec.ports or (), problems),
        external_ips=_addresses("spec.externalIPs", spec.external_ips or (), problems),
        load_balancer_ips=_ingress_ips(wire.status, {None, "", "VIP"}, problems),
        uncaptured_ips=_ingress_ips(wire.status, {"Proxy"}, []),
        source_ranges=_source_ranges(spec.load_balancer_source_ranges or (), problems),
        internal_local=spec.internal_traffic_policy == "Local",
        external_local=_is_external_local(spec),
        affinity_seconds=affinity,
        health_check_node_port=spec.health_check_node_port or 0,
        external_name=spec.external_name or "",
        proxy_name=(metadata.labels or {}).get(PROXY_NAME_LABEL),
        annotations={
            key: value
            for key, value in (metadata.annotations or {}).items()
            if key.startswith(ANNOTATION_PREFIX)
        },
        created=metadata.creation_timestamp or "",
        uid=metadata.uid or "",
        problems=tuple(problems),
    )


def _cluster_ips(spec: api.ServiceSpec, problems: list[str]) -> dict[Family, str]:
    """The ClusterIP of each family (PARITY 1.7): ipFamilies says which of clusterIPs is whose."""
    if spec.cluster_ip in {"", None, "None"}:
        return {}
    written = [spec.cluster_ip or ""]
    families = None
    if spec.ip_families:
        families = spec.ip_families
        written = (spec.cluster_ips or [])[: len(families)]
    found: dict[Family, str] = {}
    for index, text in enumerate(written):
        try:
            address = parse_address(text)
        except ValueError as fault:
            problems.append(f"spec.clusterIPs: {fault}")
            continue
        family = family_of(address)
        if families is not None and families[index] != family:
            problems.append(f"spec.clusterIPs: {text!r} is not of the family {families[index]}")
            continue
        found.setdefault(family, address)
    return found


def _service_ports(
    wires: list[api.ServicePort] | tuple[()], problems: list[str]
) -> tuple[ServicePort, ...]:
    ports: dict[tuple[str, str], ServicePort] = {}
    for wire in wires:
        protocol = _protocol(wire.protocol)
        if protocol is None:
            problems.append(f"spec.ports: protocol {wire.protocol!r} is not TCP, UDP or SCTP")
        elif not 1 <= wire.port <= 65535:
            problems.append(f"spec.ports: port {wire.port} is not within 1 to 65535")
        elif not 0 <= (wire.node_port or 0) <= 65535:
            problems.append(f"spec.ports: nodePort {wire.node_port} is not within 1 to 65535")
        else:
            # A duplicate key overwrites (1.8).
            port = ServicePort(wire.name or "", protocol, wire.port, wire.node_port or 0)
            ports[port.name, protocol] = port
    return tuple(ports.values())


def _protocol(text: str | None) -> Protocol | None:
    if text is None or text == "":
        return "TCP"  # the API's default; kube-proxy relies on it without a check (2.7)
    return cast(Protocol, text) if text in {"TCP", "UDP", "SCTP"} else None


def _addresses(field: str, texts: list[str] | tuple[()], problems: list[str]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for text in texts:
        stripped = text.strip()
        if stripped:  # blank ones go silently (4.2)
            try:
                address = parse_address(stripped)
            except ValueError as fault:
                problems.append(f"{field}: {fault}")
                continue
            if is_nobodys(address):  # to listen at 0.0.0.0 is to listen everywhere
                problems.append(f"{field}: {address} is no host's address, and left out")
            else:
                found[address] = None
    return tuple(found)


def _ingress_ips(
    status: api.ServiceStatus | None, modes: set[str | None], problems: list[str]
) -> tuple[str, ...]:
    """The load balancer's IPs of some modes; VIP, which is the default, is captured (4.3)."""
    if status is None or status.load_balancer is None:
        return ()
    ingress = status.load_balancer.ingress or []
    texts = [entry.ip or "" for entry in ingress if entry.ip_mode in modes]
    return _addresses("status.loadBalancer.ingress", texts, problems)


def _source_ranges(texts: list[str] | tuple[()], problems: list[str]) -> tuple[Cidr, ...]:
    """The ranges of both families; a /0 opens its whole family (7.4, 7.5)."""
    found: dict[Cidr, None] = {}
    stripped = [text.strip() for text in texts]
    for text in filter(None, stripped):
        try:
            found[parse_cidr(text)] = None
        except ValueError as fault:
            problems.append(f"spec.loadBalancerSourceRanges: {fault}")
    if any(stripped) and not found:  # 7.6: by kube-proxy's design, but nobody expects it
        problems.append("spec.loadBalancerSourceRanges: no usable range is left: ALL are allowed")
    opened = {cidr.family for cidr in found if cidr.prefix == 0}
    return tuple(cidr for cidr in found if cidr.family not in opened)


def _is_external_local(spec: api.ServiceSpec) -> bool:
    """Policy Local counts only where the Service can be reached from outside by its type (3.8)."""
    is_external = spec.type in {"LoadBalancer", "NodePort"} or (
        spec.type == "ClusterIP" and bool(spec.external_ips)
    )
    return is_external and spec.external_traffic_policy == "Local"


def _affinity_seconds(config: api.AffinityConfig | None, problems: list[str]) -> int:
    client_ip = config.client_ip if config else None
    seconds = client_ip.timeout_seconds if client_ip else None
    if seconds is None:
        return DEFAULT_AFFINITY_SECONDS
    if not 1 <= seconds <= MAX_AFFINITY_SECONDS:
        problems.append(
            f"spec.sessionAffinityConfig.clientIP.timeoutSeconds: {seconds} is not within 1 to"
            f" {MAX_AFFINITY_SECONDS}; {DEFAULT_AFFINITY_SECONDS} is used"
        )
        return DEFAULT_AFFINITY_SECONDS
    return seconds


def _endpoint_slice(wire: api.EndpointSlice) -> EndpointSlice:
    metadata = wire.metadata
    labels = metadata.labels or {}
    problems: list[str] = []
    return EndpointSlice(
        namespace=metadata.namespace or "default",
        name=metadata.name,
        service_name=labels.get(SERVICE_NAME_LABEL, ""),
        address_type=wire.address_type,
        endpoints=_slice_endpoints(wire, problems) if wire.address_type != "FQDN" else (),
        ports=_slice_ports(wire.ports or (), problems),
        headless=HEADLESS_LABEL in labels,
        last_change=(metadata.annotations or {}).get(LAST_CHANGE_ANNOTATION, ""),
        problems=tuple(problems),
    )


def _slice_endpoints(wire: api.EndpointSlice, problems: list[str]) -> tuple[SliceEndpoint, ...]:
    found = []
    for endpoint in wire.endpoints or ():
        if not endpoint.addresses:
            continue  # the rest of the slice still counts (2.5)
        try:
            address = parse_address(endpoint.addresses[0])
        except ValueError as fault:
            problems.append(f"endpoints.addresses: {fault}")
            continue
        if family_of(address) != wire.address_type:
            problems.append(f"endpoints.addresses: {address!r} is not {wire.address_type}")
            continue
        if is_nobodys(address) or is_link_local(address):  # the API takes neither
            problems.append(f"endpoints.addresses: {address} is no endpoint's, and left out")
            continue
        found.append(_slice_endpoint(endpoint, address))
    return tuple(found)


def _slice_endpoint(wire: api.Endpoint, address: str) -> SliceEndpoint:
    conditions, hints, target = wire.conditions, wire.hints, wire.target_ref
    return SliceEndpoint(
        address,
        # A missing condition is true, true and false; serving does not follow ready (2.9).
        conditions is None or conditions.ready is not False,
        conditions is None or conditions.serving is not False,
        conditions is not None and conditions.terminating is True,
        wire.node_name or "",
        tuple(hint.name for hint in hints.for_zones or ()) if hints else (),
        tuple(hint.name for hint in hints.for_nodes or ()) if hints else (),
        (target.name or "") if target and target.kind == "Pod" else "",
    )


def _slice_ports(
    wires: list[api.EndpointPort] | tuple[()], problems: list[str]
) -> tuple[SlicePort, ...]:
    ports = []
    for wire in wires:
        if wire.name is None or not wire.port:
            continue  # no name: ignored; no number means all ports, which nobody implements (2.6)
        protocol = _protocol(wire.protocol)
        if protocol is None:
            problems.append(f"ports: protocol {wire.protocol!r} is not TCP, UDP or SCTP")
        elif not 1 <= wire.port <= 65535:
            problems.append(f"ports: port {wire.port} is not within 1 to 65535")
        else:
            ports.append(SlicePort(wire.name, protocol, wire.port))
    return tuple(ports)


def _node(wire: api.Node) -> Node:
    metadata, spec = wire.metadata, wire.spec or api.NodeSpec()
    listed = (wire.status.addresses if wire.status else None) or []
    texts = [a.address for kind in ("InternalIP", "ExternalIP") for a in listed if a.type == kind]
    taints = {taint.key for taint in spec.taints or ()}
    return Node(
        name=metadata.name,
        zone=(metadata.labels or {}).get(ZONE_LABEL, ""),
        addresses=_addresses("status.addresses", texts, []),
        pod_cidrs=_cidrs(spec.pod_cidrs or ([spec.pod_cidr] if spec.pod_cidr else [])),
        is_eligible=metadata.deletion_timestamp is None and AUTOSCALER_TAINT not in taints,
        uid=metadata.uid or "",
    )


def _service_cidr(wire: api.ServiceCidr) -> ServiceCidr:
    return ServiceCidr(wire.metadata.name, _cidrs((wire.spec and wire.spec.cidrs) or []))


def _cidrs(texts: list[str]) -> tuple[Cidr, ...]:
    found = []
    for text in texts:
        try:
            found.append(parse_cidr(text))
        except ValueError:
            continue  # the API server validated them; a stray one must not cost the rest
    return tuple(found)


_KINDS: dict[Resource, tuple[msgspec.json.Decoder[Any], Callable[[Any], Object]]] = {
    "services": (msgspec.json.Decoder(api.Service), _service),
    "endpointslices": (msgspec.json.Decoder(api.EndpointSlice), _endpoint_slice),
    "nodes": (msgspec.json.Decoder(api.Node), _node),
    "servicecidrs": (msgspec.json.Decoder(api.ServiceCidr), _service_cidr),
}
