"""API objects as the API server writes them, as plain data; and a store that holds them.

The names in use are those of one small cluster: node-1 is the node that decides, pods have
addresses of 10.0.0.0/8, Services have those of 172.30.0.0/16, and CLIENT comes from outside.
"""

from typing import Any

import msgspec

from pyproxy.config import NodePortAddresses, ProxyConfig
from pyproxy.core.decode import convert
from pyproxy.core.explain import explain
from pyproxy.core.nodeview import LOOPBACK
from pyproxy.core.store import Store
from pyproxy.core.target import parse_target
from pyproxy.model.addresses import parse_cidr
from pyproxy.model.endpoint import EndpointSlice
from pyproxy.model.events import RESOURCES, Applied, Listed, Object, Resource
from pyproxy.model.service import Service
from pyproxy.model.table import VipTable

Json = dict[str, Any]

NODE = "node-1"
NODE_IP = "192.168.0.2"
NODE_IP_ALT = "192.168.1.2"  # on an interface of the node, but not in the Node object
NODE_IP_V6 = "2001:db8::1"
POD = "10.0.0.2"
POD_V6 = "fd00:10::2"
CLIENT = "203.0.113.2"
BLOCKED_CLIENT = "203.0.113.130"
CLIENT_V6 = "2001:db8:ffff::1"

CLUSTER_IP = "172.30.0.41"
CLUSTER_IP_V6 = "fd00:172:30::41"
EXTERNAL_IP = "192.168.99.11"
LB_IP = "1.2.3.4"
NODE_PORT = 30080

LOCAL = "10.180.0.1"
REMOTE = "10.180.0.2"
BOTH = f"{LOCAL}:80, {REMOTE}:80"

# Targets: the front ends of load_balancer().
VIP = f"{CLUSTER_IP}:80"
NODE_PORT_TARGET = f"{NODE_IP}:{NODE_PORT}"
LB = f"{LB_IP}:80"
EXTERNAL = f"{EXTERNAL_IP}:80"

# Conditions of an endpoint.
LEAVING: Json = {"ready": False, "serving": True, "terminating": True}
FAILED: Json = {"ready": False, "serving": False, "terminating": True}
UNREADY: Json = {"ready": False, "serving": True, "terminating": False}

CONFIG = ProxyConfig(
    node_name=NODE, cluster_cidr=(parse_cidr("10.0.0.0/8"), parse_cidr("fd00:10::/64"))
)

_RESOURCES: dict[str, Resource] = {
    "Service": "services",
    "EndpointSlice": "endpointslices",
    "Node": "nodes",
    "ServiceCIDR": "servicecidrs",
}


def make_port(
    port: int = 80, name: str = "http", protocol: str = "TCP", node_port: int = 0, **more: Any
) -> Json:
    """An element of spec.ports. Its targetPort is a trap: nobody may read it."""
    found = {"name": name, "protocol": protocol, "port": port, "targetPort": 1, **more}
    return {**found, "nodePort": node_port} if node_port else found


def make_service(
    name: str = "web",
    *,
    namespace: str = "default",
    cluster_ip: str = CLUSTER_IP,
    ports: list[Json] | None = None,
    lb_ips: list[str] | None = None,
    ingress: list[Json] | None = None,
    labels: Json | None = None,
    created: str = "2026-01-01T00:00:00Z",
    **spec: Any,
) -> Json:
    """A Service of type ClusterIP with one port; `spec` overrides by the API's own field names."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": labels,
            "creationTimestamp": created,
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": cluster_ip,
            "ports": [make_port()] if ports is None else ports,
            **spec,
        },
        "status": {"loadBalancer": {"ingress": ingress or [{"ip": ip} for ip in lb_ips or ()]}},
    }


def make_dual_stack_service(name: str = "web", **more: Any) -> Json:
    """A Service with a ClusterIP of each family."""
    return make_service(
        name,
        clusterIPs=[CLUSTER_IP, CLUSTER_IP_V6],
        ipFamilies=["IPv4", "IPv6"],
        **more,
    )


def load_balancer(**more: Any) -> Json:
    """A LoadBalancer Service with every kind of address."""
    defaults: Json = {
        "type": "LoadBalancer",
        "ports": [make_port(80, node_port=NODE_PORT)],
        "externalIPs": [EXTERNAL_IP],
        "lb_ips": [LB_IP],
    }
    return make_service(**{**defaults, **more})


def make_endpoint(
    address: str = "10.180.0.1",
    *,
    ready: bool | None = True,
    serving: bool | None = None,
    terminating: bool | None = None,
    node: str | None = NODE,
    zones: tuple[str, ...] = (),
    nodes: tuple[str, ...] = (),
    **more: Any,
) -> Json:
    """An element of a slice's endpoints; a condition of None is left out."""
    conditions = {"ready": ready, "serving": serving, "terminating": terminating}
    hints = {
        "forZones": [{"name": zone} for zone in zones],
        "forNodes": [{"name": name} for name in nodes],
    }
    return {
        "addresses": [address],
        "conditions": {key: value for key, value in conditions.items() if value is not None},
        "nodeName": node,
        "hints": hints if zones or nodes else None,
        **more,
    }


def local(address: str = LOCAL, **more: Any) -> Json:
    """An endpoint on the node that decides."""
    return make_endpoint(address, node=NODE, **more)


def remote(address: str = REMOTE, **more: Any) -> Json:
    """An endpoint on another node."""
    return make_endpoint(address, node="node-2", **more)


def hinted(*hints: tuple[str, str]) -> list[Json]:
    """Endpoints 10.180.0.1 and on, with a zone hint and a node hint each ("" for none)."""
    return [
        make_endpoint(
            f"10.180.0.{number}",
            node=NODE if number == 1 else "node-2",
            zones=(zone,) if zone else (),
            nodes=(node,) if node else (),
        )
        for number, (zone, node) in enumerate(hints, 1)
    ]


def make_slice(
    *endpoints: Json | str,
    service: str | None = "web",
    name: str = "",
    namespace: str = "default",
    ports: list[Json] | None = None,
    address_type: str = "IPv4",
    labels: Json | None = None,
    annotations: Json | None = None,
) -> Json:
    """An EndpointSlice; an endpoint given as text is ready and on this node."""
    owner = {} if service is None else {"kubernetes.io/service-name": service}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name or f"{service}-1",
            "namespace": namespace,
            "labels": {**owner, **(labels or {})},
            "annotations": annotations,
        },
        "addressType": address_type,
        "endpoints": [make_endpoint(e) if isinstance(e, str) else e for e in endpoints],
        "ports": [{"name": "http", "protocol": "TCP", "port": 80}] if ports is None else ports,
    }


def make_node(
    name: str = NODE,
    *,
    zone: str | None = "zone-a",
    addresses: list[str] | None = None,
    pod_cidrs: list[str] | None = None,
    taints: list[Json] | None = None,
    **metadata: Any,
) -> Json:
    """A Node with InternalIPs."""
    listed = [NODE_IP, NODE_IP_V6] if addresses is None else addresses
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {"topology.kubernetes.io/zone": zone} if zone is not None else {},
            **metadata,
        },
        "spec": {"podCIDRs": pod_cidrs, "taints": taints},
        "status": {"addresses": [{"type": "InternalIP", "address": text} for text in listed]},
    }


def make_service_cidr(*cidrs: str, name: str = "kubernetes") -> Json:
    """A ServiceCIDR object."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": name},
        "spec": {"cidrs": list(cidrs)},
    }


def node_ports(*texts: str, primary: bool = False, localhost: bool = False) -> NodePortAddresses:
    """The setting nodePortAddresses."""
    return NodePortAddresses(tuple(map(parse_cidr, texts)), primary, localhost)


def resource_of(data: Json) -> Resource:
    """The resource that an object belongs to, by its kind."""
    return _RESOURCES[data["kind"]]


def decoded(data: Json) -> Object:
    """The object's model value."""
    return convert(resource_of(data), data)


def service(**more: Any) -> Service:
    """The model value of make_service(**more)."""
    value = decoded(make_service(**more))
    assert isinstance(value, Service)
    return value


def endpoint_slice(*endpoints: Json | str, **more: Any) -> EndpointSlice:
    """The model value of make_slice(...)."""
    value = decoded(make_slice(*endpoints, **more))
    assert isinstance(value, EndpointSlice)
    return value


def applied(data: Json) -> Applied:
    """The event that an object is there, or has changed."""
    return Applied(resource_of(data), decoded(data))


def make_store(
    *objects: Json,
    config: ProxyConfig = CONFIG,
    local_addresses: tuple[str, ...] = (NODE_IP, NODE_IP_ALT, NODE_IP_V6),
) -> Store:
    """A synced store of these objects, on node-1 unless the configuration says otherwise."""
    if not any(data["kind"] == "Node" for data in objects):
        objects = (*objects, make_node())
    store = Store(config, frozenset({*LOOPBACK.values(), *local_addresses}))
    for resource in RESOURCES:
        found = [decoded(data) for data in objects if resource_of(data) == resource]
        store.apply(Listed(resource, tuple(found)))
    return store


def make_table(*objects: Json, **more: Any) -> VipTable:
    """The table of such a store."""
    return make_store(*objects, **more).table()


def with_config(**changes: Any) -> ProxyConfig:
    """The usual configuration, with changes."""
    return msgspec.structs.replace(CONFIG, **changes)


def explained(store: Store, target: str, client: str = "") -> Json:
    """The answer of explain, as it comes out of its JSON."""
    answer = explain(store, parse_target(target, client))
    found: Json = msgspec.json.decode(msgspec.json.encode(answer.to_json()))
    return found


def outcome(store: Store, target: str, client: str = "") -> str:
    """The JSON answer in one line: "forward 10.180.0.1:80 as client", "reject NoReadyEndpoint"."""
    answer = explained(store, target, client)
    if answer["action"] == "forward":
        assert answer["reason"] == "Forwarded"
        return f"forward {', '.join(answer['endpoints'])} as {answer['source']}"
    assert answer["endpoints"] == []
    assert answer["source"] is None
    return f"{answer['action']} {answer['reason']}"
