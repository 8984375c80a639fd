"""Colours and columns for a terminal; plain text where the output is read by something else."""

import os
import sys
from collections.abc import Sequence
from typing import TextIO

_CODES = {"good": "32", "bad": "31", "warn": "33", "dim": "2", "bold": "1"}


class Paint:
    """Paints words, if there is somebody to see it (https://no-color.org)."""

    def __init__(self, out: TextIO | None = None) -> None:
        out = sys.stdout if out is None else out
        is_wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self.has_colours = is_wanted and out.isatty()

    def __call__(self, text: str, kind: str) -> str:
        """The text in the colour of a kind: good, bad, warn, dim, bold; "" for none."""
        if not self.has_colours or not kind or not text:
            return text
        return f"\x1b[{_CODES[kind]}m{text}\x1b[0m"


class Cell(str):
    """A word of a table, and the kind of its colour."""

    __slots__ = ("kind",)
    kind: str

    def __new__(cls, text: object, kind: str = "") -> "Cell":
        """Make it from anything that can be written."""
        cell = super().__new__(cls, text)
        cell.kind = kind
        return cell


def lines(head: Sequence[str], rows: Sequence[Sequence[str]], paint: Paint) -> list[str]:
    """The rows under their head, in columns as wide as they need; numbers to the right.

    Without colours in a third of the time: what asks for 10,000 rows is mostly a pipe.
    """
    columns = list(zip(head, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    is_number = [bool(rows) and all(map(_is_number, set(column[1:]))) for column in columns]
    if not paint.has_colours:
        plain = "  ".join(
            f"{{:{'>' if is_right else '<'}{width}}}"
            for width, is_right in zip(widths, is_number, strict=True)
        )
        return [plain.format(*row).rstrip() for row in (head, *rows)]
    table = [[Cell(word, "bold") for word in head], *rows]
    told = []
    for row in table:
        words = []
        for word, width, is_right in zip(row, widths, is_number, strict=True):
            painted = paint(word, getattr(word, "kind", ""))
            gap = " " * (width - len(word))
            words.append(gap + painted if is_right else painted + gap)
        told.append("  ".join(words).rstrip())
    return told


def _is_number(word: str) -> bool:
    return (word[:1].isdigit() and ":" not in word) or word == "-"


def size(count: float | None) -> str:
    """A number of bytes as people read it."""
    if count is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration(seconds: float | None) -> str:
    """A time as people read it: its two greatest units."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    for unit, name, below, below_name in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "m"),
        (60, "m", 1, "s"),
    ):
        if whole >= unit:
            return f"{whole // unit}{name}{whole % unit // below}{below_name}"
    return f"{whole}s"
