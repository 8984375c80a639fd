"""What `pyproxy local` shows: a row for each Service, or each pod of a headless one.

Rows are data; they become lines of aligned columns, or the JSON that docs/local.md describes.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from pyproxy.core.local_service import Claimant, Kind, LocalService
from pyproxy.core.loopback import LocalPort, Placements

_HEADINGS = ("SERVICE", "KIND", "ADDRESS", "PORTS", "ENDPOINTS", "NOTE")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line. address: "" where nothing is placed. endpoints: how many are ready."""

    claimant: Claimant
    kind: Kind
    address: str = ""
    ports: tuple[LocalPort, ...] = ()
    endpoints: int = 0
    note: str = ""


def rows_of(
    services: Iterable[LocalService], placements: Placements, notes: Mapping[Claimant, str]
) -> tuple[Row, ...]:
    """Return the rows, by context, namespace and name. notes: of whoever starts forwarding."""
    pods: dict[Claimant, list[Claimant]] = {}
    for claimant in sorted(placements):
        if claimant.pod:
            pods.setdefault(claimant.service, []).append(claimant)
    return tuple(
        row
        for local in sorted(services, key=lambda local: local.claimant)
        for claimant in pods.get(local.claimant, [local.claimant])
        for row in [_row(local, claimant, placements, notes)]
    )


def _row(
    local: LocalService,
    claimant: Claimant,
    placements: Placements,
    notes: Mapping[Claimant, str],
) -> Row:
    placement = placements.get(claimant)
    return Row(
        claimant=claimant,
        kind=local.kind,
        address=placement.address if placement else "",
        ports=placement.ports if placement else (),
        endpoints=1 if claimant.pod else local.ready_count,
        note=notes.get(claimant) or _own_note(local),
    )


def _own_note(local: LocalService) -> str:
    if local.kind == "ExternalName":
        return f"a name for {local.service.external_name}"
    return "" if local.ready_count else "no ready endpoint"


def to_json(rows: Iterable[Row]) -> dict[str, Any]:
    """Return the rows as plain data. Fields may be added to it; none changes its meaning."""
    return {
        "services": [
            {
                "context": row.claimant.context,
                "namespace": row.claimant.namespace,
                "name": row.claimant.name,
                "pod": row.claimant.pod or None,
                "kind": row.kind,
                "address": row.address or None,
                "ports": [msgspec.to_builtins(port) for port in row.ports],
                "endpoints": row.endpoints,
                "note": row.note,
            }
            for row in rows
        ]
    }


def to_lines(rows: Iterable[Row]) -> Iterator[str]:
    """Yield aligned columns, with a heading. The context is shown where there are several."""
    rows = tuple(rows)
    several = len({row.claimant.context for row in rows}) > 1
    headings = ("CONTEXT", *_HEADINGS) if several else _HEADINGS
    table = [headings, *(_cells(row, with_context=several) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        yield "  ".join(
            f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)
        ).rstrip()


def _cells(row: Row, *, with_context: bool) -> tuple[str, ...]:
    cells = (
        str(row.claimant),
        row.kind,
        row.address or "-",
        ",".join(map(port_text, row.ports)) or "-",
        str(row.endpoints),
        row.note,
    )
    return (row.claimant.context or "-", *cells) if with_context else cells


def port_text(port: LocalPort) -> str:
    """Return it for a person: `8080`, `80->8080` where it is another one here, `53->8053/UDP`."""
    text = str(port.port) if port.port == port.local else f"{port.port}->{port.local}"
    return text if port.protocol == "TCP" else f"{text}/{port.protocol}"
