"""The forwarder of one process: takes VIP tables, forwards TCP and UDP by the newest of them."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from pyproxy.core.affinity import Pin
from pyproxy.core.balancer import Balancer
from pyproxy.forward.binding import Bindings
from pyproxy.forward.connections import Connections
from pyproxy.forward.dial import Dialler, DirectDialler
from pyproxy.forward.limits import Admission
from pyproxy.forward.listeners import TcpListeners
from pyproxy.forward.live import Live
from pyproxy.forward.live_counts import LiveCounts, OwnCounts
from pyproxy.forward.poller import Poller
from pyproxy.forward.records import Ends, EndsSettings
from pyproxy.forward.settings import ForwardSettings
from pyproxy.forward.sockets import migrates_clients
from pyproxy.forward.source import available_ports
from pyproxy.forward.udp import UdpServer
from pyproxy.metrics import Metrics
from pyproxy.model.addresses import FAMILIES
from pyproxy.model.table import Frontend, FrontendKey, VipTable

# For handshakes that have begun when a listener is to close: a round trip across a continent.
_HANDSHAKE_S = 0.2
# For answers to datagrams that were passed on before the flows were left to others.
_LAST_ANSWERS_S = 2.0

if TYPE_CHECKING:
    from pyproxy.model.addresses import Family
    from pyproxy.model.service import ServicePortName
    from pyproxy.model.table import Backend


class Forwarder:
    """Listens on every frontend of the table that can have clients, and forwards them.

    To be made, used and closed in one running event loop. Nothing here waits but `drain`.
    `clock` is monotonic, in seconds. live_counts: of the Services whose connections are limited,
    over all processes that forward; without it this one is alone. dialler: makes one that takes the
    place of the direct one, which it is given. ends: takes note of connections that end; without it
    nobody does.
    """

    def __init__(
        self,
        settings: ForwardSettings,
        balancer: Balancer,
        metrics: Metrics,
        clock: Callable[[], float],
        live_counts: LiveCounts | None = None,
        dialler: Callable[[Poller, Dialler], Dialler] | None = None,
        ends: Ends | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._balancer = balancer
        self._clock = clock
        self._metrics = metrics
        self._poller = Poller(loop, clock)
        self._admission = Admission(settings, self._poller, metrics, clock, loop)
        if ends is None:
            ends = Ends(EndsSettings(), lambda: 0.0, clock)
        keeps_sources = settings.source_address == "auto"
        ports = available_ports() if keeps_sources else None
        self._dialler: Dialler = DirectDialler(self._poller, metrics, ports)
        if dialler is not None:
            self._dialler = dialler(self._poller, self._dialler)
        self._connections = Connections(
            settings,
            balancer,
            self._dialler,
            self._poller,
            self._admission,
            metrics,
            OwnCounts() if live_counts is None else live_counts,
            ends,
        )
        self._tcp = TcpListeners(settings, self._poller, self._connections, self._admission)
        self._udp = UdpServer(
            settings, balancer, self._dialler, self._poller, self._admission, metrics, ends
        )
        self._bindings = Bindings(settings, {"TCP": self._tcp, "UDP": self._udp}, metrics, loop)
        self._frontends: Mapping[FrontendKey, Frontend] = {}
        self._unwanted: set[FrontendKey] = set()
        self._gone: dict[FrontendKey, Frontend] = {}
        self._uses: Counter[tuple[ServicePortName, Family]] = Counter()
        self._is_stopping = False
        self._has_left = asyncio.Event()
        self._leaving: asyncio.TimerHandle | None = None
        self._reuses_ports = settings.reuse_port
        self._loop = loop
        self._with_ejected: set[ServicePortName] = set()

    @property
    def live_connections(self) -> int:
        """TCP connections that are open now, those that are dialling included."""
        return self._admission.live

    @property
    def live_flows(self) -> int:
        """UDP flows that are open now."""
        return len(self._udp.flows)

    @property
    def live(self) -> Live:
        """Tells of what is live, row by row."""
        return Live(self._connections, self._udp, self._balancer, self._clock)

    def update(self, table: VipTable, touched: Collection[FrontendKey] | None = None) -> None:
        """Forward by this table from now on. Live connections and flows are left alone.

        touched: where it may differ from the last one; None: anywhere.
        """
        self.extend(table, touched)
        self.retire()

    def extend(self, table: VipTable, touched: Collection[FrontendKey] | None = None) -> None:
        """Forward by this table, but keep listening on what it does not want until `retire`.

        Between the two, steering follows: so each listener is up before its address is steered, and
        outlives the steering. A client that comes meanwhile is refused if the frontend can forward
        nobody now, and served by the last state of one that is gone.
        """
        if self._is_stopping:
            return
        self._dialler.node = table.node
        self._connections.frontends = self._udp.all_frontends = table.frontends
        gone, new = changes(self._frontends, table.frontends, touched)
        previous, self._frontends = self._frontends, table.frontends
        self._bindings.serve([frontend for frontend in new if may_forward(frontend)])
        for frontend in gone:
            self._bindings.dismiss(frontend.key)
        self._unwanted.update(frontend.key for frontend in gone)
        for frontend in new:
            self._unwanted.discard(frontend.key)
            if not may_forward(frontend):
                self._bindings.dismiss(frontend.key, frontend)
                self._unwanted.add(frontend.key)
        self._tell_pools(new)
        self._count_uses(gone, new, previous)
        self._metrics.table_generation = table.generation
        self._metrics.frontends = len(table.frontends)

    def retire(self) -> None:
        """Stop listening on what the newest table does not want."""
        for key in self._unwanted:
            self._bindings.retire(key)
        self._unwanted.clear()
        gone, self._gone = self._gone, {}
        self._release(gone.values())

    def is_listening(self, key: FrontendKey) -> bool:
        """Whether a frontend takes new clients now."""
        return self._tcp.has(key) or self._udp.has(key)

    def listening(self) -> frozenset[FrontendKey]:
        """The frontends that take new clients now."""
        return frozenset((*self._tcp.keys(), *self._udp.keys()))

    def bind_faults(self) -> Mapping[FrontendKey, str]:
        """Why each frontend that should be listened on is not; empty when all is well."""
        return self._bindings.faults()

    def pins(self) -> list[Pin]:
        """Where clients stick, for another process."""
        return list(self._balancer.pins(self._clock()))

    def adopt(self, pins: Iterable[Pin]) -> None:
        """Take over where clients stick; before the first table, or any time after."""
        self._balancer.adopt(pins, self._clock())

    async def drain(self, timeout_s: float) -> None:
        """Take no new clients, wait until the live connections have ended, then cut the rest.

        timeout_s: how long to wait, >= 0. Clients in the accept queues are still served. UDP flows
        go on meanwhile, but are not waited for: they end only by being idle. Those that were left
        to others get a moment, in which answers arrive.
        """
        self.stop_listening()
        try:
            async with asyncio.timeout(timeout_s):
                await self._has_left.wait()
                if self._udp.has_left and self._udp.flows:
                    await asyncio.sleep(_LAST_ANSWERS_S)
                await self._connections.wait_ended()
        except TimeoutError:
            self._connections.cut_all()
        self._udp.cut_all()

    def count_ejected(self) -> None:
        """Bring the counters of endpoints that are ejected now up to date."""
        found: Counter[ServicePortName] = Counter()
        for pool in self._balancer.pools():
            if pool.has_ejected:
                found[pool.backend.name] += len(pool.ejected())
        for name in self._with_ejected - found.keys():
            self._metrics.service_port_if_known(name).ejected = 0
        for name, count in found.items():
            self._metrics.service_port_if_known(name).ejected = count
        self._with_ejected = set(found)

    def close(self) -> None:
        """Reset what is live; give back every descriptor, pipe and timer. May be called twice."""
        self._is_stopping = True
        if self._leaving is not None:
            self._leaving.cancel()
        self._bindings.close()
        self._tcp.close()
        self._connections.close()
        self._udp.close()
        self._admission.stop()
        self._poller.shut_down()

    def stop_listening(self, *, has_successor: bool = False) -> None:
        """Take no new clients, and no more tables. Clients in the accept queues are served.

        has_successor: whether others listen on the same ports, and take over the UDP flows too.
        """
        if has_successor and not self._udp.has_left:
            self._udp.leave()
        if self._is_stopping:
            return
        self._is_stopping = True
        self._bindings.close()
        if self._reuses_ports and not migrates_clients() and self._tcp.ignore_new_clients():
            self._leaving = self._loop.call_later(_HANDSHAKE_S, self._retire_all)
        else:
            self._retire_all()

    def _retire_all(self) -> None:
        for key in self.listening():
            self._bindings.retire(key)
        self._has_left.set()

    def _tell_pools(self, changed: Iterable[Frontend]) -> None:
        """Frontends share their Service port's backend; each one is told of once."""
        backends: dict[int, Backend] = {id(f.backend): f.backend for f in changed}
        now_s = self._clock()
        for backend in backends.values():
            self._balancer.updated(backend, now_s)
            self._connections.updated(backend)

    def _count_uses(
        self,
        gone: "list[Frontend]",
        new: "list[Frontend]",
        previous: Mapping[FrontendKey, Frontend],
    ) -> None:
        """Count the frontends of each Service port; one that is gone counts until it is retired."""
        known = [previous.get(f.key) or self._gone.pop(f.key, None) for f in new]
        self._uses.update((f.backend.name, f.backend.family) for f in new)
        self._release(frontend for frontend in known if frontend is not None)
        self._gone.update((frontend.key, frontend) for frontend in gone)

    def _release(self, frontends: Iterable[Frontend]) -> None:
        """Forget the counters and the affinity of a Service port with its last frontend."""
        for frontend in frontends:
            backend = frontend.backend
            self._uses[backend.name, backend.family] -= 1
            if not self._uses[backend.name, backend.family]:
                del self._uses[backend.name, backend.family]
                self._balancer.removed(backend)
                if not any((backend.name, family) in self._uses for family in FAMILIES):
                    self._metrics.forget(backend.name)


def changes(
    old: Mapping[FrontendKey, Frontend],
    new: Mapping[FrontendKey, Frontend],
    touched: Collection[FrontendKey] | None = None,
) -> tuple[list[Frontend], list[Frontend]]:
    """Return the frontends that are gone, and those that are new or not what they were.

    touched: where the two may differ; None: anywhere. A table shares with its predecessor what did
    not change, so nearly all is the same object: 10,000 frontends take a few milliseconds.
    """
    if old is new:
        return [], []
    keys = old.keys() | new.keys() if touched is None else touched
    gone = [old[key] for key in keys if key in old and key not in new]
    changed = [
        new[key]
        for key in keys
        if key in new and (known := old.get(key)) is not new[key] and known != new[key]
    ]
    return gone, changed


def may_forward(frontend: Frontend) -> bool:
    """Whether any client could be forwarded.

    Where none can, nobody listens: the kernel then refuses at once (RST, or ICMP port unreachable),
    without a round through user space (PARITY 5.1).
    """
    backend = frontend.backend
    if not backend.has_any:
        return False
    if frontend.kind == "ClusterIP":
        return bool(backend.local if backend.internal_local else backend.cluster)
    return bool(backend.cluster or (backend.external_local and backend.local))
