"""Which packets the kernel has to steer, refuse or discard for a VIP table.

Values in, values out: `ruleset` says it for a whole table, `Planner` for each table after another
by looking at what changed only, in a time that does not grow with the table. How one becomes the
next in the kernel is for ruleset_diff.

The kernel looks up the chain for a new connection by its VIP:port. So its state grows with
frontends, never with endpoints: a change of endpoints that alters no verdict leaves the ruleset as
it was. Whether an endpoint suits this very client is for the forwarder to decide; the kernel says
what core.decision would have said for every client, or for those on one side of a guard.

Addresses of the node itself need no steering, for their packets come here anyway. Nobody listens
where nothing is forwarded, and the kernel refuses there by itself. So they have an element only
where clients are discarded. A Service's address may be on an interface too (keepalived puts
load-balancer IPs there, NodeLocal DNSCache the ClusterIP of the cluster's DNS); whoever listens
there then is meant to be reached.
"""

import hashlib
import ipaddress
from collections import Counter
from collections.abc import Collection
from typing import Literal

import msgspec

from pyproxy.model.addresses import FAMILIES, Cidr, is_loopback
from pyproxy.model.node import NodeView
from pyproxy.model.persistent import PersistentMap, PersistentSet
from pyproxy.model.table import Frontend, FrontendKey, VipTable

# The chains that a connection to a VIP:port may be sent to; a Guard makes one of its own.
Target = Literal[
    "steer",  # mark it, so that it is routed to this host
    "refuse",  # RST, or ICMP port unreachable
    "discard",  # no answer
    "insiders",  # steer pods and the node's own processes, discard others
]

GUARD_PREFIX = "guard-"


class Guard(msgspec.Struct, frozen=True):
    """A chain that lets some clients of load-balancer IPs in to `target`, and discards others.

    allowed: networks of one family, collapsed; never empty. Frontends with equal guards share one.
    """

    allowed: tuple[Cidr, ...]
    target: Target

    @property
    def chain(self) -> str:
        """The chain's name, which is the same for the same content, also after a restart."""
        content = " ".join([*map(str, self.allowed), self.target])
        return f"{GUARD_PREFIX}{hashlib.sha256(content.encode()).hexdigest()[:16]}"


# The kernel tells the rules of a chain in a form of its own.
UNKNOWN = Guard((), "discard")


class Ruleset(msgspec.Struct, frozen=True, kw_only=True):
    """What the kernel is to hold. Nothing in it is changed after it was made.

    services: the chain that new connections to a VIP:port go to.
    guards: the guard chains, by name; UNKNOWN where the kernel has one whose content is not known.
    cluster_ips: addresses whose other ports and protocols are refused (PARITY 5.5).
    service_cidrs: networks whose other addresses are discarded (5.6); collapsed.
    pod_networks: who counts as a pod (8.6); collapsed.
    """

    services: PersistentMap[FrontendKey, str] = PersistentMap()
    guards: PersistentMap[str, Guard] = PersistentMap()
    cluster_ips: PersistentSet[str] = PersistentSet()
    service_cidrs: frozenset[Cidr] = frozenset()
    pod_networks: frozenset[Cidr] = frozenset()


def ruleset(table: VipTable, listening: Collection[FrontendKey]) -> Ruleset:
    """Return what the kernel is to hold for a table.

    listening: the frontends with a listener. One that is to be forwarded and has none (its port is
    taken) is refused: a steered packet without a listener would get no answer at all.
    """
    return Planner().plan(table, listening)


class Planner:
    """Makes each table's ruleset from the one before. Used by one thread.

    Invariant: what it plans equals `ruleset` of the same table and listeners.
    """

    def __init__(self) -> None:
        self._table: VipTable | None = None
        self._listening: Collection[FrontendKey] = frozenset()
        self._planned = Ruleset()
        # How many services go to each guard: it goes with the last of them.
        self._guarded: Counter[str] = Counter()

    def plan(
        self,
        table: VipTable,
        listening: Collection[FrontendKey],
        changed: Collection[FrontendKey] | None = None,
    ) -> Ruleset:
        """Return the ruleset of a table.

        listening: as for `ruleset`. changed: where the table or the listeners may differ from those
        planned last; None: anywhere, and it is looked for, at 0.2 µs for each frontend.
        """
        known = self._table
        if known is None or known.node != table.node:  # what is local, and who a pod is
            known, changed = VipTable(node=table.node), table.frontends.keys()
            self._planned = Ruleset(pod_networks=frozenset(collapsed(table.node.pod_networks)))
            self._guarded.clear()
        elif changed is None:
            changed = _differences(known, self._listening, table, listening)
        services, guards = self._revised(table, listening, changed)
        before = self._planned
        cidrs = before.service_cidrs
        if table.service_cidrs != known.service_cidrs:
            cidrs = frozenset(collapsed(table.service_cidrs))
        self._planned = Ruleset(
            services=before.services.changed(services),
            guards=before.guards.changed(guards),
            cluster_ips=before.cluster_ips.changed(
                {
                    address: address in table.cluster_ips and not _is_local(address, table.node)
                    for address in known.cluster_ips.differences(table.cluster_ips)
                }
            ),
            service_cidrs=cidrs,
            pod_networks=before.pod_networks,
        )
        self._table, self._listening = table, listening
        return self._planned

    def _revised(
        self,
        table: VipTable,
        listening: Collection[FrontendKey],
        changed: Collection[FrontendKey],
    ) -> tuple[dict[FrontendKey, str | None], dict[str, Guard | None]]:
        """Return the services and the guards that are not as before; None where they are gone."""
        services: dict[FrontendKey, str | None] = {}
        guards: dict[str, Guard | None] = {}
        for key in set(changed):
            frontend = table.frontends.get(key)
            target: Target | Guard | None = None
            if frontend is not None:
                target = target_of(frontend, table.node, is_listening=key in listening)
            before = self._planned.services.get(key)
            after = target.chain if isinstance(target, Guard) else target
            if before == after:
                continue
            services[key] = after
            if isinstance(target, Guard):
                guards[target.chain] = target
                self._guarded[target.chain] += 1
            if before is not None and before.startswith(GUARD_PREFIX):
                self._guarded[before] -= 1
                guards.setdefault(before, self._planned.guards[before])
        for name in guards:
            if not self._guarded[name]:
                del self._guarded[name]
                guards[name] = None
        return services, guards


def _differences(
    known: VipTable,
    known_listening: Collection[FrontendKey],
    table: VipTable,
    listening: Collection[FrontendKey],
) -> set[FrontendKey]:
    """Compare by identity: a table shares with the one before all that did not change."""
    before, after = known.frontends, table.frontends
    found = {key for key, frontend in after.items() if before.get(key) is not frontend}
    found.update(key for key in before if key not in after)
    if listening is not known_listening:
        found |= set(known_listening) ^ set(listening)
    return found


def _is_local(address: str, node: NodeView) -> bool:
    return address in node.local_addresses or is_loopback(address)


def target_of(frontend: Frontend, node: NodeView, *, is_listening: bool) -> Target | Guard | None:
    """Return where new connections to a frontend go; None where the kernel needs no word of it."""
    target = _unguarded(frontend, is_listening=is_listening)
    guard = _guard(frontend, node, target)
    if guard is not None:
        return guard
    if target in {"steer", "refuse"} and _is_local(frontend.address, node):
        return None
    return target


def _unguarded(frontend: Frontend, *, is_listening: bool) -> Target:
    """What core.decision says to every client: see there for the rules."""
    backend = frontend.backend
    if not backend.has_any:
        return "refuse"  # 5.1
    if frontend.kind == "ClusterIP":
        endpoints = backend.local if backend.internal_local else backend.cluster
    else:
        endpoints = backend.cluster or (backend.local if backend.external_local else ())
    if not endpoints:
        return "discard"  # 5.2, 5.3
    if not is_listening:
        return "refuse"
    if frontend.kind != "ClusterIP" and backend.external_local and not backend.local:
        return "insiders"  # 4.9, 4.10
    return "steer"


def _guard(frontend: Frontend, node: NodeView, target: Target) -> Guard | None:
    """The guard of a load-balancer IP with source ranges (section 7)."""
    backend = frontend.backend
    if frontend.kind != "LoadBalancer" or not backend.source_ranges or target == "discard":
        return None
    allowed = list(backend.source_ranges)
    primary = node.primary.get(backend.family)
    if primary is not None and any(primary in cidr for cidr in backend.source_ranges):
        bits = 32 if backend.family == "IPv4" else 128
        allowed += [Cidr(address, bits) for address in backend.load_balancer_ips]  # 7.3
    networks = collapsed(allowed)
    if networks[0].prefix == 0:  # two halves make a whole: there is nobody to keep out
        return None
    return Guard(networks, target)


def collapsed(cidrs: Collection[Cidr]) -> tuple[Cidr, ...]:
    """Return the same addresses in the fewest networks, sorted.

    An nft set of intervals takes no two that overlap (nft(8), SETS).
    """
    found: list[Cidr] = []
    for family in FAMILIES:
        networks = [ipaddress.ip_network(str(c)) for c in cidrs if c.family == family]
        merged = ipaddress.collapse_addresses(networks)  # type: ignore[type-var]  # of one family
        found += [Cidr(str(network.network_address), network.prefixlen) for network in merged]
    return tuple(found)
