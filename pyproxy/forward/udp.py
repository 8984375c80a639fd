"""UDP frontends: one socket each, and the table of their flows.

Answers leave from the frontend's socket, so they come from the VIP. A frontend that leaves the
table takes no new clients but keeps its socket for the flows it has, until the last of them is idle
(PARITY 5.11, 11.10); it is revived when it comes back before that.
"""

import logging
from errno import EAGAIN, EIO
from typing import TYPE_CHECKING

from pyproxy.core.balancer import Balancer
from pyproxy.core.flows import FlowTable
from pyproxy.forward.burst import Burst
from pyproxy.forward.datagrams import Datagrams, Run, send_run
from pyproxy.forward.dial import Dialler
from pyproxy.forward.flow import UdpFlow
from pyproxy.forward.limits import Admission
from pyproxy.forward.poller import DATAGRAMS, Poller
from pyproxy.forward.settings import ForwardSettings
from pyproxy.forward.sockets import RawSocket, SocketAddress, bind_udp, receive_no_more
from pyproxy.forward.ticker import Ticker
from pyproxy.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pyproxy.core.affinity import EndpointKey
    from pyproxy.forward.records import Ends
    from pyproxy.model.reasons import FlowEnd
    from pyproxy.model.table import Frontend, FrontendKey

log = logging.getLogger(__name__)

# How exactly idle times are kept.
_TICK_S = 1.0
# Linux takes datagrams from this address, and sends what is meant for it to ::1: so this node's
# loopback would be open to whoever writes it (udpv6_sendmsg).
_NOBODY = "::"


class UdpFrontend:
    """The socket of one frontend. `flows` counts those that use it."""

    def __init__(self, server: "UdpServer", frontend: "Frontend", sock: RawSocket) -> None:
        self._server = server
        self._sock = sock
        self._is_open = True
        # What clients have sent in this turn, less those whose datagrams were passed on.
        self._waiting: Iterator[tuple[SocketAddress, list[memoryview]]] = iter(())
        self.flows = 0
        self.is_retired = False
        self.has_left = False
        self.judge_by(frontend)

    def __str__(self) -> str:
        return f"the socket of {self.frontend}"

    def judge_by(self, frontend: "Frontend") -> None:
        """Send new flows, and flows that move, by this state of the frontend."""
        self.frontend = frontend
        self.counters = self._server.metrics.service_port(frontend.backend.name)
        self.pool = self._server.balancer.pool(frontend.backend)

    def retire(self) -> None:
        """Take no new clients; close with the last flow."""
        self.is_retired = True
        self.close_if_unused()

    def leave(self) -> None:
        """Leave all clients to the others that share the port; what has come is still passed on.

        The socket stays for answers, and is closed by `UdpServer.close`.
        """
        try:
            receive_no_more(self._sock)
        except OSError as error:
            log.warning("%s keeps its clients: %s", self, error.strerror)
            self.retire()
            return
        self.has_left = self.is_retired = True

    def close_if_unused(self) -> None:
        """Close a retired frontend without flows."""
        if self.is_retired and not self.has_left and not self.flows:
            self.close()

    def close(self) -> None:
        """Close the socket."""
        if self._is_open:
            self._is_open = False
            self._server.poller.close(self._sock)
            self._server.closed(self)

    def on_events(self, fd: int, events: int) -> None:  # noqa: ARG002  # only datagrams can be reported
        """Read what clients have sent."""
        self.on_resume()

    def on_resume(self) -> None:
        """Read one turn's worth of datagrams, and go on later when there may be more."""
        if not self._is_open:
            return
        read, code = self._server.datagrams.from_clients(self._sock)
        if code != EAGAIN:
            self._server.poller.resume(self)
        self._waiting = iter(read.items())
        self._pass_on()

    def on_fault(self) -> None:
        """Drop what the client sent with whom it happened; the other clients' datagrams go on."""
        self._server.poller.guard(self, self._pass_on)

    def reply(self, run: Run, client: SocketAddress) -> int:
        """Send answers to a client; return the errno when the kernel did not take them, or 0."""
        try:
            if len(run) == 1:
                self._sock.sendto(run[0], client)
            else:
                send_run(self._sock, run, client)
        except OSError as error:
            return error.errno or EIO
        return 0

    def _pass_on(self) -> None:
        for client, datagrams in self._waiting:
            self._on_datagrams(client, datagrams)

    def _on_datagrams(self, client: SocketAddress, datagrams: list[memoryview]) -> None:
        server = self._server
        flow = server.flows.get((self.frontend.key, client))
        if flow is None:
            if self.is_retired and not self.has_left:
                self.counters.dropped["service_gone"] += len(datagrams)
                return
            if client[0] == _NOBODY:
                self.counters.dropped["not_allowed"] += len(datagrams)
                return
            if server.admission.is_short():
                server.evict_oldest()
            flow = UdpFlow(server, self, client)
            if not flow.open():
                flow.refuse(len(datagrams))
                return
            evicted = server.flows.add(flow)
            if evicted is not None:
                evicted.end("evicted")
            server.opened()
        flow.send(datagrams)


class UdpServer:
    """All UDP frontends, by key, and all flows. Owns the flow table and its timer."""

    def __init__(
        self,
        settings: ForwardSettings,
        balancer: Balancer,
        dialler: Dialler,
        poller: Poller,
        admission: Admission,
        metrics: Metrics,
        ends: "Ends",
    ) -> None:
        self._ends = ends
        self.settings = settings
        self.balancer = balancer
        self.dialler = dialler
        self.poller = poller
        self.admission = admission
        self.metrics = metrics
        self.clock = poller.clock
        self.datagrams = Datagrams()
        self._exhaustions = Burst(poller.clock)
        self.flows: FlowTable[UdpFlow] = FlowTable(
            settings.max_udp_flows,
            settings.udp_unreplied_timeout_s,
            settings.udp_replied_timeout_s,
        )
        # Those of the newest table, listened on or not.
        self.all_frontends: Mapping[FrontendKey, Frontend] = {}
        self._frontends: dict[FrontendKey, UdpFrontend] = {}
        self.has_left = False
        self._idle_times = Ticker(poller.loop, _TICK_S, self._expire)

    def keys(self) -> "list[FrontendKey]":
        """The frontends that take new clients."""
        return [key for key, frontend in self._frontends.items() if not frontend.is_retired]

    def has(self, key: "FrontendKey") -> bool:
        """Whether a frontend takes new clients."""
        frontend = self._frontends.get(key)
        return frontend is not None and not frontend.is_retired

    def serve(self, frontend: "Frontend") -> None:
        """Bind a frontend, or change where it leads. Raises OSError when it cannot be bound."""
        known = self._frontends.get(frontend.key)
        if known is not None:
            known.is_retired = False
            known.judge_by(frontend)
            return
        sock = bind_udp(frontend.address, frontend.port, self.settings)
        made = self._frontends[frontend.key] = UdpFrontend(self, frontend, sock)
        self.poller.watch(sock.fileno(), made, DATAGRAMS)

    def judge_by(self, state: "Frontend") -> None:
        """Judge new flows, and flows that move, by this state, if the frontend has a socket.

        While nothing serves, flows stay where they are (PARITY 11.6).
        """
        frontend = self._frontends.get(state.key)
        if frontend is not None:
            frontend.judge_by(state)

    def retire(self, key: "FrontendKey") -> None:
        """Take no new clients on a frontend; its flows go on (PARITY 11.10)."""
        frontend = self._frontends.get(key)
        if frontend is not None:
            frontend.retire()

    def leave(self) -> None:
        """Leave all clients to others that listen on the same ports."""
        for key in self.keys():
            self._frontends[key].leave()
        self.has_left = True

    def tell_end(self, flow: UdpFlow, reason: str) -> None:
        """Tell whoever wants to know of a flow that has ended, or could not begin."""
        if reason in self._ends.told:
            self._ends.flow(flow, reason)

    def tell_move(self, flow: UdpFlow, endpoint: "EndpointKey") -> None:
        """Tell whoever counts endpoints that a flow has left one."""
        if self._ends.endpoints is not None:
            self._ends.endpoints.left(flow, endpoint)

    def opened(self) -> None:
        """A flow was added: watch idle times."""
        self._idle_times.wake()

    def closed(self, frontend: UdpFrontend) -> None:
        """Forget a frontend whose socket was closed."""
        del self._frontends[frontend.frontend.key]

    def evict_oldest(self) -> bool:
        """End the longest idle flow, which frees a descriptor. False when there is none."""
        flow = self.flows.evict_oldest()
        if flow is None:
            return False
        flow.end("evicted")
        return True

    def report_exhaustion(self, error: OSError, doing: str) -> None:
        """Log that this host is out of descriptors or memory, once per burst."""
        if self._exhaustions.is_first():
            log.error("%s: %s; datagrams of new clients are lost", doing, error.strerror)

    def cut_all(self) -> None:
        """End every flow, and close the frontends that were retired."""
        self._end_all(self.flows.clear(), "drained")
        for frontend in list(self._frontends.values()):
            if frontend.has_left:
                frontend.close()

    def close(self) -> None:
        """End every flow, close every socket, stop the timer."""
        for key in self.keys():
            self.retire(key)
        self.cut_all()
        self._idle_times.stop()

    def _expire(self) -> bool:
        self._end_all(self.flows.expire(self.clock()), "idle")
        return bool(self.flows)

    def _end_all(self, flows: list[UdpFlow], reason: "FlowEnd") -> None:
        for flow in flows:
            flow.end(reason)
