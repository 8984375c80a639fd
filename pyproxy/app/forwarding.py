"""What the agent asks of its data plane, be that in its own process or in workers."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Protocol

from pyproxy.app.questions import Told, What, tell
from pyproxy.core.affinity import Pin
from pyproxy.forward.forwarder import Forwarder
from pyproxy.model.service import ServiceName
from pyproxy.model.table import FrontendKey, VipTable

_REPORT_INTERVAL_S = 0.5


class Forwarding(Protocol):
    """A data plane. pyproxy.forward.forwarder.Forwarder says what each of these means."""

    async def extend(self, table: VipTable, touched: Collection[FrontendKey] | None = None) -> None:
        """Forward by this table; return once it is served. Raises PyproxyError when it is not."""

    async def retire(self) -> None:
        """Stop listening on what the newest table does not want; return once that is so."""

    def is_listening(self, key: FrontendKey) -> bool:
        """Whether a frontend takes new clients now."""

    def listening(self) -> frozenset[FrontendKey]:
        """The frontends that take new clients now."""

    def bind_faults(self) -> Mapping[FrontendKey, str]:
        """Why each frontend that should be listened on is not, or not by all."""

    def detail(self) -> list[dict[str, Any]]:
        """The processes that forward, for the health port; none beside the agent: empty."""

    async def live(self, what: What, of: ServiceName | None, limit: int) -> Told:
        """What is live, of one Service or of all: so many rows at most from each process."""

    def set_log_level(self, level: int) -> None:
        """Let other processes log from this level on."""

    def count_ejected(self) -> None:
        """Bring the counters of endpoints that are ejected now up to date."""

    async def run(self) -> None:
        """Keep it going, until cancelled."""

    async def stop_listening(self, *, has_successor: bool = False) -> int:
        """Take no new clients; return how many connections are live."""

    def pins(self) -> list[Pin]:
        """Where clients stick, for another agent."""

    def adopt(self, pins: Iterable[Pin]) -> None:
        """Take over where clients stick."""

    async def drain(self, timeout_s: float) -> None:
        """Take no new clients, wait until the live connections have ended, then cut the rest."""

    def close(self) -> None:
        """Reset what is live and give everything back. May be called twice."""


class InProcess:
    """A forwarder in the agent's own process. report: is called now and then."""

    def __init__(
        self, forwarder: Forwarder, report: Callable[[Forwarder], None] | None = None
    ) -> None:
        self._forwarder = forwarder
        self._report = report
        self.is_listening = forwarder.is_listening
        self.listening = forwarder.listening
        self.bind_faults = forwarder.bind_faults
        self.drain = forwarder.drain
        self.pins = forwarder.pins
        self.adopt = forwarder.adopt
        self.count_ejected = forwarder.count_ejected
        self.close = forwarder.close

    async def stop_listening(self, *, has_successor: bool = False) -> int:
        """Take no new clients; return how many connections are live."""
        self._forwarder.stop_listening(has_successor=has_successor)
        return self._forwarder.live_connections

    async def extend(self, table: VipTable, touched: Collection[FrontendKey] | None = None) -> None:
        """Forward by this table."""
        self._forwarder.extend(table, touched)

    async def retire(self) -> None:
        """Stop listening on what the newest table does not want."""
        self._forwarder.retire()

    def detail(self) -> list[dict[str, Any]]:
        """There is no other process."""
        return []

    async def live(self, what: What, of: ServiceName | None, limit: int) -> Told:
        """What is live, of one Service or of all: so many rows at most."""
        return await tell(self._forwarder.live, what, of, limit)

    def set_log_level(self, level: int) -> None:
        """There is no other process."""

    async def run(self) -> None:
        """Report; all else goes by itself."""
        while True:
            await asyncio.sleep(_REPORT_INTERVAL_S)
            if self._report is not None:
                self._report(self._forwarder)
