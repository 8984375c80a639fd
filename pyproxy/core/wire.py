"""The shapes of the API objects that are decoded: only the fields that a Service proxy reads.

Go writes empty lists and maps as null, so every field may be null.
"""

from typing import Literal

import msgspec


class Wire(msgspec.Struct, rename="camel", gc=False):
    """An API object's shape. Go writes empty lists and maps as null, so every field may be null."""


class Metadata(Wire):
    name: str = ""
    namespace: str | None = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    uid: str | None = ""
    creation_timestamp: str | None = ""
    deletion_timestamp: str | None = None


class ServicePort(Wire):
    port: int
    name: str | None = ""
    protocol: str | None = None
    node_port: int | None = 0


class ClientIp(Wire):
    timeout_seconds: int | None = None


class AffinityConfig(Wire):
    client_ip: ClientIp | None = msgspec.field(default=None, name="clientIP")


class ServiceSpec(Wire):
    type: str | None = ""
    cluster_ip: str | None = msgspec.field(default="", name="clusterIP")
    cluster_ips: list[str] | None = msgspec.field(default=None, name="clusterIPs")
    ip_families: list[str] | None = None
    ports: list[ServicePort] | None = None
    external_ips: list[str] | None = msgspec.field(default=None, name="externalIPs")
    external_name: str | None = ""
    load_balancer_source_ranges: list[str] | None = None
    internal_traffic_policy: str | None = None
    external_traffic_policy: str | None = None
    session_affinity: str | None = None
    session_affinity_config: AffinityConfig | None = None
    health_check_node_port: int | None = 0


class Ingress(Wire):
    ip: str | None = ""
    ip_mode: str | None = None


class LoadBalancer(Wire):
    ingress: list[Ingress] | None = None


class ServiceStatus(Wire):
    load_balancer: LoadBalancer | None = None


class Service(Wire):
    metadata: Metadata
    spec: ServiceSpec | None = None
    status: ServiceStatus | None = None


class Conditions(Wire):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Hint(Wire):
    name: str = ""


class Hints(Wire):
    for_zones: list[Hint] | None = None
    for_nodes: list[Hint] | None = None


class TargetRef(Wire):
    kind: str | None = ""
    name: str | None = ""


class Endpoint(Wire):
    addresses: list[str] | None = None
    conditions: Conditions | None = None
    node_name: str | None = ""
    hints: Hints | None = None
    target_ref: TargetRef | None = None


class EndpointPort(Wire):
    name: str | None = None
    port: int | None = None
    protocol: str | None = None


class EndpointSlice(Wire):
    metadata: Metadata
    address_type: Literal["IPv4", "IPv6", "FQDN"]
    endpoints: list[Endpoint] | None = None
    ports: list[EndpointPort] | None = None


class NodeAddress(Wire):
    type: str = ""
    address: str = ""


class Taint(Wire):
    key: str = ""


class NodeSpec(Wire):
    pod_cidr: str | None = msgspec.field(default="", name="podCIDR")
    pod_cidrs: list[str] | None = msgspec.field(default=None, name="podCIDRs")
    taints: list[Taint] | None = None


class NodeStatus(Wire):
    addresses: list[NodeAddress] | None = None


class Node(Wire):
    metadata: Metadata
    spec: NodeSpec | None = None
    status: NodeStatus | None = None


class ServiceCidrSpec(Wire):
    cidrs: list[str] | None = None


class ServiceCidr(Wire):
    metadata: Metadata
    spec: ServiceCidrSpec | None = None
