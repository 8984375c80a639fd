"""Explaining an address:port that no frontend serves: whose it might be, and what happens to it."""

import contextlib
from collections.abc import Iterator
from typing import Any

from pyproxy.core.explanation import Check, Explanation, Reason
from pyproxy.core.selection import NotProxied, why_not_proxied
from pyproxy.core.store import Store
from pyproxy.core.target import AddressTarget, Target
from pyproxy.model.addresses import Family, family_of, parse_address
from pyproxy.model.service import Service
from pyproxy.model.table import Action, FrontendKind

KIND_NAMES: dict[FrontendKind, str] = {
    "ClusterIP": "the ClusterIP",
    "NodePort": "a node port",
    "ExternalIP": "an external IP",
    "LoadBalancer": "a load-balancer IP",
}

_HOW_TO_PROXY: dict[NotProxied, tuple[str, str]] = {
    "ExternalName": (
        "is of type ExternalName: the cluster's DNS answers its name with a CNAME, and clients"
        " connect to that by themselves; there is nothing to proxy",
        "use the name, or give the Service another type",
    ),
    "Headless": (
        "is headless (clusterIP: None): the cluster's DNS answers with the pods' own addresses",
        "connect to the pods by name, or make a Service with a ClusterIP",
    ),
    "OtherProxy": (
        "is left to another proxy by the label service.kubernetes.io/service-proxy-name",
        "remove the label, or start pyproxy with --service-proxy-name and its value",
    ),
    "NoClusterIP": (
        "has no ClusterIP yet",
        "wait for the control plane to give it one; in a manifest, set spec.clusterIP",
    ),
}


def target_json(target: Target) -> dict[str, Any]:
    """The target in the JSON form."""
    if isinstance(target, AddressTarget):
        return {"address": target.address, "port": target.port, "protocol": target.protocol}
    return {"namespace": target.namespace, "name": target.name, "port": target.port or None}


def explain_unserved(store: Store, target: AddressTarget) -> Explanation:
    """Say what happens to a packet to an address:port that no frontend serves."""
    action, reason, check = _verdict(store, target)
    return Explanation(target=target_json(target), action=action, reason=reason, checks=(check,))


def _verdict(store: Store, target: AddressTarget) -> tuple[Action, Reason, Check]:
    table = store.table()
    owner = table.cluster_ips.get(target.address)
    if owner is not None:  # 5.5: a ClusterIP's other ports are refused
        return "reject", *_wrong_port(store.services()[owner], target)
    is_drop = any(target.address in cidr for cidr in table.service_cidrs)
    beyond: Action = "drop" if is_drop else "none"
    for service, why in _not_proxied(store):
        if target.address in _addresses_of(service):
            return beyond, why, not_proxied_check(service, why)
    for service in store.services().values():
        if target.address in service.uncaptured_ips:
            return beyond, "NotCaptured", _uncaptured_check(service, target)
        if target.address in (*service.load_balancer_ips, *service.external_ips):
            return beyond, *_wrong_port(service, target)  # 5.8: left alone
    if is_drop:
        return "drop", "UnallocatedAddress", _unallocated_check(target)
    return "none", *_node_port(store, target)


def _not_proxied(store: Store) -> Iterator[tuple[Service, NotProxied]]:
    for service in store.services().values():
        why = why_not_proxied(service, store.config.proxy_name)
        if why is not None:
            yield service, why


def _addresses_of(service: Service) -> set[str]:
    addresses = {*service.cluster_ips.values(), *service.external_ips, *service.load_balancer_ips}
    with contextlib.suppress(ValueError):  # "", "None", or what the problems tell of
        addresses.add(parse_address(service.cluster_ip))
    return addresses


def not_proxied_check(service: Service, why: NotProxied) -> Check:
    """Say why a Service is not proxied, and what to do about it."""
    text, fix = _HOW_TO_PROXY[why]
    if why == "ExternalName" and service.external_name:
        fix = f"use the name; it stands for {service.external_name}"
    if why == "NoClusterIP" and service.cluster_ip:
        text = f"has clusterIP {service.cluster_ip!r}, which is no address, or not in clusterIPs"
        fix = "mend spec.clusterIP; where ipFamilies is set, clusterIPs must name it too"
    return Check("Type", ok=False, detail=f"Service {service.key} {text}", fix=fix)


def _wrong_port(service: Service, target: AddressTarget) -> tuple[Reason, Check]:
    family = family_of(target.address)
    if family not in service.cluster_ips:  # 1.7
        what = f"{target.address} is of Service {service.key}"
        return "AddressNotServed", _family_check(what, family)
    protocols = {port.protocol for port in service.ports if port.port == target.port}
    if target.protocol in protocols:  # it is a port of the Service, and yet not served
        return "ProtocolNotSupported", sctp_check(str(target))
    if protocols:
        found = " and ".join(sorted(protocols))
        return "ProtocolMismatch", Check(
            "Protocol",
            ok=False,
            detail=f"port {target.port} of Service {service.key} is {found}, not {target.protocol}",
            fix=f"connect by {found}, or add a {target.protocol} port to the Service",
        )
    ports = ", ".join(f"{port.port}/{port.protocol}" for port in service.ports) or "none"
    return "UnknownPort", Check(
        "Port",
        ok=False,
        detail=f"{target.address} is of Service {service.key}, whose ports are {ports}",
        fix=f"connect to one of these, or add port {target.port} to the Service",
    )


def sctp_check(what: str) -> Check:
    """Say that SCTP is not proxied."""
    return Check(
        "Protocol",
        ok=False,
        detail=f"{what}: SCTP is not supported",
        fix="leave SCTP Services to another proxy (label service.kubernetes.io/service-proxy-name)",
    )


def _family_check(what: str, family: Family) -> Check:
    return Check(
        "Address",
        ok=False,
        detail=f"{what}, which is not served in {family}",
        fix=f"give the Service a ClusterIP of {family} too (spec.ipFamilyPolicy)",
    )


def _uncaptured_check(service: Service, target: AddressTarget) -> Check:
    return Check(
        "Address",
        ok=False,
        detail=f"{target.address} is a load-balancer IP of Service {service.key} with ipMode Proxy:"
        " traffic to it goes out to the load balancer",
        fix="nothing to mend here; if it fails, look at the load balancer",
    )


def _unallocated_check(target: AddressTarget) -> Check:
    return Check(
        "Address",
        ok=False,
        detail=f"{target.address} is in a ServiceCIDR, but no Service has it",
        fix="the Service may be gone, or made anew with another ClusterIP: look its address up",
    )


def _node_port(store: Store, target: AddressTarget) -> tuple[Reason, Check]:
    """Nothing claims the address: perhaps the port is a node port, and the address not served."""
    node = store.table().node
    for service in store.services().values():
        protocols = {p.protocol for p in service.ports if p.node_port == target.port}
        if not protocols:
            continue
        why = why_not_proxied(service, store.config.proxy_name)
        if why is not None:
            return why, not_proxied_check(service, why)
        if target.protocol == "SCTP" and "SCTP" in protocols:
            return "ProtocolNotSupported", sctp_check(str(target))
        if target.protocol not in protocols and target.address in node.node_port_addresses:
            found = " and ".join(sorted(protocols))
            return "ProtocolMismatch", Check(
                "Protocol",
                ok=False,
                detail=f"node port {target.port} of Service {service.key} is {found},"
                f" not {target.protocol}",
                fix=f"connect by {found}",
            )
        return "AddressNotServed", _address_not_served(service, target, store)
    what = "an address of this node" if target.address in node.local_addresses else "no address"
    return "NotAService", Check(
        "Address",
        ok=False,
        detail=f"{target.address} is {what}{' of a Service' if what == 'no address' else ''},"
        f" and no Service has node port {target.port}",
        fix="check the address and the port; packets to it are left alone",
    )


def _address_not_served(service: Service, target: AddressTarget, store: Store) -> Check:
    node = store.table().node
    what = f"port {target.port} is a node port of Service {service.key}"
    if target.address in node.node_port_addresses:
        return _family_check(what, family_of(target.address))
    if target.address in node.local_addresses:
        detail = f"{what}, but nodePortAddresses leaves {target.address} out"
        fix = "connect to another address of the node, or change nodePortAddresses"
    else:
        detail = f"{what}, but {target.address} is no address of this node"
        fix = "connect to the node's address; offline, add it with --local-address"
    return Check("Address", ok=False, detail=detail, fix=fix)
