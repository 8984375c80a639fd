"""A Service, as far as a proxy reads it (PARITY 1.11 lists what it must not read)."""

from typing import Literal, NamedTuple

import msgspec

from pyproxy.model.addresses import Cidr, Family

Protocol = Literal["TCP", "UDP", "SCTP"]

PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
HEADLESS_LABEL = "service.kubernetes.io/headless"
SERVICE_NAME_LABEL = "kubernetes.io/service-name"


class ServiceName(NamedTuple):
    """The key of a Service. A plain tuple inside, so that it hashes fast."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class ServicePortName(NamedTuple):
    """The key of a Service port (PARITY 1.8): the port's name may be empty."""

    namespace: str
    name: str
    port: str
    protocol: Protocol

    @property
    def service(self) -> ServiceName:
        """The Service that it is a port of."""
        return ServiceName(self.namespace, self.name)

    def __str__(self) -> str:
        port = f":{self.port}" if self.port else ""
        return f"{self.namespace}/{self.name}{port}"


class ServicePort(msgspec.Struct, frozen=True):
    """One element of spec.ports. `node_port` is 0 when there is none. Ports are 1 to 65535."""

    name: str
    protocol: Protocol
    port: int
    node_port: int = 0


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A Service. All addresses are canonical text; `problems` tells what decoding left out and why.

    cluster_ip: spec.clusterIP as it was written (it may be "", "None" or malformed).
    cluster_ips: at most one ClusterIP for each family (PARITY 1.7).
    uncaptured_ips: load-balancer IPs of ipMode Proxy; traffic to them must pass the balancer (4.3).
    source_ranges: of both families; an empty family means that all clients are allowed (7.5, 7.6).
    affinity_seconds: the ClientIP session affinity's time-out, or None without affinity.
    created: metadata.creationTimestamp; RFC 3339 in UTC, so text order is time order.
    """

    namespace: str
    name: str
    type: str
    cluster_ip: str
    cluster_ips: dict[Family, str]
    ports: tuple[ServicePort, ...]
    external_ips: tuple[str, ...] = ()
    load_balancer_ips: tuple[str, ...] = ()
    uncaptured_ips: tuple[str, ...] = ()
    source_ranges: tuple[Cidr, ...] = ()
    internal_local: bool = False
    external_local: bool = False
    affinity_seconds: int | None = None
    health_check_node_port: int = 0
    external_name: str = ""
    proxy_name: str | None = None
    annotations: dict[str, str] = {}  # only those of pyproxy.io/
    created: str = ""
    uid: str = ""
    problems: tuple[str, ...] = ()

    @property
    def key(self) -> ServiceName:
        """The key in the store."""
        return ServiceName(self.namespace, self.name)
