"""The one mutable state: every object that was heard of, and the frontends that follow from them.

`apply` takes an event and returns what changed in the table. It recomputes the Services that the
event touches and shares all else, so that its cost does not grow with the cluster. `table` returns
the whole as a value that never changes. The store decides nothing itself: the rules stand in
selection, slices, topology and frontends.

Invariant: the table depends on the objects alone, never on the order in which they came.
"""

from collections.abc import Iterable, Mapping

import msgspec

from pyproxy.config import ProxyConfig
from pyproxy.core import nodeview
from pyproxy.core.claims import Claims
from pyproxy.core.frontends import backends_of, frontends_of
from pyproxy.core.notes import Note, contest_notes, notes_of
from pyproxy.core.options import options_of
from pyproxy.core.selection import feeds_endpoints, why_not_proxied
from pyproxy.core.slices import without_loopback
from pyproxy.model.addresses import Cidr, Family
from pyproxy.model.endpoint import EndpointSlice
from pyproxy.model.events import (
    RESOURCES,
    Applied,
    Deleted,
    Event,
    Object,
    ObjectKey,
    Resource,
    ServiceCidr,
    key_of,
)
from pyproxy.model.node import Node
from pyproxy.model.persistent import PersistentMap
from pyproxy.model.service import Service, ServiceName, ServicePortName
from pyproxy.model.table import Backend, Frontend, FrontendKey, VipTable

# A ClusterIP is given out by the control plane, and so is a load-balancer IP; anybody who may write
# a Service can claim an external IP, and must not take an address over by that (CVE-2020-8554).
_KIND_RANK = {"ClusterIP": 0, "LoadBalancer": 1, "ExternalIP": 2, "NodePort": 3}

_Rank = tuple[int, str, str, str, str]


class Changes(msgspec.Struct, frozen=True):
    """What an event changed: frontends that are new or different, or None where they are gone.

    is_visible: whether the table differs at all (also by ClusterIPs, ServiceCIDRs, the node).
    notes: what a person should know of the objects, one line each, said once.
    """

    frontends: Mapping[FrontendKey, Frontend | None]
    is_visible: bool
    notes: tuple[Note, ...] = ()


class _Served(msgspec.Struct):
    """What the last computation of one Service gave, to compare the next one with."""

    service: Service
    backends: dict[tuple[ServicePortName, Family], Backend]
    claims: dict[tuple[FrontendKey, _Rank], Frontend]


class Store:
    """Holds the objects and the claims on addresses. Used by one thread."""

    def __init__(self, config: ProxyConfig, local_addresses: frozenset[str] = frozenset()) -> None:
        self._config = config
        self._local_addresses = local_addresses
        self._is_bridge_opaque = False
        self._objects: dict[Resource, dict[ObjectKey, Object]] = {r: {} for r in RESOURCES}
        self._listed: set[Resource] = set()
        self._slices: dict[ServiceName, dict[str, EndpointSlice]] = {}
        self._served: dict[ServiceName, _Served] = {}
        self._frontends: Claims[FrontendKey, Frontend] = Claims()
        self._cluster_ips: Claims[str, ServiceName] = Claims()
        # What the holders of these claims are, as values for tables.
        self._table_frontends: PersistentMap[FrontendKey, Frontend] = PersistentMap()
        self._table_cluster_ips: PersistentMap[str, ServiceName] = PersistentMap()
        self._service_cidrs: frozenset[Cidr] = frozenset()
        self._node = nodeview.view(config, None, local_addresses)
        self._generation = 0
        self._table: VipTable | None = None

    @property
    def is_synced(self) -> bool:
        """Whether every resource was listed: before that the table is partial (PARITY 17.1)."""
        return len(self._listed) == len(RESOURCES)

    @property
    def config(self) -> ProxyConfig:
        """The settings that the table is made with."""
        return self._config

    @property
    def node(self) -> Node | None:
        """The Node object of this node, when it is known."""
        node = self._objects["nodes"].get(("", self._config.node_name))
        return node if isinstance(node, Node) else None

    def services(self) -> Mapping[ObjectKey, Service]:
        """Every Service, proxied or not. Live."""
        return self._objects["services"]  # type: ignore[return-value]  # by its key

    def slices_of(self, name: ServiceName) -> tuple[EndpointSlice, ...]:
        """The EndpointSlices that feed a Service, in the order of their names."""
        slices = self._slices.get(name)
        return tuple(slices[key] for key in sorted(slices)) if slices else ()

    def frontends_of(self, name: ServiceName) -> tuple[Frontend, ...]:
        """Every frontend that a Service claims, also where another one holds the address:port."""
        served = self._served.get(name)
        return tuple(served.claims.values()) if served else ()

    def rivals(self, key: FrontendKey) -> tuple[Frontend, ...]:
        """All frontends that claim a contested address:port; the first one holds it."""
        return tuple(self._frontends.rivals(key))

    def table(self) -> VipTable:
        """The table as it is now."""
        if self._table is None:
            self._table = VipTable(
                frontends=self._table_frontends,
                cluster_ips=self._table_cluster_ips,
                service_cidrs=self._service_cidrs,
                node=self._node,
                generation=self._generation,
            )
        return self._table

    def apply(self, event: Event) -> Changes:
        """Take in one event and return what it changed."""
        notes: list[Note] = []
        dirty: dict[ServiceName, None] = {}
        is_visible = False
        for key, value in self._differences(event):
            is_visible |= self._put(event.resource, key, value, dirty, notes)
        return self._recompute(dirty, notes, is_visible=is_visible)

    def set_local_addresses(self, addresses: frozenset[str]) -> Changes:
        """Take in the canonical addresses of this host's interfaces."""
        self._local_addresses = addresses
        dirty: dict[ServiceName, None] = {}
        return self._recompute(dirty, [], is_visible=self._look_at_node(dirty))

    def set_bridge_opaque(self, *, is_opaque: bool) -> Changes:
        """Take in whether pods on one bridge could answer each other past this host."""
        self._is_bridge_opaque = is_opaque
        dirty: dict[ServiceName, None] = {}
        return self._recompute(dirty, [], is_visible=self._look_at_node(dirty))

    def _differences(self, event: Event) -> Iterable[tuple[ObjectKey, Object | None]]:
        """The objects to put, and with None those to remove."""
        if isinstance(event, Applied):
            return [(key_of(event.value), event.value)]
        if isinstance(event, Deleted):
            return [(event.key, None)]
        self._listed.add(event.resource)
        listed: dict[ObjectKey, Object | None] = {key_of(value): value for value in event.values}
        gone = self._objects[event.resource].keys() - listed.keys()
        return [*((key, None) for key in gone), *listed.items()]

    def _put(
        self,
        resource: Resource,
        key: ObjectKey,
        value: Object | None,
        dirty: dict[ServiceName, None],
        notes: list[Note],
    ) -> bool:
        """Store one object and mark the Services it touches; say if it is visible by itself."""
        if self._config.refuses_loopback and isinstance(value, EndpointSlice):
            value = without_loopback(value)
        objects = self._objects[resource]
        before = objects.get(key)
        if value == before:
            return False
        if value is None:
            del objects[key]
        else:
            objects[key] = value
        match before or value:
            case Service():
                dirty[ServiceName(*key)] = None
            case EndpointSlice():
                for endpoint_slice in (before, value):
                    self._index_slice(key, endpoint_slice, dirty, is_new=endpoint_slice is value)
            case Node(name=name):
                return name == self._config.node_name and self._look_at_node(dirty)
            case _:
                return self._look_at_service_cidrs()
        if isinstance(value, Service | EndpointSlice):
            notes.extend(notes_of(value, before, self._config))
        return False

    def _index_slice(
        self,
        key: ObjectKey,
        endpoint_slice: Object | None,
        dirty: dict[ServiceName, None],
        *,
        is_new: bool,
    ) -> None:
        if not isinstance(endpoint_slice, EndpointSlice) or not feeds_endpoints(endpoint_slice):
            return
        owner = endpoint_slice.service
        dirty[owner] = None
        slices = self._slices.setdefault(owner, {})
        if is_new:
            slices[key[1]] = endpoint_slice
            return
        del slices[key[1]]
        if not slices:
            del self._slices[owner]

    def _look_at_node(self, dirty: dict[ServiceName, None]) -> bool:
        seen = nodeview.view(
            self._config,
            self.node,
            self._local_addresses,
            is_bridge_opaque=self._is_bridge_opaque,
        )
        if seen == self._node:
            return False
        self._node = seen
        dirty.update(dict.fromkeys(ServiceName(*key) for key in self._objects["services"]))
        return True

    def _look_at_service_cidrs(self) -> bool:
        before = self._service_cidrs
        # Beside another proxy, an address that is not ours may well be that one's.
        if self._config.proxy_name is None:
            self._service_cidrs = frozenset(
                cidr
                for value in self._objects["servicecidrs"].values()
                if isinstance(value, ServiceCidr)
                for cidr in value.cidrs
            )
        return self._service_cidrs != before

    def _recompute(
        self, dirty: Iterable[ServiceName], notes: list[Note], *, is_visible: bool
    ) -> Changes:
        changed: dict[FrontendKey, Frontend | None] = {}
        cluster_ips: dict[str, ServiceName | None] = {}
        for name in dirty:
            service = self._objects["services"].get(name)
            is_proxied = (
                isinstance(service, Service)
                and why_not_proxied(service, self._config.proxy_name) is None
            )
            after = self._serve(name, service) if is_proxied else None  # type: ignore[arg-type]
            before = self._served.pop(name, None)
            if after is not None:
                self._served[name] = after
            self._settle_cluster_ips(name, before, after, cluster_ips)
            self._settle_frontends(before, after, changed, notes)
        is_visible |= bool(changed or cluster_ips)
        if is_visible:
            self._table_frontends = self._table_frontends.changed(changed)
            self._table_cluster_ips = self._table_cluster_ips.changed(cluster_ips)
            self._generation += 1
            self._table = None
        return Changes(changed, is_visible, tuple(notes))

    def _serve(self, name: ServiceName, service: Service) -> _Served:
        """Compute a Service anew, and keep every value that came out as it was before."""
        before = self._served.get(name)
        after = _Served(service, {}, {})
        slices = self.slices_of(name)
        options, _ = options_of(service.annotations, self._config.options)
        for port, computed in backends_of(service, slices, self._node, options):
            key = (computed.name, computed.family)
            known = before.backends.get(key) if before else None
            backend = known if known == computed and known is not None else computed
            after.backends[key] = backend
            for frontend in frontends_of(service, port, backend, self._node):
                rank = (_KIND_RANK[frontend.kind], service.created, *name, port.name)
                claim = (frontend.key, rank)
                kept = before.claims.get(claim) if before and backend is known else None
                after.claims[claim] = kept or frontend
        return after

    def _settle_cluster_ips(
        self,
        name: ServiceName,
        before: _Served | None,
        after: _Served | None,
        changed: dict[str, ServiceName | None],
    ) -> None:
        old = set(before.service.cluster_ips.values()) if before else set()
        new = set(after.service.cluster_ips.values()) if after else set()
        for address in old - new:
            self._cluster_ips.remove(address, name)
        for address in new - old:
            self._cluster_ips.put(address, name, name)
        for address in old ^ new:
            changed[address] = self._cluster_ips.holders.get(address)

    def _settle_frontends(
        self,
        before: _Served | None,
        after: _Served | None,
        changed: dict[FrontendKey, Frontend | None],
        notes: list[Note],
    ) -> None:
        old = before.claims if before else {}
        new = after.claims if after else {}
        holders = self._frontends.holders
        for key, rank in old.keys() - new.keys():
            held = holders[key]
            self._frontends.remove(key, rank)
            if holders.get(key) is not held:
                changed[key] = holders.get(key)
        for (key, rank), frontend in new.items():
            if old.get((key, rank)) is frontend:
                continue
            held_before = holders.get(key)
            self._frontends.put(key, rank, frontend)
            if holders[key] is not held_before:
                changed[key] = holders[key]
            if (key, rank) not in old:
                notes.extend(contest_notes(self.rivals(key)))
