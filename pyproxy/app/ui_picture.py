"""Which Services the picture shows, and the endpoints that their clients are at.

The busiest ones, and where there is room those that are in trouble. Who is busy is judged over some
seconds, so that the picture does not jump.
"""

import asyncio
import heapq
from collections.abc import Mapping
from typing import Any

from pyproxy.app import control_lists
from pyproxy.app.control_parts import Parts
from pyproxy.app.ui_services import Doing
from pyproxy.model.service import ServiceName
from pyproxy.ops.control import ControlError

MOST_SERVICES = 12
MOST_ENDPOINTS = 8
# How much of the newest look is in the judgement; looks are two seconds apart.
_NEW_SHARE = 0.3
# A connection without a byte counts as much as these.
_CONNECTION_BYTES = 500.0
_IN_A_TURN = 500
_TROUBLE = {"failing": 0.5, "degraded": 0.25, "healthy": 0.0}

Row = dict[str, Any]


class Picture:
    """What is in the picture now."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._busy: dict[ServiceName, float] = {}

    async def look(self, doings: Mapping[ServiceName, Doing]) -> list[Row]:
        """The Services of the picture, each with its endpoints."""
        rows = []
        for name in await self._chosen(doings):
            try:
                told = await control_lists.endpoints(self._parts, name)
                await asyncio.sleep(0)
            except ControlError:
                continue  # it has gone in the meantime
            rows.append(_row(doings[name].number, told["endpoints"]))
        return rows

    async def _chosen(self, doings: Mapping[ServiceName, Doing]) -> list[ServiceName]:
        before, busy = self._busy, {}
        shown = []
        for number, (name, doing) in enumerate(doings.items(), start=1):
            if not number % _IN_A_TURN:
                await asyncio.sleep(0)
            now = doing.to_endpoint + doing.to_client + _CONNECTION_BYTES * doing.connections
            judged = _NEW_SHARE * now + (1 - _NEW_SHARE) * before.get(name, now)
            if judged > 1:
                busy[name] = judged
            if doing.state != "left":
                shown.append((busy.get(name, _TROUBLE[doing.state]), name))
        self._busy = busy
        return sorted(name for _, name in heapq.nlargest(MOST_SERVICES, shown))


def _row(number: int, endpoints: list[Row]) -> Row:
    """Those that have connections, and those that take none, before the others."""
    first = heapq.nsmallest(MOST_ENDPOINTS, endpoints, key=_rank)
    return {
        "id": number,
        "total": len(endpoints),
        "connections": sum(row["connections"] for row in endpoints),
        "endpoints": [
            [row["endpoint"], row["pod"], state_of(row), row["connections"]]
            for row in sorted(first, key=lambda row: str(row["endpoint"]))
        ],
    }


def _rank(row: Row) -> tuple[bool, bool, str]:
    return not row["ejected_by"], not row["used"], row["endpoint"]


def state_of(row: Row) -> str:
    """How an endpoint is, in a word."""
    if row["ejected_by"]:
        return "ejected"
    if row["used"]:
        return "used"
    if row["terminating"]:
        return "terminating"
    return "unused" if row["ready"] else "unready"
