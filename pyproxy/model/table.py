"""The VIP table: which address:port is served, and by which endpoints. A table never changes.

A change makes a new table that shares everything it did not touch.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

from pyproxy.model.addresses import Cidr, Family
from pyproxy.model.endpoint import Endpoint
from pyproxy.model.node import NodeView
from pyproxy.model.options import DEFAULT_OPTIONS, ServiceOptions
from pyproxy.model.persistent import PersistentMap
from pyproxy.model.service import Protocol, ServiceName, ServicePortName

FrontendKind = Literal["ClusterIP", "NodePort", "ExternalIP", "LoadBalancer"]
Action = Literal["forward", "reject", "drop", "none"]

# (canonical address, port, protocol): 86 ns a lookup, where a frozen dataclass takes 1,172.
FrontendKey = tuple[str, int, Protocol]


class Backend(msgspec.Struct, frozen=True, kw_only=True):
    """Where one Service port leads in one IP family. Shared by all its frontends.

    cluster: endpoints for traffic policy Cluster; local: those for policy Local. Each is sorted by
    the text "address:port" and is empty when its policy is not used (PARITY 3.1 to 3.4).
    has_any: a usable endpoint exists somewhere in the cluster; decides reject against drop (3.7).
    serving: every serving endpoint, usable or not; UDP flows to others are stale (11.3).
    source_ranges: clients of the load-balancer IPs; empty allows all. Of this family only.
    options: what the Service's annotations ask for, over the configured defaults.
    """

    name: ServicePortName
    family: Family
    cluster: tuple[Endpoint, ...] = ()
    local: tuple[Endpoint, ...] = ()
    has_any: bool = False
    serving: frozenset[tuple[str, int]] = frozenset()
    internal_local: bool = False
    external_local: bool = False
    affinity_seconds: int | None = None
    source_ranges: tuple[Cidr, ...] = ()
    load_balancer_ips: tuple[str, ...] = ()
    options: ServiceOptions = DEFAULT_OPTIONS


class Frontend(msgspec.Struct, frozen=True):
    """One address:port/protocol that is served, the kind of address it is, and where it leads."""

    address: str
    port: int
    protocol: Protocol
    kind: FrontendKind
    backend: Backend

    @property
    def key(self) -> FrontendKey:
        """The key in the table."""
        return (self.address, self.port, self.protocol)

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}/{self.protocol}"


class VipTable(msgspec.Struct, frozen=True, kw_only=True):
    """All that is served, at one generation.

    cluster_ips: every active ClusterIP; a port of it that is not served is rejected (5.5).
    service_cidrs: addresses in there that are no active ClusterIP are dropped (5.6).
    node: the view of the node that the table was made for.
    generation: grows by one with every change that is visible here.
    """

    frontends: Mapping[FrontendKey, Frontend] = {}
    cluster_ips: PersistentMap[str, ServiceName] = PersistentMap()
    service_cidrs: frozenset[Cidr] = frozenset()
    node: NodeView
    generation: int = 0
