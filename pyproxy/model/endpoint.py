"""EndpointSlices as they come in, and the endpoints that a Service port has after merging."""

from typing import Literal

import msgspec

from pyproxy.model.addresses import join_host_port
from pyproxy.model.service import Protocol, ServiceName


class SlicePort(msgspec.Struct, frozen=True):
    """One port of a slice that has both a name (perhaps "") and a number."""

    name: str
    protocol: Protocol
    port: int


class SliceEndpoint(msgspec.Struct, frozen=True):
    """One endpoint of a slice; of its addresses only the first counts (PARITY 2.5).

    zones, nodes: the hints of the control plane; empty means no hint (2.12).
    pod: the name of the Pod behind it (targetRef), or "".
    """

    address: str
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node_name: str = ""
    zones: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    pod: str = ""


class EndpointSlice(msgspec.Struct, frozen=True, kw_only=True):
    """A slice of a Service's endpoints, of one address family.

    service_name: the label kubernetes.io/service-name; "" when missing, and then it feeds nothing.
    headless: whether the slice controller marked it as of a headless Service (1.3).
    last_change: the annotation endpoints.kubernetes.io/last-change-trigger-time, or "".
    """

    namespace: str
    name: str
    service_name: str
    address_type: Literal["IPv4", "IPv6", "FQDN"]
    endpoints: tuple[SliceEndpoint, ...] = ()
    ports: tuple[SlicePort, ...] = ()
    headless: bool = False
    last_change: str = ""
    problems: tuple[str, ...] = ()

    @property
    def service(self) -> ServiceName:
        """The Service that it belongs to."""
        return ServiceName(self.namespace, self.service_name)


class Endpoint(msgspec.Struct, frozen=True):
    """Where a connection can go: one address and port, with its conditions.

    `ready`, `serving` and `terminating` mean what the EndpointSlice API says. `is_local`: it runs
    on this node (2.10).
    """

    address: str
    port: int
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    is_local: bool = False
    zones: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    pod: str = ""
    node_name: str = ""

    def __str__(self) -> str:
        return join_host_port(self.address, self.port)
