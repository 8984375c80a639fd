"""What the user of the live table has chosen by keys: which rows, in which order, from where on.

/            type a filter; Enter keeps it, Escape drops it
s            sort by the next column
up, down     scroll; also j and k, page up and page down
q            end
"""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from pyproxy.cli.local_traffic import NOTHING

if TYPE_CHECKING:
    from pyproxy.cli.local_traffic import Traffic
    from pyproxy.core.local_service import Claimant
    from pyproxy.core.local_table import Row

SORTS = ("name", "connections", "bytes/s", "errors")

ESCAPE = "\x1b"
_ENTER = {"\n", "\r"}
_ERASE = {"\x7f", "\b"}
_PAGE = 10
_STEPS = {
    "j": 1,
    "k": -1,
    "\x1b[B": 1,
    "\x1b[A": -1,
    "\x1b[6~": _PAGE,
    "\x1b[5~": -_PAGE,
}
# A terminal sends keys without a character as several (ECMA-48 5.4; ESC O with keypad modes).
_KEY = re.compile(r"\x1b\[[0-9;]*[A-Za-z~]|\x1bO.|.", re.DOTALL)


def keys_of(text: str) -> Iterator[str]:
    """Yield the keys in what a terminal has sent."""
    return (match[0] for match in _KEY.finditer(text))


class Choices:
    """Owns what was chosen. has_quit: whether the user wants to end."""

    def __init__(self) -> None:
        self.filter = ""
        self.is_typing = False
        self.sort = 0
        self.first = 0
        self.has_quit = False

    def press(self, key: str) -> None:
        """Do what a key stands for."""
        if self.is_typing:
            self._type(key)
        elif key == "q":
            self.has_quit = True
        elif key == "s":
            self.sort = (self.sort + 1) % len(SORTS)
        elif key == "/":
            self.is_typing = True
        elif key == ESCAPE:
            self.filter = ""
        elif key in _STEPS:
            self.first += _STEPS[key]

    def rows(
        self,
        rows: "tuple[Row, ...]",
        totals: "Mapping[Claimant, Traffic]",
        rates: "Mapping[Claimant, Traffic]",
    ) -> "list[Row]":
        """Return the rows that are wanted, in the order that is wanted."""

        def rank(row: "Row") -> float:
            total, rate = totals.get(row.claimant, NOTHING), rates.get(row.claimant, NOTHING)
            return (0, -total.active, -rate.size, -total.errors)[self.sort]

        wanted = self.filter.lower()
        return sorted((row for row in rows if wanted in _text(row)), key=rank)

    def scrolled(self, count: int, room: int) -> int:
        """Return the first row to show of so many, where there is room for some."""
        self.first = max(0, min(self.first, count - room))
        return self.first

    def _type(self, key: str) -> None:
        if key in _ENTER:
            self.is_typing = False
        elif key == ESCAPE:
            self.is_typing, self.filter = False, ""
        elif key in _ERASE:
            self.filter = self.filter[:-1]
        elif key.isprintable():
            self.filter += key


def _text(row: "Row") -> str:
    return f"{row.claimant.context} {row.claimant} {row.address} {row.kind}".lower()
