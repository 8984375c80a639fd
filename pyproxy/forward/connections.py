"""The live TCP connections of one process, and what they share."""

import asyncio
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from pyproxy.core.balancer import Balancer
from pyproxy.forward.dial import Dialler
from pyproxy.forward.limits import Admission
from pyproxy.forward.live_counts import LiveCounts
from pyproxy.forward.poller import Poller
from pyproxy.forward.records import Ends
from pyproxy.forward.relay import Workspace
from pyproxy.forward.served import ServedPort, ServedService
from pyproxy.forward.settings import ForwardSettings
from pyproxy.forward.sockets import RawSocket, SocketAddress, reset_on_close
from pyproxy.forward.tcp import Connection
from pyproxy.forward.ticker import Ticker
from pyproxy.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyproxy.forward.listeners import TcpListener
    from pyproxy.model.addresses import Family
    from pyproxy.model.reasons import CloseReason
    from pyproxy.model.service import ServiceName, ServicePortName
    from pyproxy.model.table import Backend, Frontend, FrontendKey

# How exactly connect time-outs are kept: 50 ms of the default second.
_TICK_S = 0.05
# A connection that lives longer than once or twice this is not a short one.
_YOUTH_S = 1.0
# How exactly the times of long-lived connections are kept.
_LOOK_S = 0.5


class Connections:
    """Owns the live connections, by the Service port they came for, and the timers over them.

    frontends: those of the newest table. looks: how often the long-lived were looked at.
    """

    def __init__(
        self,
        settings: ForwardSettings,
        balancer: Balancer,
        dialler: Dialler,
        poller: Poller,
        admission: Admission,
        metrics: Metrics,
        live_counts: LiveCounts,
        ends: Ends,
    ) -> None:
        self.settings = settings
        self.balancer = balancer
        self.dialler = dialler
        self.poller = poller
        self.admission = admission
        self.clock = poller.clock
        self.workspace = Workspace(poller.clock)
        self.frontends: Mapping[FrontendKey, Frontend] = {}
        self.looks = 0
        self._metrics = metrics
        self._live_counts = live_counts
        self._ends = ends
        # Held by the listeners and the connections of each; gone with the last of them.
        self._ports: WeakValueDictionary[tuple[ServicePortName, Family], ServedPort]
        self._ports = WeakValueDictionary()
        self._services: WeakValueDictionary[ServiceName, ServedService] = WeakValueDictionary()
        # Those that were opened lately, and all that dial. While there are any, both timers tick.
        self._young: set[Connection] = set()
        loop = poller.loop
        self._deadlines = Ticker(loop, _TICK_S, self._expire)
        self._birthdays = Ticker(loop, _YOUTH_S, self._age)
        self._looks = Ticker(loop, _LOOK_S, self._look)
        self._all_ended = asyncio.Event()
        self._all_ended.set()

    def served(self, backend: "Backend") -> ServedPort:
        """Return what the connections of a Service port and family share."""
        key = backend.name, backend.family
        port = self._ports.get(key)
        if port is None:
            name = backend.name.service
            service = self._services.get(name)
            if service is None:
                service = self._services[name] = ServedService(name)
            counters = self._metrics.service_port(backend.name)
            port = ServedPort(service, counters, self.balancer.pool(backend))
            self._ports[key] = port
        return port

    def updated(self, backend: "Backend") -> None:
        """Look after the connections to endpoints that have left, after the pool was updated."""
        port = self._ports.get((backend.name, backend.family))
        if port is not None and port.live:
            now_s = self.clock()
            port.note_departures(now_s)
            self._end_overdue(port, now_s)
            self._looks.wake()

    def open(
        self, listener: "TcpListener", client: RawSocket, client_address: SocketAddress
    ) -> None:
        """Take over an accepted client, or refuse it."""
        served = listener.served
        counters = served.counters
        counters.opened += 1
        if (listener.max_connections is not None or self.admission.is_crowded()) and (
            refusal := self._refusal(served)
        ) is not None:
            counters.closed[refusal] += 1
            if refusal in self._ends.told:
                self._ends.refused(listener, client_address, refusal)
            reset_on_close(client)
            client.close()
            return
        connection = Connection(self, listener, client, client_address)
        counters.active += 1
        served.live.add(connection)
        served.service.live += 1
        if not self.admission.live:
            self._all_ended.clear()
        self.admission.live += 1
        if not self._young:
            self._deadlines.wake()
            self._birthdays.wake()
        self._young.add(connection)
        self.poller.guard(connection, connection.start)

    def ended(self, connection: Connection, reason: "CloseReason") -> None:
        """Count and forget a closed connection."""
        served = connection.served
        served.counters.active -= 1
        served.counters.closed[reason] += 1
        self._young.discard(connection)
        served.live.discard(connection)
        served.service.live -= 1
        if served.options.max_connections is not None:
            self._live_counts.publish(served.service.name, served.service.live)
        admission = self.admission
        if connection.to_endpoint is None:
            admission.fed(connection)
        admission.closed()
        if not admission.live:
            self._all_ended.set()
        if reason in self._ends.told:
            self._ends.connection(connection, reason)

    def live(self) -> list[Connection]:
        """Return every live connection, those that dial included."""
        return [connection for port in self._ports.values() for connection in port.live]

    async def wait_ended(self) -> None:
        """Wait until no connection is live."""
        await self._all_ended.wait()

    def cut_all(self) -> None:
        """Reset every live connection: pyproxy stops."""
        for connection in self.live():
            self._cut(connection, "drained")

    def close(self) -> None:
        """Cut what is live, and return the timers and the pipes."""
        self.cut_all()
        for ticker in (self._deadlines, self._birthdays, self._looks):
            ticker.stop()
        self.workspace.pipes.close()

    def _refusal(self, served: ServedPort) -> "CloseReason | None":
        """Why one more client of this Service port cannot be served, or None."""
        service, limit = served.service, served.options.max_connections
        if limit is not None:
            total = self._live_counts.publish(service.name, service.live + 1)
            if total > limit:
                self._live_counts.publish(service.name, service.live)
                return "over_limit"
        if self.admission.is_crowded() and service is self._busiest():
            return "over_budget"
        return None

    def _busiest(self) -> ServedService:
        return max(self._services.values(), key=lambda service: service.live)

    def _cut(self, connection: Connection, reason: "CloseReason") -> None:
        self.poller.guard(connection, partial(connection.cut, reason))

    def _age(self) -> bool:
        aged = [c for c in self._young if c.to_endpoint is not None]
        self._young.difference_update(aged)
        for connection in aged:
            self.poller.guard(connection, connection.has_aged)
        if aged:
            self._looks.wake()
        return bool(self._young)

    def _expire(self) -> bool:
        now_s = self.clock()
        for connection in [c for c in self._young if c.next_step_s <= now_s]:
            self.poller.guard(connection, connection.on_step_due)
        return bool(self._young)

    def _look(self) -> bool:
        """Look at the Service ports whose connections may last for too long."""
        self.looks += 1
        now_s = self.clock()
        ports = [port for port in self._ports.values() if port.needs_looks()]
        for port in ports:
            self._end_overdue(port, now_s)
            if port.limits_life():
                for connection in list(port.live):
                    self.poller.guard(connection, partial(connection.look, now_s))
        return bool(ports)

    def _end_overdue(self, port: ServedPort, now_s: float) -> None:
        for connection in port.overdue(now_s, self.settings.drain_timeout_s):
            self._cut(connection, "endpoint_removed")
