"""The live TCP connections of one process, and what they share."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyproxy.core.balancer import Balancer
from pyproxy.forward.dial import Dialler
from pyproxy.forward.limits import Admission
from pyproxy.forward.poller import Poller
from pyproxy.forward.relay import Workspace
from pyproxy.forward.settings import ForwardSettings
from pyproxy.forward.sockets import RawSocket
from pyproxy.forward.tcp import Connection
from pyproxy.forward.ticker import Ticker

if TYPE_CHECKING:
    from pyproxy.metrics import ServicePortCounters
    from pyproxy.model.table import Frontend

# How exactly connect time-outs are kept: 50 ms of the default second.
_TICK_S = 0.05
# A connection that lives longer than once or twice this is not a short one.
_YOUTH_S = 1.0


class Connections:
    """Owns the live connections, the deadlines of the dialling, and the set of the young."""

    def __init__(
        self,
        settings: ForwardSettings,
        balancer: Balancer,
        dialler: Dialler,
        poller: Poller,
        admission: Admission,
        clock: Callable[[], float],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.settings = settings
        self.balancer = balancer
        self.dialler = dialler
        self.poller = poller
        self.admission = admission
        self.clock = clock
        self.workspace = Workspace()
        self._live: set[Connection] = set()
        self._dialling: set[Connection] = set()
        self._young: set[Connection] = set()
        self._deadlines = Ticker(loop, _TICK_S, self._expire)
        self._birthdays = Ticker(loop, _YOUTH_S, self._age)
        self._all_ended = asyncio.Event()
        self._all_ended.set()

    def open(
        self,
        frontend: "Frontend",
        counters: "ServicePortCounters",
        client: RawSocket,
        client_address: str,
    ) -> None:
        """Take over an accepted client."""
        connection = Connection(self, frontend, counters, client, client_address)
        counters.opened += 1
        counters.active += 1
        self.admission.opened()
        self._live.add(connection)
        self._all_ended.clear()
        self.poller.guard(connection, connection.start)

    def dialling(self, connection: Connection) -> None:
        """Watch the connection's `next_step_s` until `dialled` or `ended`."""
        self._dialling.add(connection)
        self._deadlines.wake()

    def dialled(self, connection: Connection) -> None:
        """Watch its `next_step_s` no more; tell it when it `has_aged`."""
        self._leave_dialling(connection)
        self._young.add(connection)
        self._birthdays.wake()

    def ended(self, connection: Connection) -> None:
        """Forget a closed connection."""
        self._leave_dialling(connection)
        self._young.discard(connection)
        self._live.discard(connection)
        self.admission.closed()
        if not self._live:
            self._all_ended.set()

    async def wait_ended(self) -> None:
        """Wait until no connection is live."""
        await self._all_ended.wait()

    def cut_all(self) -> None:
        """Reset every live connection."""
        for connection in list(self._live):
            self.poller.guard(connection, connection.cut)

    def close(self) -> None:
        """Cut what is live, and return the timer and the pipes."""
        self.cut_all()
        self._deadlines.stop()
        self._birthdays.stop()
        self.workspace.pipes.close()

    def _leave_dialling(self, connection: Connection) -> None:
        self._dialling.discard(connection)
        self.admission.fed(connection)

    def _age(self) -> bool:
        aged, self._young = self._young, set()
        for connection in aged:
            self.poller.guard(connection, connection.has_aged)
        return bool(aged)

    def _expire(self) -> bool:
        now_s = self.clock()
        for connection in [c for c in self._dialling if c.next_step_s <= now_s]:
            self.poller.guard(connection, connection.on_step_due)
        return bool(self._dialling)
