"""nft without a kernel: takes the scripts of our table, gives it back, and traces packets.

It knows the statements that our transactions have and no others: an unknown one is an error, so
that a test tells when the fake has to learn it. It passes the same contract as the real nft
(tests/component/test_reconciler.py).
"""

import copy
import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Literal

from pyproxy.core.ruleset import GUARD_PREFIX, UNKNOWN, Ruleset
from pyproxy.core.ruleset_script import LAYOUT_PREFIX
from pyproxy.core.transaction import Step, script
from pyproxy.model.addresses import Cidr, is_loopback, parse_cidr
from pyproxy.model.persistent import PersistentMap, PersistentSet
from pyproxy.model.service import Protocol
from pyproxy.model.table import FrontendKey
from pyproxy.steer.nft import KernelTable, NftError

Verdict = Literal["steer", "refuse", "discard", "accept"]  # accept: the packet is left alone


@dataclasses.dataclass(frozen=True, kw_only=True)
class Packet:
    """What the rules can see. socket: what the kernel finds for it in prerouting.

    local: the addresses of the node.
    """

    source: str
    destination: str
    protocol: Protocol = "TCP"
    port: int = 80
    is_new: bool = True  # of TCP: SYN without ACK
    from_node: bool = False
    socket: Literal["none", "transparent", "wildcard"] = "none"
    local: frozenset[str] = frozenset()

    @property
    def prefix(self) -> str:
        """How rules name its family."""
        return "ip6" if ":" in self.destination else "ip"


@dataclasses.dataclass
class Table:
    """chains: rules by name, with the hook in front. elements: by set, with the verdict in maps."""

    chains: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    elements: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)


class FakeNft:
    """An NftRunner. taken: the steps of every transaction. fault: what the next `run` raises."""

    def __init__(self) -> None:
        self.table: Table | None = None
        self.taken: list[tuple[Step, ...]] = []
        self.fault: NftError | None = None

    async def check_version(self) -> None:
        """It is always new enough."""

    async def run(self, steps: Sequence[Step]) -> None:
        """Take all of a transaction or nothing of it."""
        fault, self.fault = self.fault, None
        if fault is not None:
            raise fault
        table = copy.deepcopy(self.table)
        for line in script(steps).splitlines():
            table = _apply(table, line)
        _check_jumps(table)
        self.table = table
        self.taken.append(tuple(steps))

    async def read(self) -> KernelTable | None:
        """Give the table as the real one does."""
        if self.table is None:
            return None
        chains, elements = self.table.chains, self.table.elements
        return KernelTable(
            next((name for name in chains if name.startswith(LAYOUT_PREFIX)), ""),
            Ruleset(
                services=PersistentMap(
                    {
                        _key(text): verdict.removeprefix("goto ") or name
                        for name in ("steer", "refuse", "verdicts")
                        for digit in "46"
                        for text, verdict in elements[f"{name}{digit}"].items()
                    }
                ),
                guards=PersistentMap(
                    dict.fromkeys((n for n in chains if n.startswith(GUARD_PREFIX)), UNKNOWN)
                ),
                cluster_ips=PersistentSet((*elements["cluster-ips4"], *elements["cluster-ips6"])),
                service_cidrs=self._cidrs("service-cidrs"),
                pod_networks=self._cidrs("pods"),
            ),
            {name: tuple(rules) for name, rules in chains.items()},
        )

    def trace(self, packet: Packet) -> Verdict:
        """Say what happens to a packet."""
        assert self.table is not None
        hook = "output" if packet.from_node else "prerouting"
        verdict = self._chain(hook, packet)
        return "accept" if verdict is None or verdict == "return" else verdict

    def _cidrs(self, name: str) -> frozenset[Cidr]:
        assert self.table is not None
        return frozenset(parse_cidr(t) for d in "46" for t in self.table.elements[f"{name}{d}"])

    def _chain(self, name: str, packet: Packet) -> Verdict | Literal["return"] | None:
        """The verdict of a chain; "return" or None: the caller goes on, after a jump."""
        assert self.table is not None
        for rule in self.table.chains[name][1:]:
            left, goto = rule, ""
            while left and not goto:
                for pattern, matches in _EXPRESSIONS:
                    found = re.match(pattern, left)
                    if found:
                        left = left[found.end() :].lstrip()
                        outcome = matches(self.table, packet, found)
                        break
                else:
                    raise AssertionError(f"the fake does not know {left!r}")
                if outcome is False:
                    break
                if isinstance(outcome, str):
                    goto = outcome
            if goto in _ENDS:
                return _ENDS[goto]
            if goto.startswith("jump "):
                verdict = self._chain(goto.removeprefix("jump "), packet)
                if verdict is not None and verdict != "return":
                    return verdict
            elif goto:
                verdict = self._chain(goto.removeprefix("goto "), packet)
                return None if verdict == "return" else verdict
        return None


_ENDS: dict[str, Verdict | Literal["return"]] = {
    "mark": "steer",
    "reject": "refuse",
    "drop": "discard",
    "accept": "accept",
    "return": "return",
}

_Expression = Callable[[Table, Packet, "re.Match[str]"], bool | str]


def _in_networks(address: str, networks: Sequence[str]) -> bool:
    return any(address in parse_cidr(text) for text in networks)


def _vmap(table: Table, packet: Packet, found: "re.Match[str]") -> bool | str:
    key = f"{packet.destination} . {packet.protocol.lower()} . {packet.port}"
    return packet.prefix == found[1] and table.elements[found[2]].get(key, False)


def _in_services(table: Table, packet: Packet, found: "re.Match[str]") -> bool | str:
    key = f"{packet.destination} . {packet.protocol.lower()} . {packet.port}"
    return packet.prefix == found[1] and key in table.elements[found[2]]


def _in_set(table: Table, packet: Packet, found: "re.Match[str]") -> bool | str:
    elements = table.elements[found[3]]
    address = packet.source if found[2] == "saddr" else packet.destination
    if packet.prefix != found[1]:
        return False
    if found[3].startswith("cluster-ips"):
        return address in elements
    return _in_networks(address, list(elements))


def _is_local(packet: Packet, which: str) -> bool:
    address = packet.source if which == "saddr" else packet.destination
    return address in packet.local or is_loopback(address)


def _retired(table: Table, packet: Packet, found: "re.Match[str]") -> bool | str:
    key = f"{packet.destination} . {packet.port}"
    return packet.prefix == found[1] and any(
        e.startswith(f"{key} ") for e in table.elements[found[2]]
    )


_EXPRESSIONS: list[tuple[str, _Expression]] = [
    (r"tcp flags & \(syn \| ack\) != syn", lambda t, p, m: p.protocol == "TCP" and not p.is_new),
    (r"(ip6?) daddr \. tcp dport @(\S+) update @\S+ \{[^}]*\}", _retired),
    (r"(ip6?) daddr \. meta l4proto \. th dport @(\S+)", _in_services),
    (r"(ip6?) daddr \. meta l4proto \. th dport vmap @(\S+)", _vmap),
    (r"(ip6?) (saddr|daddr) @(\S+)", _in_set),
    (r"(ip6?) saddr != \{ ([^}]*) \}",
     lambda t, p, m: p.prefix == m[1] and not _in_networks(p.source, m[2].split(", "))),
    (r"fib (saddr|daddr) type local", lambda t, p, m: _is_local(p, m[1])),
    (r"fib (saddr|daddr) type != local", lambda t, p, m: not _is_local(p, m[1])),
    (r"socket transparent 1", lambda t, p, m: p.socket != "none"),
    (r"socket wildcard 1", lambda t, p, m: p.socket == "wildcard"),
    (r"meta l4proto != tcp", lambda t, p, m: p.protocol != "TCP"),
    (r"meta l4proto (tcp|udp)", lambda t, p, m: p.protocol.lower() == m[1]),
    (r"meta mark set meta mark \| 0x[0-9a-f]+ accept", lambda t, p, m: "mark"),
    (r"reject with tcp reset|reject", lambda t, p, m: "reject"),
    (r"tproxy to :1", lambda t, p, m: "accept"),
    (r"(?:goto|jump) \S+|drop|accept|return", lambda t, p, m: m[0]),
]  # fmt: skip


def _apply(table: Table | None, line: str) -> Table | None:
    found = re.fullmatch(r"(add|delete|flush) (\w+) inet pyproxy ?(\S*) ?(.*)", line)
    assert found is not None, line
    verb, kind, name, rest = found.groups()
    if kind == "table":
        return (table or Table()) if verb == "add" else None
    if table is None:
        raise _missing(line)
    match verb, kind:
        case "add", "map" | "set":
            table.elements.setdefault(name, {})
        case "add", "chain":
            table.chains.setdefault(name, [rest])
        case "add", "rule":
            _chain_of(table, name, line).append(rest)
        case "flush", "chain":
            del _chain_of(table, name, line)[1:]
        case "delete", "chain":
            if len(_chain_of(table, name, line)) > 1:
                raise NftError(f"{line}: Device or resource busy")
            del table.chains[name]
        case _, "element":
            if name not in table.elements:
                raise _missing(line)
            _apply_elements(table.elements[name], verb, rest, line)
        case _:
            raise AssertionError(f"the fake does not know {line!r}")
    return table


def _apply_elements(elements: dict[str, str], verb: str, text: str, line: str) -> None:
    for element in text.removeprefix("{ ").removesuffix(" }").split(", "):
        key, _, verdict = element.partition(" : ")
        if verb == "delete":
            if elements.pop(key, None) is None:
                raise _missing(line)
        elif elements.setdefault(key, verdict) != verdict:
            raise NftError(f"{line}: File exists", already_exists=True)


def _chain_of(table: Table, name: str, line: str) -> list[str]:
    if name not in table.chains:
        raise _missing(line)
    return table.chains[name]


def _missing(line: str) -> NftError:
    return NftError(f"{line}: No such file or directory", not_found=True)


def _check_jumps(table: Table | None) -> None:
    """The kernel keeps a chain that something leads to, and leads to none that is not there."""
    if table is None:
        return
    texts = [rule for rules in table.chains.values() for rule in rules[1:]]
    texts += [verdict for elements in table.elements.values() for verdict in elements.values()]
    for text in texts:
        found = re.search(r"(?:goto|jump) (\S+)", text)
        if found and found[1] not in table.chains:
            raise _missing(text)


def _key(text: str) -> FrontendKey:
    address, protocol, port = text.split(" . ")
    return (address, int(port), "TCP" if protocol == "tcp" else "UDP")
