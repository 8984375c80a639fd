"""The live table of `pyproxy local`, drawn: one line for each Service, whatever the width."""

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from pyproxy.cli.local_choices import SORTS, Choices
from pyproxy.cli.local_traffic import NOTHING, Meter
from pyproxy.core.local_table import port_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import RenderableType

    from pyproxy.app.local import State
    from pyproxy.cli.local_traffic import Traffic
    from pyproxy.core.local_table import Row

# The title of the columns and two lines at the end; and so many rows at least.
_AROUND = 3
_FEWEST = 3
# Between two columns.
_GAP = 2
_PORTS_WIDTH = 26
_PORTS_WIDTH_IF_NARROW = 14
_NARROW = 100
_LEAST_SERVICE_WIDTH = 24
_LEAST_NOTE_WIDTH = 12

_NUMBERS = ("READY", "CONNS", "NEW/S", "BYTES/S", "ERRORS")
# Which columns are left out where there is no room for all, the first one first.
_SPARED = ("NEW/S", "ERRORS", "BYTES/S", "CONNS", "READY", "PORTS", "CONTEXT")


def picture(
    state: "State",
    meter: Meter,
    choices: Choices,
    news: "Sequence[str]",
    *,
    width: int,
    height: int,
) -> "RenderableType":
    """Return what stands in a terminal of this size."""
    rows = choices.rows(state.rows, meter.totals, meter.rates)
    room = max(_FEWEST, height - _AROUND - len(news))
    first = choices.scrolled(len(rows), room)
    shown = rows[first : first + room]
    # By all rows, so that scrolling moves no column.
    widths = _widths(state.rows, width, several=len(state.ways) > 1)
    parts: list[RenderableType] = [_table(shown, meter, widths)]
    parts += [_line(Text(text, style="yellow")) for text in news]
    parts.append(_summary(state, rows, first, len(shown)))
    parts.append(_keys(choices))
    return Group(*parts)


def _widths(rows: "Sequence[Row]", width: int, *, several: bool) -> dict[str, int]:
    """Return the columns that there is room for, and how wide each is."""
    most_ports = _PORTS_WIDTH_IF_NARROW if width < _NARROW else _PORTS_WIDTH
    widths = {
        **({"CONTEXT": _widest("CONTEXT", (r.claimant.context for r in rows))} if several else {}),
        "SERVICE": 0,
        "ADDRESS": _widest("ADDRESS", (row.address for row in rows)),
        "PORTS": min(most_ports, _widest("PORTS", map(_ports, rows))),
        **{column: len(column) for column in _NUMBERS},  # more than `amount` needs
    }
    count = len(widths)
    for column in _SPARED:
        if _left(widths, width) >= _LEAST_SERVICE_WIDTH:
            break
        widths.pop(column, None)
    left = _left(widths, width)
    widths["SERVICE"] = max(1, min(left, _widest("SERVICE", (str(r.claimant) for r in rows))))
    left -= widths["SERVICE"] + _GAP
    if left >= _LEAST_NOTE_WIDTH and len(widths) == count:
        widths["NOTE"] = left
    return widths


def _left(widths: dict[str, int], width: int) -> int:
    return width - sum(widths.values()) - _GAP * (len(widths) - 1)


def _widest(title: str, texts: "Iterable[str]") -> int:
    return max(len(title), max(map(len, texts), default=0))


def _table(rows: "Iterable[Row]", meter: Meter, widths: dict[str, int]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, width in widths.items():
        table.add_column(
            column,
            justify="right" if column in _NUMBERS else "left",
            width=width,
            no_wrap=True,
            overflow="ellipsis",
        )
    for row in rows:
        total = meter.totals.get(row.claimant, NOTHING)
        cells = _cells(row, total, meter.rates.get(row.claimant, NOTHING))
        table.add_row(*(cells[column] for column in widths))
    return table


def _ports(row: "Row") -> str:
    return " ".join(map(port_text, row.ports)) or "-"


def _cells(row: "Row", total: "Traffic", rate: "Traffic") -> dict[str, Text]:
    return {
        "CONTEXT": Text(row.claimant.context),
        "SERVICE": Text(str(row.claimant)),
        "ADDRESS": Text(row.address or "-"),
        "PORTS": Text(_ports(row)),
        "READY": Text(str(row.endpoints), style="green" if row.endpoints else "red"),
        "CONNS": _number(total.active),
        "NEW/S": _number(rate.opened),
        "BYTES/S": _number(rate.size),
        "ERRORS": Text(amount(total.errors), style="red" if total.errors else "dim"),
        "NOTE": Text(row.note, style="dim"),
    }


def _number(value: float) -> Text:
    return Text(amount(value), style="" if value else "dim")


def amount(value: float) -> str:
    """Return a number in at most four characters: 7, 0.3, 12K, 1.5M."""
    for unit in ("", "K", "M", "G"):
        if value < 999.5:
            digits = 1 if 0 < value < 9.95 and value != int(value) else 0
            return f"{value:.{digits}f}{unit}"
        value /= 1000
    return f"{value:.0f}T"


def _summary(state: "State", rows: "list[Row]", first: int, shown: int) -> Text:
    ways = ", ".join(f"{context or 'cluster'} {way}" for context, way in state.ways.items())
    which = f"{first + 1}-{first + shown} of {len(rows)}" if shown else "none"
    hidden = len(state.rows) - len(rows)
    left_out = f" ({hidden} filtered out)" if hidden else ""
    return _line(Text(f"{which}{left_out}   upstream: {ways}", style="dim"))


def _keys(choices: Choices) -> Text:
    if choices.is_typing:
        return _line(Text(f"/{choices.filter}_   Enter keeps the filter, Escape drops it"))
    chosen = f" {choices.filter}" if choices.filter else ""
    return _line(Text(f"q quit   / filter{chosen}   s sort: {SORTS[choices.sort]}", style="dim"))


def _line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
