"""nf_tables: making transactions, reading our table back, and telling what went wrong.

A transaction of elements alone, as nearly all are, goes to the kernel by netlink: that takes as
long in a large table as in a small one. Chains, rules and networks go by the command nft(8), whose
text is stable across kernels, and which takes 3 to 20 ms. Either way it is one atomic transaction.
"""

import asyncio
import re
import subprocess
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec

from pyproxy.core.ruleset import GUARD_PREFIX, UNKNOWN, Ruleset
from pyproxy.core.ruleset_script import LAYOUT_PREFIX
from pyproxy.core.transaction import TABLE, Elements, Step, script
from pyproxy.errors import PyproxyError
from pyproxy.model.addresses import Cidr, parse_address
from pyproxy.model.persistent import PersistentMap, PersistentSet
from pyproxy.model.service import Protocol
from pyproxy.model.table import FrontendKey
from pyproxy.steer.netlink import Netlink

# Debian 12 has it; older ones write and read some of the rules otherwise.
OLDEST = (1, 0, 6)

# A transaction of 10,000 elements takes less than a tenth of a second. One that takes this long
# waits for a lock that somebody will not give back.
TIMEOUT_S = 60.0

_MAX_ERROR = 300

_PROTOCOLS: dict[str, Protocol] = {"tcp": "TCP", "udp": "UDP"}


class NftError(PyproxyError):
    """nft could not do what was asked. At most one of these says why, as far as it is known.

    not_found: the object is not there. already_exists: it is, and differs. too_large: the kernel
    does not take a transaction of this size. not_permitted: CAP_NET_ADMIN is missing. missing:
    there is no nft command, or one that is too old.
    """

    def __init__(
        self,
        message: str,
        *,
        not_found: bool = False,
        already_exists: bool = False,
        too_large: bool = False,
        not_permitted: bool = False,
        missing: bool = False,
    ) -> None:
        super().__init__(message)
        self.not_found = not_found
        self.already_exists = already_exists
        self.too_large = too_large
        self.not_permitted = not_permitted
        self.missing = missing


class KernelTable(msgspec.Struct, frozen=True):
    """Our table, as the kernel has it.

    layout: the name of the chain that tells which fixed part it was made with, or "".
    ruleset: its elements. rules: the rules of each chain, in a form to compare with itself.
    """

    layout: str
    ruleset: Ruleset
    rules: Mapping[str, tuple[str, ...]]


class Nft:
    """nf_tables of one network namespace: the one that the calling thread is in. Close it."""

    def __init__(self, command: str = "nft") -> None:
        self._command = command
        self._netlink = Netlink()

    def close(self) -> None:
        """Give the socket back. It may take 20 ms."""
        self._netlink.close()

    async def check_version(self) -> None:
        """Raise NftError unless there is an nft command that is new enough."""
        text = await self._run(["--version"])
        found = re.search(r"v(\d+)\.(\d+)\.(\d+)", text)
        version = tuple(map(int, found.groups())) if found else (0,)
        if version < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise NftError(
                f"{self._command} is {text.strip() or 'of an unknown version'}:"
                f" nftables {oldest} or newer is needed",
                missing=True,
            )

    async def run(self, steps: Sequence[Step]) -> None:
        """Make one atomic transaction; where it is too large, several, cut between steps only.

        Raises NftError; then some of the steps may have been taken.
        """
        try:
            await self._commit(steps)
        except NftError as fault:
            if not fault.too_large or len(steps) < 2:
                raise
            half = len(steps) // 2
            await self.run(steps[:half])
            await self.run(steps[half:])

    async def _commit(self, steps: Sequence[Step]) -> None:
        changes: list[Elements] = []
        for step in steps:
            if isinstance(step, str):
                await self._run(["-f", "-"], script(steps))
                return
            changes += step
        try:
            # In a thread, at 50 µs: somebody else's transaction may have to be waited for.
            await asyncio.to_thread(self._netlink.commit, changes)
        except OSError as fault:
            raise _error("a netlink transaction", str(fault.strerror)) from fault

    async def read(self) -> KernelTable | None:
        """Return what the kernel has of our table, or None if there is none. Raises NftError."""
        try:
            text = await self._run(["-j", "list", "table", *TABLE.split()])
        except NftError as fault:
            if fault.not_found:
                return None
            raise
        return await asyncio.to_thread(parse_table, text)  # 10,000 elements take 50 ms

    async def _run(self, arguments: list[str], stdin: str = "") -> str:
        """Run the command in a thread: a caller that is cancelled does not stop it half-way.

        Not by `asyncio.create_subprocess_exec`: uvloop 0.23 forks in the loop's thread, which takes
        the longer the more memory there is to share (12 ms with 40,000 Services), and raises
        RuntimeError when nft ends before it has read all. CPython's own takes vfork(2), 0.7 ms.
        """
        command = [self._command, *arguments]
        doing = " ".join(command)
        try:
            done = await asyncio.to_thread(
                subprocess.run,
                command,
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT_S,
                check=False,
            )
        except OSError as fault:
            raise NftError(
                f"cannot run {self._command} ({fault.strerror}): install nftables", missing=True
            ) from fault
        except subprocess.TimeoutExpired:
            raise NftError(f"{doing} did not end within {TIMEOUT_S:g} s") from None
        if done.returncode:
            raise _error(doing, done.stderr)
        return done.stdout


def _error(doing: str, text: str) -> NftError:
    """Translate what nft wrote: it knows no exit status but 1. Netlink's errors read the same."""
    first = " ".join(text.split())[:_MAX_ERROR]
    not_permitted = "Operation not permitted" in text
    hint = ": steering needs CAP_NET_ADMIN" if not_permitted else ""
    return NftError(
        f"{doing} failed{hint}: {first}",
        not_found="No such file or directory" in text,
        already_exists="File exists" in text,
        too_large="Message too long" in text,
        not_permitted=not_permitted,
    )


def parse_table(text: str) -> KernelTable:
    """Parse the JSON of `nft -j list table` (libnftables-json(5)).

    What it does not understand it leaves out: the difference to what is wanted then mends it.
    """
    layout, guards = "", set()
    rules: dict[str, list[str]] = {}
    elements: dict[str, list[Any]] = {}
    for item in msgspec.json.decode(text)["nftables"]:
        match item:
            case {"map": found} | {"set": found}:
                elements[found["name"]] = found.get("elem", [])
            case {"chain": {"name": str(name)} as found}:
                # Where a chain is hooked is as good as a rule of it.
                rules[name] = [repr([found.get(field) for field in _HOOK])]
                if name.startswith(LAYOUT_PREFIX):
                    layout = name
                elif name.startswith(GUARD_PREFIX):
                    guards.add(name)
            case {"rule": {"chain": name, "expr": expression}}:
                rules.setdefault(name, []).append(repr(expression))
            case _:
                pass  # the table itself, and the version
    both = {name: elements.get(f"{name}4", []) + elements.get(f"{name}6", []) for name in _NAMES}
    ruleset = Ruleset(
        services=PersistentMap(_services(both)),
        guards=PersistentMap(dict.fromkeys(guards, UNKNOWN)),
        cluster_ips=PersistentSet(map(parse_address, filter(_is_text, both["cluster-ips"]))),
        service_cidrs=frozenset(filter(None, map(_network, both["service-cidrs"]))),
        pod_networks=frozenset(filter(None, map(_network, both["pods"]))),
    )
    return KernelTable(layout, ruleset, {name: tuple(found) for name, found in rules.items()})


_HOOK = ("type", "hook", "prio", "policy")
_NAMES = ("steer", "refuse", "verdicts", "cluster-ips", "service-cidrs", "pods")


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _services(elements: Mapping[str, list[Any]]) -> dict[FrontendKey, str]:
    """Where each service goes; to "" where that is not of our making."""
    found: dict[FrontendKey, str] = {}
    placed = [(element, name) for name in ("steer", "refuse") for element in elements[name]]
    for element, target in chain(placed, filter(None, map(_mapped, elements["verdicts"]))):
        match element:
            case {"concat": [str(address), ("tcp" | "udp") as protocol, int(port)]}:
                key = (parse_address(address), port, _PROTOCOLS[protocol])
                found[key] = "" if key in found else target  # no service is in two of them
            case _:
                pass
    return found


def _mapped(element: object) -> tuple[object, str] | None:
    match element:
        case [key, {"goto": {"target": str(target)}}]:
            return key, target
        case [key, _]:
            return key, ""
        case _:
            return None


def _network(element: object) -> Cidr | None:
    match element:
        case {"prefix": {"addr": str(address), "len": int(length)}}:
            return Cidr(parse_address(address), length)
        case str(address):
            return Cidr(parse_address(address), 128 if ":" in address else 32)
        case _:
            return None
