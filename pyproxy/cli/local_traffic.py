"""What goes through each Service of `pyproxy local`: so far, and in a second."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyproxy.app.local import State
    from pyproxy.core.local_service import Claimant
    from pyproxy.metrics import ServicePortCounters

# Of CloseReason: what a client takes for a fault.
_ERRORS = frozenset({"no_endpoint", "connect_failed", "endpoint_reset", "error"})


class Traffic(NamedTuple):
    """Connections that are open, opened so far, and ended by an error; bytes both ways.

    As a rate, all but `active` are per second.
    """

    active: int = 0
    opened: float = 0
    size: float = 0
    errors: float = 0


NOTHING = Traffic()


class Meter:
    """Reads the counters, and makes rates of two readings."""

    def __init__(self) -> None:
        self.totals: Mapping[Claimant, Traffic] = {}
        self.rates: Mapping[Claimant, Traffic] = {}
        self._read_s = 0.0

    def read(self, state: "State", now_s: float) -> None:
        """Take a reading. now_s: of a monotonic clock."""
        before, passed_s = self.totals, now_s - self._read_s
        self.totals = _totals(state)
        self._read_s = now_s
        self.rates = {
            claimant: _rate(before[claimant], now, passed_s)
            for claimant, now in self.totals.items()
            if claimant in before and passed_s > 0
        }


def _rate(before: Traffic, now: Traffic, passed_s: float) -> Traffic:
    """A Service that went and came again begins anew."""
    opened, size, errors = (
        max(0.0, b - a) / passed_s for a, b in zip(before[1:], now[1:], strict=True)
    )
    return Traffic(now.active, opened, size, errors)


def _totals(state: "State") -> "dict[Claimant, Traffic]":
    counted: dict[tuple[str, str, str], Traffic] = {}
    for context, metrics in state.metrics.items():
        for name, counters in metrics.service_ports():
            key = (context, name.namespace, name.name)
            counted[key] = _sum(counted.get(key, NOTHING), counters)
    return {row.claimant: counted.get(_key(row.claimant), NOTHING) for row in state.rows}


def _key(claimant: "Claimant") -> tuple[str, str, str]:
    """Under which name its Service is forwarded (core.local_projection)."""
    name = f"{claimant.name}.{claimant.pod}" if claimant.pod else claimant.name
    return claimant.context, claimant.namespace, name


def _sum(before: Traffic, port: "ServicePortCounters") -> Traffic:
    return Traffic(
        before.active + port.active,
        before.opened + port.opened,
        before.size + port.bytes_to_client + port.bytes_to_endpoint,
        before.errors + sum(count for why, count in port.closed.items() if why in _ERRORS),
    )
