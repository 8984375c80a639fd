"""Which packets the kernel has to steer, refuse or discard for a VIP table.

Values in, values out: `ruleset` says it for a whole table, `Planner` for each table after another
by looking at what changed only. How it is written to the kernel is for ruleset_script.

The kernel answers a new connection by a verdict map, VIP:port -> chain. So its state grows with
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
from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import msgspec

from pyproxy.model.addresses import FAMILIES, Cidr, is_loopback
from pyproxy.model.node import NodeView
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


class Ruleset(msgspec.Struct, frozen=True, kw_only=True):
    """What the kernel is to hold. Nothing in it is changed after it was made.

    services: the chain that new connections to a VIP:port go to.
    guards: the guard chains, by name; None where the kernel has one whose content is not known.
    cluster_ips: addresses whose other ports and protocols are refused (PARITY 5.5).
    service_cidrs: networks whose other addresses are discarded (5.6); collapsed.
    pod_networks: who counts as a pod (8.6); collapsed.
    """

    services: Mapping[FrontendKey, str] = {}
    guards: Mapping[str, Guard | None] = {}
    cluster_ips: frozenset[str] = frozenset()
    service_cidrs: frozenset[Cidr] = frozenset()
    pod_networks: frozenset[Cidr] = frozenset()


class Revision(msgspec.Struct, frozen=True):
    """A ruleset, and at which services it can differ from the one before.

    touched: keys of services; None: any. Right only against that very `before`.
    """

    before: Ruleset
    wanted: Ruleset
    touched: Collection[FrontendKey] | None = None


def ruleset(table: VipTable, listening: Collection[FrontendKey]) -> Ruleset:
    """Return what the kernel is to hold for a table.

    listening: the frontends with a listener. One that is to be forwarded and has none (its port is
    taken) is refused: a steered packet without a listener would get no answer at all.
    """
    services: dict[FrontendKey, str] = {}
    guards: dict[str, Guard | None] = {}
    for key in table.frontends:
        _put(services, guards, table, key, listening)
    return _whole(table, services, guards)


class Planner:
    """Makes each table's ruleset from the one before. Used by one thread.

    Invariant: what it plans equals `ruleset` of the same table and listeners.
    """

    def __init__(self) -> None:
        self._table: VipTable | None = None
        self._listening: Collection[FrontendKey] = frozenset()
        self._planned = Ruleset()

    def plan(
        self,
        table: VipTable,
        listening: Collection[FrontendKey],
        changed: Collection[FrontendKey] | None = None,
    ) -> Revision:
        """Return the ruleset of a table.

        listening: as for `ruleset`. changed: where the table or the listeners may differ from those
        planned last; None: anywhere, and it is looked for, at 0.2 µs for each frontend.
        """
        before, known = self._planned, self._table
        if known is None or known.node != table.node:  # what is local, and who a pod is
            changed, wanted = None, ruleset(table, listening)
        else:
            if changed is None:
                changed = _differences(known, self._listening, table, listening)
            ips = before.cluster_ips if table.cluster_ips is known.cluster_ips else None
            wanted = _revised(before, table, listening, changed, ips)
        self._table, self._listening, self._planned = table, listening, wanted
        return Revision(before, wanted, changed)


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


def _revised(
    before: Ruleset,
    table: VipTable,
    listening: Collection[FrontendKey],
    changed: Iterable[FrontendKey],
    cluster_ips: frozenset[str] | None,
) -> Ruleset:
    """Copying the map of 10,000 services takes 0.1 ms, and leaves the one before as it was."""
    services, guards = dict(before.services), dict(before.guards)
    for key in changed:
        _put(services, guards, table, key, listening)
    if guards:
        used = guards.keys() & set(services.values())
        guards = {name: guards[name] for name in guards if name in used}
    return _whole(table, services, guards, cluster_ips)


def _put(
    services: dict[FrontendKey, str],
    guards: dict[str, Guard | None],
    table: VipTable,
    key: FrontendKey,
    listening: Collection[FrontendKey],
) -> None:
    frontend = table.frontends.get(key)
    target = None
    if frontend is not None:
        target = target_of(frontend, table.node, is_listening=key in listening)
    if target is None:
        services.pop(key, None)
    elif isinstance(target, Guard):
        services[key] = target.chain
        guards[target.chain] = target
    else:
        services[key] = target


def _whole(
    table: VipTable,
    services: Mapping[FrontendKey, str],
    guards: Mapping[str, Guard | None],
    cluster_ips: frozenset[str] | None = None,
) -> Ruleset:
    """cluster_ips: those of the ruleset before, where no ClusterIP changed; None: to be found."""
    if cluster_ips is None:
        local = table.node.local_addresses
        cluster_ips = frozenset(
            [ip for ip in table.cluster_ips if ip not in local and not is_loopback(ip)]
        )
    return Ruleset(
        services=services,
        guards=guards,
        cluster_ips=cluster_ips,
        service_cidrs=frozenset(collapsed(table.service_cidrs)),
        pod_networks=frozenset(collapsed(table.node.pod_networks)),
    )


def target_of(frontend: Frontend, node: NodeView, *, is_listening: bool) -> Target | Guard | None:
    """Return where new connections to a frontend go; None where the kernel needs no word of it."""
    target = _unguarded(frontend, is_listening=is_listening)
    guard = _guard(frontend, node, target)
    if guard is not None:
        return guard
    is_local = frontend.address in node.local_addresses or is_loopback(frontend.address)
    return None if is_local and target in {"steer", "refuse"} else target


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
