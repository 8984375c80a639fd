"""Explaining a decision: the rules that forward, told as a diagnosis.

There are no rules here. The table and `decide` give the verdict; the checks say in order what was
looked at, and stop at the first that fails, with one line on how to mend it.
"""

from pyproxy.core import unserved
from pyproxy.core.decision import decide, is_node, is_pod, uses_local
from pyproxy.core.explanation import Check, Explanation, Reason, ref
from pyproxy.core.near import near
from pyproxy.core.options import written
from pyproxy.core.selection import why_not_proxied
from pyproxy.core.slices import merge
from pyproxy.core.source_address import KEPT, SourceAddress, source_address
from pyproxy.core.store import Store
from pyproxy.core.target import AddressTarget, NameTarget, Target
from pyproxy.core.topology import topology_of
from pyproxy.model.endpoint import Endpoint, EndpointSlice
from pyproxy.model.node import NodeView
from pyproxy.model.service import Service, ServiceName, ServicePort, ServicePortName
from pyproxy.model.table import Backend, Frontend


def explain(store: Store, target: Target) -> Explanation:
    """Return what happens to a new connection to the target, from the objects in the store."""
    if isinstance(target, NameTarget):
        return _explain_name(store, target)
    frontend = store.table().frontends.get((target.address, target.port, target.protocol))
    if frontend is None:
        return unserved.explain_unserved(store, target)
    return _explain_frontend(store, frontend, target)


def _explain_frontend(store: Store, frontend: Frontend, target: AddressTarget) -> Explanation:
    node, backend = store.table().node, frontend.backend
    decision = decide(frontend, target.client, node)
    checks = [_address_check(store, frontend), _source_range_check(frontend, target.client)]
    reason: Reason = decision.reason
    if decision.reason == "SourceNotAllowed":
        checks[1] = _source_not_allowed(frontend, target.client)
    elif decision.reason == "NoReadyEndpoint":
        reason, failed = _why_no_endpoint(store, backend)
        checks.append(failed)
    else:
        checks.append(_readiness_check(store, backend))
        checks += _policy_checks(frontend, target.client, node, decision.endpoints)
    is_forwarded = decision.action == "forward"
    sources = {_source_address(frontend, target.client, e, node).source for e in decision.endpoints}
    if is_forwarded:
        checks.append(Check("Options", ok=True, detail=", ".join(written(backend.options))))
        checks.append(_source_check(frontend, target.client, node, decision.endpoints))
    return Explanation(
        target=unserved.target_json(target),
        service=ref(backend.name),
        frontend=frontend.kind,
        action=decision.action,
        endpoints=tuple(sorted(str(endpoint) for endpoint in decision.endpoints)),
        # "node" if any endpoint sees the node: a hairpin among several endpoints is one such.
        source=("node" if "node" in sources else "client") if is_forwarded else None,
        affinity_seconds=backend.affinity_seconds,
        reason=reason,
        checks=tuple(check for check in checks if check.detail),
    )


def _address_check(store: Store, frontend: Frontend) -> Check:
    name = frontend.backend.name
    kind = unserved.KIND_NAMES[frontend.kind]
    detail = f"{frontend} is {kind} of Service {name.service}, port {name.port or '(unnamed)'}"
    others = {str(rival.backend.name) for rival in store.rivals(frontend.key)} - {str(name)}
    if others:
        detail += f"; {', '.join(sorted(others))} also claims it and is not reached here"
    return Check("Address", ok=True, detail=detail)


def _source_range_check(frontend: Frontend, client: str) -> Check:
    ranges = frontend.backend.source_ranges
    if frontend.kind != "LoadBalancer" or not ranges:
        return Check("SourceRanges", ok=True, detail="")
    listed = ", ".join(map(str, ranges))
    if not client:
        return Check("SourceRanges", ok=True, detail=f"only clients of {listed} are let in")
    return Check("SourceRanges", ok=True, detail=f"{client} is let in by {listed}")


def _source_not_allowed(frontend: Frontend, client: str) -> Check:
    listed = ", ".join(map(str, frontend.backend.source_ranges))
    return Check(
        "SourceRanges",
        ok=False,
        detail=f"{client} is not in spec.loadBalancerSourceRanges ({listed})",
        fix=f"add a range that holds {client} to spec.loadBalancerSourceRanges",
    )


def _slices(store: Store, backend: Backend) -> tuple[EndpointSlice, ...]:
    slices = store.slices_of(backend.name.service)
    return tuple(s for s in slices if s.address_type == backend.family)


def _endpoints(store: Store, backend: Backend) -> tuple[Endpoint, ...]:
    """Every endpoint of the Service port, usable or not."""
    port = ServicePort(backend.name.port, backend.name.protocol, 0)  # its number is never looked at
    return merge(_slices(store, backend), port, backend.family, store.table().node.name)


def _why_no_endpoint(store: Store, backend: Backend) -> tuple[Reason, Check]:
    """Find the first reason for which a Service port has nothing usable anywhere."""
    name = backend.name
    label = f"-l kubernetes.io/service-name={name.name}"
    slices = _slices(store, backend)
    if not slices:
        return "NoEndpointSlice", Check(
            "EndpointSlices",
            ok=False,
            detail=f"no {backend.family} EndpointSlice belongs to Service {name.service}",
            fix=f"a Service without a selector needs one made by hand; look with:"
            f" kubectl -n {name.namespace} get endpointslices {label}",
        )
    if not any(s.endpoints for s in slices):
        left_out = [problem for s in slices for problem in s.problems]
        why = "; ".join(left_out) or "no pod matches the Service's selector"
        return "NoEndpoint", Check(
            "Endpoints",
            ok=False,
            detail=f"the EndpointSlices hold no endpoint: {why}",
            fix=f"compare: kubectl -n {name.namespace} get service {name.name} -o wide;"
            f" kubectl -n {name.namespace} get pods --show-labels",
        )
    ports: set[tuple[str, str]] = {
        (p.name, p.protocol) for s in slices if s.endpoints for p in s.ports
    }
    if (name.port, name.protocol) not in ports:
        return _port_mismatch(name, ports)
    return "NoReadyEndpoint", Check(
        "Readiness",
        ok=False,
        detail="no endpoint is ready, and none is serving while it terminates: "
        + _condition_counts(_endpoints(store, backend)),
        fix=f"see why the pods are not Ready: kubectl -n {name.namespace} get pods -o wide",
    )


def _port_mismatch(name: ServicePortName, ports: set[tuple[str, str]]) -> tuple[Reason, Check]:
    found = ", ".join(sorted(f"{port or '(unnamed)'}/{protocol}" for port, protocol in ports))
    is_protocol = any(port == name.port for port, _ in ports)
    what = "protocol" if is_protocol else "name"
    check = Check(
        "PortName",
        ok=False,
        detail=f"the Service port is {name.port or '(unnamed)'}/{name.protocol}, but the"
        f" EndpointSlices have {found or 'no port'}",
        fix=f"give both the same port {what}; a named targetPort must exist in the pods",
    )
    return ("PortProtocolMismatch" if is_protocol else "PortNameMismatch"), check


def _condition_counts(endpoints: tuple[Endpoint, ...]) -> str:
    leaving = sum(e.terminating for e in endpoints)
    return f"{len(endpoints)} not ready, {leaving} of them terminating"


def _readiness_check(store: Store, backend: Backend) -> Check:
    endpoints = _endpoints(store, backend)
    ready = sum(e.ready for e in endpoints)
    leaving = sum(not e.ready and e.serving and e.terminating for e in endpoints)
    detail = f"{ready} of {len(endpoints)} endpoints are ready"
    if leaving:
        detail += f", {leaving} more serve while they terminate"
    if not ready:
        detail += "; with none ready, those are used"
    return Check("Readiness", ok=True, detail=detail)


def _policy_checks(
    frontend: Frontend, client: str, node: NodeView, endpoints: tuple[Endpoint, ...]
) -> list[Check]:
    side = "internal" if frontend.kind == "ClusterIP" else "external"
    if not uses_local(frontend, client, node):
        return [_cluster_check(frontend, client, node, side, endpoints)]
    if endpoints:
        detail = f"{side}TrafficPolicy Local: {_count(endpoints)} on node {node.name}"
        return [Check("TrafficPolicy", ok=True, detail=detail)]
    return [
        Check(
            "TrafficPolicy",
            ok=False,
            detail=f"{side}TrafficPolicy is Local and no usable endpoint runs on node"
            f" {node.name or '(name unknown: give --node)'}",
            fix=f"run a pod on this node, or set spec.{side}TrafficPolicy to Cluster",
        )
    ]


def _cluster_check(
    frontend: Frontend, client: str, node: NodeView, side: str, endpoints: tuple[Endpoint, ...]
) -> Check:
    detail = f"{side}TrafficPolicy Cluster"
    if side == "external" and frontend.backend.external_local:
        who = "a pod" if is_pod(client, node) else "this node"
        detail = f"externalTrafficPolicy is Local, but {client} is {who}: every endpoint counts"
    topology = topology_of(tuple(e for e in endpoints if e.ready), node.name, node.zone)
    if topology == "same-node":
        detail += f"; node hints keep it on node {node.name}"
    elif topology == "same-zone":
        detail += f"; zone hints keep it in zone {node.zone}"
    return Check("TrafficPolicy", ok=True, detail=f"{detail}: {_count(endpoints)}")


def _source_check(
    frontend: Frontend, client: str, node: NodeView, endpoints: tuple[Endpoint, ...]
) -> Check:
    found = {str(e): _source_address(frontend, client, e, node) for e in endpoints}
    as_node = {text: at.reason for text, at in found.items() if at.source == "node"}
    if not as_node:
        return Check("Source", ok=True, detail="the endpoint sees the client's own address")
    reasons = set(as_node.values())
    if len(as_node) < len(endpoints) or len(reasons) > 1:
        told = [f"{text} {_WHY_NODE.get(reason, reason)}" for text, reason in as_node.items()]
        detail = f"{', '.join(told)} and sees the node's address"
        return Check("Source", ok=True, detail=f"{detail}; other endpoints see the client's")
    reason = reasons.pop()
    if reason == "masqueraded":
        why = _why_masqueraded(frontend, client, node)
    else:
        why = f"the endpoint {_WHY_NODE[reason]}"
    return Check("Source", ok=True, detail=f"the endpoint sees the node's address: {why}")


_WHY_NODE: dict[str, str] = {
    "masqueraded": "is the client itself",  # the one endpoint for which section 8 differs
    "endpoint_is_node": "is the node itself",
    "families_differ": "has no use for an address of the other family",
    "reply_passes_elsewhere": "would reply past this node",
}


def _why_masqueraded(frontend: Frontend, client: str, node: NodeView) -> str:
    if frontend.kind != "ClusterIP" and not frontend.backend.external_local:
        return "externalTrafficPolicy is Cluster"
    if frontend.kind == "ClusterIP" and node.masquerade_all:
        return "masqueradeAll is set"
    if is_node(client, node):
        return f"{client} is this node"
    if frontend.kind == "ClusterIP" and not is_pod(client, node):
        return f"{client} is no pod"
    return "the client is the endpoint itself"


def _source_address(
    frontend: Frontend, client: str, endpoint: Endpoint, node: NodeView
) -> SourceAddress:
    """What forwarding does, as far as it can be told from the objects alone.

    Whether a client that is no pod, or of a node whose podCIDRs are not known, is routed to this
    node is not in them; then kube-proxy's rule stands (8.5: a hairpin is local). And the node's own
    address is the node's.
    """
    found = source_address(frontend, client, endpoint, node)
    is_known = bool(node.pod_cidrs) and is_pod(client, node)
    if found.reason in {"client_is_node", "client_is_endpoint"}:
        return KEPT
    if found.reason == "reply_passes_elsewhere" and not is_known:
        return KEPT
    return found


def _count(endpoints: tuple[Endpoint, ...]) -> str:
    return "1 endpoint" if len(endpoints) == 1 else f"{len(endpoints)} endpoints"


def _explain_name(store: Store, target: NameTarget) -> Explanation:
    service = store.services().get((target.namespace, target.name))
    if service is None:
        return _answer(target, "NoSuchService", _no_such_service(store, target))
    why = why_not_proxied(service, store.config.proxy_name)
    if why is not None:
        return _answer(target, why, unserved.not_proxied_check(service, why))
    name = ServiceName(target.namespace, target.name)
    frontends = [f for f in store.frontends_of(name) if _is_asked(target, service, f)]
    if not frontends:
        reason, check = _no_frontend(service, target)
        return _answer(target, reason, check)
    answers = tuple(_explain_claim(store, frontend, target.client) for frontend in frontends)
    # The headline is the first address that does not work; else the first, the ClusterIP.
    chosen = next((a for a in answers if a.action != "forward"), answers[0])
    return Explanation(
        target=unserved.target_json(target),
        service=ref(frontends[answers.index(chosen)].backend.name),
        frontend=chosen.frontend,
        action=chosen.action,
        endpoints=tuple(sorted({endpoint for a in answers for endpoint in a.endpoints})),
        source=chosen.source,
        affinity_seconds=service.affinity_seconds,
        reason=chosen.reason,
        checks=chosen.checks,
        frontends=answers,
    )


def _explain_claim(store: Store, frontend: Frontend, client: str) -> Explanation:
    target = AddressTarget(frontend.address, frontend.port, frontend.protocol, client)
    holder = store.table().frontends[frontend.key]
    if holder.backend.name.service == frontend.backend.name.service:
        return _explain_frontend(store, holder, target)
    check = Check(
        "Address",
        ok=False,
        detail=f"{frontend} is held by Service {holder.backend.name}, which came first",
        fix="give each Service an address or a port of its own",
    )
    return Explanation(
        target=unserved.target_json(target),
        service=ref(frontend.backend.name),
        frontend=frontend.kind,
        action="none",
        reason="AddressContested",
        checks=(check,),
    )


def _is_asked(target: NameTarget, service: Service, frontend: Frontend) -> bool:
    name = frontend.backend.name
    numbers = {str(p.port) for p in service.ports if p.name == name.port}
    return not target.port or target.port == name.port or target.port in numbers


def _no_frontend(service: Service, target: NameTarget) -> tuple[Reason, Check]:
    if any(target.port in {"", port.name, str(port.port)} for port in service.ports):
        return "ProtocolNotSupported", unserved.sctp_check(f"Service {target}")
    ports = ", ".join(f"{p.name or '(unnamed)'} {p.port}/{p.protocol}" for p in service.ports)
    return "UnknownPort", Check(
        "Port",
        ok=False,
        detail=f"Service {service.key} has no port {target.port}; it has {ports}"
        if ports
        else f"Service {service.key} has no ports",
        fix="ask for one of these, by name or by number" if ports else "give it one in spec.ports",
    )


def _no_such_service(store: Store, target: NameTarget) -> Check:
    asked = f"{target.namespace}/{target.name}"
    found = near(target.namespace, target.name, store.services())
    fix = f"did you mean {', '.join(found)}?" if found else "create it, or check its name"
    return Check("Service", ok=False, detail=f"there is no Service {asked}", fix=fix)


def _answer(target: NameTarget, reason: Reason, check: Check) -> Explanation:
    return Explanation(
        target=unserved.target_json(target), action="none", reason=reason, checks=(check,)
    )
