"""Transactions on our nftables table as values, and their form as nft script.

A transaction is atomic in the kernel (PARITY 17.12). Where one is too large for the kernel to take,
it may be cut between its steps. A step is what only nft(8) puts into words for the kernel (tables,
chains, rules, networks), as its script; or it is elements of sets that change together, as data:
those have a script too, and the kernel's own form (pyproxy.core.nfnetlink).
"""

from collections.abc import Iterable
from typing import Literal

import msgspec

FAMILY, NAME = "inet", "pyproxy"
TABLE = f"{FAMILY} {NAME}"


class Element(msgspec.Struct, frozen=True):
    """An element of a set or a map.

    key: address, "tcp" or "udp", port: as many of these as the set has. goto: the chain that a map
    leads to; "" in a set, and where the element goes. timeout_s: seconds; 0 for ever.
    """

    key: tuple[str | int, ...]
    goto: str = ""
    timeout_s: int = 0

    def __str__(self) -> str:
        timeout = f" timeout {self.timeout_s}s" if self.timeout_s else ""
        verdict = f" : goto {self.goto}" if self.goto else ""
        return f"{' . '.join(map(str, self.key))}{timeout}{verdict}"


class Elements(msgspec.Struct, frozen=True):
    """Elements that come to a set, or go from it. What comes may be there already."""

    verb: Literal["add", "delete"]
    set_name: str
    elements: tuple[Element, ...]

    def __str__(self) -> str:
        listed = ", ".join(map(str, self.elements))
        return f"{self.verb} element {TABLE} {self.set_name} {{ {listed} }}"


Step = str | tuple[Elements, ...]


class Transaction(msgspec.Struct, frozen=True):
    """Steps in their order. operations: how many elements, chains and rules come or go in them."""

    steps: tuple[Step, ...] = ()
    operations: int = 0

    def __bool__(self) -> bool:
        return bool(self.steps)

    def __add__(self, other: "Transaction") -> "Transaction":
        return Transaction(self.steps + other.steps, self.operations + other.operations)


def script(steps: Iterable[Step]) -> str:
    """Return the steps as a script of nft(8), a statement in each line."""
    return "".join(
        f"{line}\n" for step in steps for line in ([step] if isinstance(step, str) else step)
    )
