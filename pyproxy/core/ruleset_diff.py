"""What leads from one ruleset to another in the kernel, as a transaction.

Where it is cut, after each step every VIP:port has either its old verdict or its new one. Guards
come before what refers to them, and go after it.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from pyproxy.core.ruleset import UNKNOWN, Guard, Ruleset
from pyproxy.core.ruleset_script import RETIRED_S, UNDER_WAY
from pyproxy.core.transaction import TABLE, Element, Elements, Step, Transaction
from pyproxy.model.addresses import Cidr
from pyproxy.model.table import FrontendKey

_Item = TypeVar("_Item")
_Key = TypeVar("_Key", bound=tuple[Any, ...])

# Services in one step: a transaction that is too large is cut between them. A netlink message takes
# 65,535 bytes of elements, and each of these has at most 110.
_CHUNK = 250


def diff(applied: Ruleset, wanted: Ruleset) -> Transaction:
    """Return the transaction that leads from one ruleset to the other; empty when they are equal.

    What the two share is not looked at: of one Service more or less it takes 20 µs at any size.
    """
    steps: list[tuple[Step, int]] = []
    guards = sorted(applied.guards.differences(wanted.guards))
    for name in guards:
        guard = wanted.guards.get(name, UNKNOWN)
        if guard != UNKNOWN:
            steps.append(_guard_step(name, guard, is_known=name in applied.guards))
    steps += _service_steps(applied, wanted)
    steps += _cluster_ip_steps(applied, wanted)
    steps += _network_steps("service-cidrs", applied.service_cidrs, wanted.service_cidrs)
    steps += _network_steps("pods", applied.pod_networks, wanted.pod_networks)
    gone = [name for name in guards if name not in wanted.guards]
    steps += [(f"flush chain {TABLE} {name}\ndelete chain {TABLE} {name}", 2) for name in gone]
    return Transaction(tuple(step for step, _ in steps), sum(count for _, count in steps))


def _guard_step(name: str, guard: Guard, *, is_known: bool) -> tuple[Step, int]:
    ip = "ip6" if guard.allowed[0].family == "IPv6" else "ip"
    networks = ", ".join(map(str, guard.allowed))
    rules = (
        f"{UNDER_WAY} goto steer",
        f"{ip} saddr != {{ {networks} }} drop",  # 7.2
        f"goto {guard.target}",
    )
    lines = [f"add chain {TABLE} {name}"]
    if is_known:
        lines.append(f"flush chain {TABLE} {name}")
    lines += [f"add rule {TABLE} {name} {rule}" for rule in rules]
    return "\n".join(lines), len(lines)


def _service_steps(applied: Ruleset, wanted: Ruleset) -> Iterator[tuple[Step, int]]:
    different = sorted(applied.services.differences(wanted.services))
    for digit, keys in _by_family(different):
        for part in _chunks(keys):
            yield _step(_service_changes(part, digit, applied, wanted))


def _service_changes(
    keys: Sequence[FrontendKey], digit: str, applied: Ruleset, wanted: Ruleset
) -> Iterator[Elements]:
    """The kernel takes no other verdict for a key that a map has: so what goes, goes first."""
    gone: dict[str, list[Element]] = {}
    come: dict[str, list[Element]] = {}
    for key in keys:
        address, port, protocol = key
        service = (address, protocol.lower(), port)
        before, after = applied.services.get(key), wanted.services.get(key)
        if before is not None:
            gone.setdefault(_place(before)[0], []).append(Element(service))
        if after is not None:
            name, goto = _place(after)
            come.setdefault(name, []).append(Element(service, goto))
        elif protocol == "TCP":
            element = Element((address, port), timeout_s=RETIRED_S)
            come.setdefault("retired", []).append(element)
    for name, elements in gone.items():
        yield Elements("delete", name + digit, tuple(elements))
    for name, elements in come.items():
        yield Elements("add", name + digit, tuple(elements))


def _place(target: str) -> tuple[str, str]:
    """Return in what set a service stands that goes to this chain, and what the element leads to.

    The names are without the digit of the family.
    """
    return (target, "") if target in {"steer", "refuse"} else ("verdicts", target)


def _cluster_ip_steps(applied: Ruleset, wanted: Ruleset) -> Iterator[tuple[Step, int]]:
    different = sorted(applied.cluster_ips.differences(wanted.cluster_ips))
    for digit, keys in _by_family((address,) for address in different):
        name = f"cluster-ips{digit}"
        for part in _chunks([key for key in keys if key[0] in wanted.cluster_ips]):
            yield _step([Elements("add", name, tuple(map(Element, part)))])
        for part in _chunks([key for key in keys if key[0] in applied.cluster_ips]):
            yield _step([Elements("delete", name, tuple(map(Element, part)))])


def _network_steps(
    name: str, before: frozenset[Cidr], after: frozenset[Cidr]
) -> Iterator[tuple[Step, int]]:
    """Networks that go leave room for those that come, which may overlap them: all in one step.

    They are for nft to say: the kernel keeps the two ends of each, and which of them it is to be
    told depends on its version.
    """
    old = _by_family((cidr.network, cidr) for cidr in sorted(before - after))
    new = _by_family((cidr.network, cidr) for cidr in sorted(after - before))
    for (digit, going), (_, coming) in zip(old, new, strict=True):
        lines = [
            f"{verb} element {TABLE} {name}{digit} {{ {', '.join(str(c) for _, c in cidrs)} }}"
            for verb, cidrs in (("delete", going), ("add", coming))
            if cidrs
        ]
        if lines:
            yield "\n".join(lines), len(going) + len(coming)


def _step(changes: Iterable[Elements]) -> tuple[Step, int]:
    """Return a step, and how many elements come or go in it."""
    step = tuple(changes)
    return step, sum(len(change.elements) for change in step)


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
