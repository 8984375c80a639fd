"""Rulesets as nft script: the fixed part of the table, and transactions from one to another.

A transaction is atomic in the kernel (PARITY 17.12). Where one is too large for the kernel to take,
it may be cut between its steps: after each of them every VIP:port has either its old verdict or its
new one. Guards come before what refers to them, and go after it.

The table has two hooks. In prerouting come packets of pods and of the outside, those that were
routed to lo, and the replies to sockets of ours that are bound to a client's address. In output
come packets of the node's own processes. Verdicts are for new connections (5.11), so TCP packets
without a fresh SYN are told apart:

- In prerouting the kernel looks for their socket: only a transparent one needs steering.
- In output it would find the socket that sends, not the one that is meant. There the verdict map is
  asked for them as well, and every chain of a verdict steers them: they come back by lo, where
  their socket is looked for. An element that is taken away would strand them; so its VIP:port is
  kept for as long as connections use it, in the sets `retired`.

Datagrams do not tell a new client from an old one: the verdict map is asked for each of them. Where
it has no word (any more), those at prerouting are steered if a socket of ours is there.

Connection tracking is left as it is found. With `notrack`, somebody else's masquerading would not
see the packets to endpoints outside of the cluster, which need it.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from pyproxy.core.ruleset import Guard, Ruleset
from pyproxy.model.addresses import Cidr
from pyproxy.model.table import FrontendKey

_Item = TypeVar("_Item")
_Key = TypeVar("_Key", bound=tuple[Any, ...])

TABLE = "inet pyproxy"
LAYOUT_PREFIX = "layout-"

# Elements in one statement. nft(8) parses one statement of many far faster than many of one; a
# transaction that is too large can be cut only between them.
_CHUNK = 250

# A socket of a client asks after its peer when nothing was heard for long; tcp_keepalive_time is
# two hours, and what is retired must not be forgotten in between.
_RETIRED = "3h"

# TCP packets that begin no connection.
_UNDER_WAY = "tcp flags & (syn | ack) != syn"

_SETS = (
    "map inet pyproxy services4 { type ipv4_addr . inet_proto . inet_service : verdict; }",
    "map inet pyproxy services6 { type ipv6_addr . inet_proto . inet_service : verdict; }",
    "set inet pyproxy cluster-ips4 { type ipv4_addr; }",
    "set inet pyproxy cluster-ips6 { type ipv6_addr; }",
    "set inet pyproxy service-cidrs4 { type ipv4_addr; flags interval; }",
    "set inet pyproxy service-cidrs6 { type ipv6_addr; flags interval; }",
    "set inet pyproxy pods4 { type ipv4_addr; flags interval; }",
    "set inet pyproxy pods6 { type ipv6_addr; flags interval; }",
    "set inet pyproxy retired4 { type ipv4_addr . inet_service; flags dynamic, timeout; }",
    "set inet pyproxy retired6 { type ipv6_addr . inet_service; flags dynamic, timeout; }",
)

_HOOKS = {
    "prerouting": "{ type filter hook prerouting priority mangle; policy accept; }",
    "output": "{ type route hook output priority mangle; policy accept; }",
}


def _chains(mark: int) -> dict[str, tuple[str, ...]]:
    """The rules of every fixed chain."""
    return {
        "steer": (f"meta mark set meta mark | {mark:#x} accept",),
        "refuse": (
            f"{_UNDER_WAY} goto steer",
            "meta l4proto tcp reject with tcp reset",
            "reject",
        ),
        "discard": (f"{_UNDER_WAY} goto steer", "drop"),
        "insiders": (
            f"{_UNDER_WAY} goto steer",
            "ip saddr @pods4 goto steer",
            "ip6 saddr @pods6 goto steer",
            "fib saddr type local goto steer",  # 4.11
            "drop",
        ),
        "services": (
            "ip daddr . meta l4proto . th dport vmap @services4",
            "ip6 daddr . meta l4proto . th dport vmap @services6",
        ),
        "unserved": (
            "ip daddr @cluster-ips4 goto refuse",
            "ip6 daddr @cluster-ips6 goto refuse",
            "ip daddr @service-cidrs4 fib daddr type != local goto discard",
            "ip6 daddr @service-cidrs6 fib daddr type != local goto discard",
        ),
        # Another program's transparent listener on all addresses takes packets to any of them;
        # steering those would take them from who they are for. Sockets of ours have an address.
        # (The kernel cannot tell of a socket in its handshake or in TIME_WAIT: those are exact.)
        "ours": ("socket wildcard 1 return", "goto steer"),
        # Nobody comes here. A tproxy statement makes the kernel put fragments together before
        # prerouting (nf_defrag_ipv4_enable), as connection tracking does where it is on: only the
        # first fragment of a large datagram has a port.
        "defragment": ("meta l4proto udp tproxy to :1",),
        "prerouting": (
            f"{_UNDER_WAY} socket transparent 1 goto ours",
            f"{_UNDER_WAY} accept",
            "jump services",
            # Datagrams of flows whose frontend is gone (11.10), ICMP errors about our sockets.
            "meta l4proto != tcp socket transparent 1 jump ours",
            "goto unserved",
        ),
        "output": (
            "jump services",
            *(
                f"{_UNDER_WAY} {service} @retired{digit}"
                f" update @retired{digit} {{ {service} timeout {_RETIRED} }} goto steer"
                for service, digit in (("ip daddr . tcp dport", 4), ("ip6 daddr . tcp dport", 6))
            ),
            "goto unserved",
        ),
    }


class Transaction(msgspec.Struct, frozen=True):
    """A script in steps. operations: how many elements, chains and rules it adds or takes away."""

    steps: tuple[str, ...] = ()
    operations: int = 0

    def __bool__(self) -> bool:
        return bool(self.steps)

    def __add__(self, other: "Transaction") -> "Transaction":
        return Transaction(self.steps + other.steps, self.operations + other.operations)


def layout(mark: int) -> str:
    """The name of an empty chain that tells which fixed part a table was made with."""
    content = repr((_SETS, _HOOKS, _chains(mark)))
    return f"{LAYOUT_PREFIX}{hashlib.sha256(content.encode()).hexdigest()[:16]}"


def base(mark: int) -> Transaction:
    """Make the fixed part of the table, or put it right again; sets keep their elements."""
    chains = _chains(mark)
    lines = [f"add table {TABLE}", f"add chain {TABLE} {layout(mark)}"]
    lines += [f"add {declaration}" for declaration in _SETS]
    lines += [f"add chain {TABLE} {name} {_HOOKS.get(name, '')}".rstrip() for name in chains]
    for name, rules in chains.items():
        lines.append(f"flush chain {TABLE} {name}")
        lines += [f"add rule {TABLE} {name} {rule}" for rule in rules]
    return Transaction(("\n".join(lines),), len(lines))


def fresh(mark: int) -> Transaction:
    """Make the table anew, without an element, whatever was there."""
    lines = (f"add table {TABLE}", f"delete table {TABLE}")
    made = base(mark)
    return Transaction(("\n".join((*lines, *made.steps)),), made.operations + len(lines))


def remove() -> Transaction:
    """Remove the table, whether it is there or not."""
    return Transaction((f"add table {TABLE}\ndelete table {TABLE}",), 1)


def diff(
    applied: Ruleset, wanted: Ruleset, touched: Collection[FrontendKey] | None = None
) -> Transaction:
    """Return the transaction that leads from one ruleset to the other; empty when they are equal.

    touched: the services that can differ; None: any.
    """
    steps: list[tuple[str, int]] = []
    for name, guard in sorted(wanted.guards.items()):
        if guard is not None and applied.guards.get(name) != guard:
            steps.append(_guard_step(name, guard, is_known=name in applied.guards))
    if touched is None:
        touched = applied.services.keys() | wanted.services.keys()
    steps += _service_steps(applied, wanted, touched)
    steps += _set_steps(applied, wanted)
    gone = sorted(applied.guards.keys() - wanted.guards.keys())
    steps += [(f"flush chain {TABLE} {name}\ndelete chain {TABLE} {name}", 2) for name in gone]
    return Transaction(tuple(text for text, _ in steps), sum(count for _, count in steps))


def _guard_step(name: str, guard: Guard, *, is_known: bool) -> tuple[str, int]:
    ip = "ip6" if guard.allowed[0].family == "IPv6" else "ip"
    networks = ", ".join(map(str, guard.allowed))
    rules = (
        f"{_UNDER_WAY} goto steer",
        f"{ip} saddr != {{ {networks} }} drop",  # 7.2
        f"goto {guard.target}",
    )
    lines = [f"add chain {TABLE} {name}"]
    if is_known:
        lines.append(f"flush chain {TABLE} {name}")
    lines += [f"add rule {TABLE} {name} {rule}" for rule in rules]
    return "\n".join(lines), len(lines)


def _service_steps(
    applied: Ruleset, wanted: Ruleset, touched: Collection[FrontendKey]
) -> Iterator[tuple[str, int]]:
    before, after = applied.services, wanted.services
    different = sorted(key for key in touched if before.get(key) != after.get(key))
    for digit, keys in _by_family(different):
        old = [key for key in keys if key in before]
        new = [key for key in keys if key in after]
        # The kernel takes no other verdict for a key that is there: it goes first, and in one step.
        changed = [key for key in old if key in after]
        for part in _chunks(changed):
            yield (
                f"{_delete(f'services{digit}', map(_service, part))}\n"
                f"{_add(f'services{digit}', [_verdict(key, after) for key in part])}",
                2 * len(part),
            )
        for part in _chunks([key for key in new if key not in before]):
            yield _add(f"services{digit}", [_verdict(key, after) for key in part]), len(part)
        for part in _chunks([key for key in old if key not in after]):
            retired = [f"{key[0]} . {key[1]} timeout {_RETIRED}" for key in part if key[2] == "TCP"]
            lines = [_delete(f"services{digit}", map(_service, part))]
            if retired:
                lines.append(_add(f"retired{digit}", retired))
            yield "\n".join(lines), len(part) + len(retired)


def _set_steps(applied: Ruleset, wanted: Ruleset) -> Iterator[tuple[str, int]]:
    if applied.cluster_ips != wanted.cluster_ips:
        old = _by_family((ip,) for ip in sorted(applied.cluster_ips - wanted.cluster_ips))
        new = _by_family((ip,) for ip in sorted(wanted.cluster_ips - applied.cluster_ips))
        for (digit, going), (_, coming) in zip(old, new, strict=True):
            for part in _chunks(coming):
                yield _add(f"cluster-ips{digit}", (ip for (ip,) in part)), len(part)
            for part in _chunks(going):
                yield _delete(f"cluster-ips{digit}", (ip for (ip,) in part)), len(part)
    yield from _network_steps("service-cidrs", applied.service_cidrs, wanted.service_cidrs)
    yield from _network_steps("pods", applied.pod_networks, wanted.pod_networks)


def _network_steps(
    name: str, before: frozenset[Cidr], after: frozenset[Cidr]
) -> Iterator[tuple[str, int]]:
    """Networks that go leave room for those that come, which may overlap them: all in one step."""
    old = _by_family((cidr.network, cidr) for cidr in sorted(before - after))
    new = _by_family((cidr.network, cidr) for cidr in sorted(after - before))
    for (digit, going), (_, coming) in zip(old, new, strict=True):
        lines = [_delete(name + digit, (str(cidr) for _, cidr in going))] if going else []
        lines += [_add(name + digit, (str(cidr) for _, cidr in coming))] if coming else []
        if lines:
            yield "\n".join(lines), len(going) + len(coming)


def _by_family(keys: Iterable[_Key]) -> tuple[tuple[str, list[_Key]], tuple[str, list[_Key]]]:
    """Sort keys that begin with an address by the last character of the names of their sets."""
    v4: list[_Key] = []
    v6: list[_Key] = []
    for key in keys:
        (v6 if ":" in key[0] else v4).append(key)
    return ("4", v4), ("6", v6)


def _chunks(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    for start in range(0, len(items), _CHUNK):
        yield items[start : start + _CHUNK]


def _add(name: str, elements: Iterable[str]) -> str:
    return f"add element {TABLE} {name} {{ {', '.join(elements)} }}"


def _delete(name: str, elements: Iterable[str]) -> str:
    return f"delete element {TABLE} {name} {{ {', '.join(elements)} }}"


def _service(key: FrontendKey) -> str:
    address, port, protocol = key
    return f"{address} . {protocol.lower()} . {port}"


def _verdict(key: FrontendKey, services: Mapping[FrontendKey, str]) -> str:
    return f"{_service(key)} : goto {services[key]}"
