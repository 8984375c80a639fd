"""One UDP flow: a client's address and port at one frontend, and the endpoint its datagrams go to.

Its socket is connected, so that the kernel sorts out the answers and tells of ICMP errors. The
rules for a new connection are asked when it begins and when it moves, as they would be after
conntrack's entry was deleted; a flow that stays is not judged again (PARITY 5.11). It moves at its
client's next datagram when its endpoint is stale, and at once when its endpoint refuses before it
has ever answered: what was refused was processed by nobody, so the next endpoint gets it, and the
client need not send it again after a time-out. No endpoint gets a datagram twice.
"""

from errno import EAGAIN
from typing import TYPE_CHECKING

from pyproxy.core.decision import decide
from pyproxy.core.flows import Flow, is_stale
from pyproxy.core.loops import leads_back
from pyproxy.forward.datagrams import send_run, why_lost
from pyproxy.forward.dial import result_of
from pyproxy.forward.live import LiveConnection
from pyproxy.forward.poller import DATAGRAMS
from pyproxy.forward.served import note_failure
from pyproxy.forward.sockets import EXHAUSTED, RawSocket, SocketAddress
from pyproxy.model.ended import MOST_FAILED, Ended

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyproxy.core.affinity import EndpointKey
    from pyproxy.forward.datagrams import Datagram, Run
    from pyproxy.forward.udp import UdpFrontend, UdpServer
    from pyproxy.model.endpoint import Endpoint
    from pyproxy.model.reasons import ConnectResult, DatagramDrop, FlowEnd
    from pyproxy.model.service import ServicePortName

# Kept of an unanswered flow, to be sent again: its last two datagrams, as resolvers ask for A and
# AAAA from one socket, back to back (resolv.conf(5), single-request). With more of them, a flow
# that is never answered, as of statsd, would repeat what its endpoint had processed before it went.
_KEPT = 2
# A full Ethernet frame is kept, and any DNS query. With the most flows that makes 64 MiB.
_KEPT_BYTES = 2048


class UdpFlow(Flow):
    """Not in the table, and without a socket, until `open` has returned True.

    _backend: the state of the Service port that the endpoint was last checked against.
    _refused: the endpoints that refused since the last answer; picks avoid them, until a datagram
        of the client comes when all have refused.
    _unanswered: the last datagrams, until the first answer.
    _attempts: how often it was given an endpoint. _why_lost: what a datagram that cannot be sent
        now is lost for.
    bytes_of_others: those to and from the endpoints that it has left.
    """

    __slots__ = (
        "_attempts",
        "_backend",
        "_client",
        "_counters",
        "_endpoint",
        "_frontend",
        "_is_heard",
        "_must_move",
        "_pool",
        "_refused",
        "_server",
        "_sock",
        "_unanswered",
        "_why_lost",
        "bytes_of_others",
        "bytes_to_client",
        "bytes_to_endpoint",
        "datagrams_to_client",
        "datagrams_to_endpoint",
        "opened_s",
    )

    def __init__(self, server: "UdpServer", frontend: "UdpFrontend", client: SocketAddress) -> None:
        super().__init__((frontend.frontend.key, client), server.clock())
        self._server = server
        self._frontend = frontend
        self._client = client
        self._counters = frontend.counters
        self._backend = frontend.frontend.backend
        self._endpoint: Endpoint | None = None
        self._pool = frontend.pool  # that the endpoint was picked from
        self._sock: RawSocket | None = None
        self._refused: set[EndpointKey] = set()
        self._must_move = False
        self._is_heard = False  # whether the endpoint has answered
        self._unanswered: tuple[bytes, ...] = ()
        self._attempts = 0
        self._why_lost: DatagramDrop = "connect_failed"
        self.opened_s = self.last_s
        self.datagrams_to_endpoint = self.bytes_to_endpoint = 0
        self.datagrams_to_client = self.bytes_to_client = 0
        self.bytes_of_others = (0, 0)

    def __str__(self) -> str:
        return f"a flow of {self._client[0]} to {self._frontend.frontend}"

    @property
    def service_port(self) -> "ServicePortName":
        """The Service port that it is a flow of."""
        return self._frontend.frontend.backend.name

    @property
    def endpoint_key(self) -> "EndpointKey | None":
        """Address and port of its endpoint; None when it has none."""
        endpoint = self._endpoint
        return None if endpoint is None else (endpoint.address, endpoint.port)

    @property
    def refused(self) -> "set[EndpointKey]":
        """The endpoints that have refused since the last answer."""
        return self._refused

    def row(self, now_s: float) -> LiveConnection | None:
        """Tell of it; None when it has ended."""
        if self._sock is None or self._endpoint is None:
            return None
        frontend = self._frontend.frontend
        return LiveConnection(
            frontend.backend.name,
            self._client[:2],
            (frontend.address, frontend.port),
            (self._endpoint.address, self._endpoint.port),
            is_connected=self.is_replied,
            age_s=now_s - self.opened_s,
            idle_s=now_s - self.last_s,
            bytes_to_endpoint=self.bytes_to_endpoint,
            bytes_to_client=self.bytes_to_client,
        )

    def ended(self, reason: str, now_s: float) -> Ended:
        """Tell of its end, or of why it did not even begin."""
        frontend, endpoint = self._frontend.frontend, self._endpoint
        return Ended(
            frontend.backend.name,
            (frontend.address, frontend.port),
            self._client[:2],
            None if endpoint is None else (endpoint.address, endpoint.port),
            reason,
            now_s,
            duration_s=self.last_s - self.opened_s,
            attempts=self._attempts,
            failed=sorted(self._refused)[:MOST_FAILED],
            bytes_to_endpoint=self.bytes_to_endpoint,
            bytes_to_client=self.bytes_to_client,
            datagrams_to_endpoint=self.datagrams_to_endpoint,
            datagrams_to_client=self.datagrams_to_client,
        )

    def refuse(self, datagrams: int) -> None:
        """Drop the datagrams that it could not be opened for."""
        self._drop(datagrams)
        self._server.tell_end(self, self._why_lost)

    def open(self) -> bool:
        """Connect to an endpoint. False when the client is refused or none can be reached."""
        if not self._connect():
            return False
        self._frontend.flows += 1
        self._counters.opened += 1
        self._counters.active += 1
        return True

    def send(self, datagrams: "Sequence[Datagram]") -> None:
        """Pass on datagrams of the client, moving to another endpoint whenever it has to.

        One at a time until the endpoint has answered: when it refuses the first, the second is told
        of that, and no more than these two have to be sent again.
        """
        self._server.flows.sent(self, self._server.clock())
        if len(datagrams) == 1:
            self._pass_on(datagrams)
        elif self._is_heard:
            for run in self._server.datagrams.runs(datagrams):
                self._pass_on(run)
        else:
            for data in datagrams:
                self._pass_on((data,))

    def _pass_on(self, run: "Run") -> None:
        if self._sock is None or not self._settle():
            self._drop(len(run))
            return
        if not self.is_replied:  # then there is one datagram in it
            fits = len(run[0]) <= _KEPT_BYTES
            self._unanswered = (*self._unanswered[1 - _KEPT :], bytes(run[0])) if fits else ()
        if self._send(run):
            return
        if len(run) > 1 and not self._must_move:
            for data in run:  # what is wrong concerns one of them only, or their being sent as one
                self._pass_on((data,))
            return
        # The kernel told of an earlier datagram's refusal instead of sending this one (udp(7)).
        if not self._send_elsewhere(self._unanswered or run):
            self._drop(len(run))

    def end(self, reason: "FlowEnd") -> None:
        """Close, after the table has forgotten it."""
        if self._sock is None:
            return
        self._server.poller.close(self._sock)
        self._sock = None
        if self._endpoint is not None:
            self._pool.released(self._endpoint)
        self._counters.active -= 1
        self._counters.closed[reason] += 1
        self._server.tell_end(self, reason)
        self._frontend.flows -= 1
        self._frontend.close_if_unused()

    def on_events(self, fd: int, events: int) -> None:  # noqa: ARG002  # errors come with the reads
        """Pass on the endpoint's answers."""
        self.on_resume()

    def on_resume(self) -> None:
        """Pass on one turn's worth of answers, and go on later when there may be more."""
        if self._sock is None:
            return
        answers, code = self._server.datagrams.from_endpoint(self._sock)
        if answers:
            self._on_answers(answers)
        if code == EAGAIN:
            return
        if code:
            self._on_refusal(code)
            self._send_elsewhere(self._unanswered)
        self._server.poller.resume(self)

    def on_fault(self) -> None:
        """End the flow; the client's next datagram begins another."""
        self._server.flows.remove(self)
        self.end("service_gone")

    def _on_answers(self, answers: "Sequence[Datagram]") -> None:
        if not self._is_heard and self._endpoint is not None:
            self._is_heard = True
            self._pool.connected(self._endpoint)
        self._server.flows.replied(self, self._server.clock())
        self._refused.clear()
        self._unanswered = ()
        if len(answers) == 1:
            self._reply(answers)
            return
        for run in self._server.datagrams.runs(answers):
            if not self._reply(run) and len(run) > 1:
                for data in run:
                    self._reply((data,))

    def _reply(self, run: "Run") -> bool:
        count = len(run)
        if code := self._frontend.reply(run, self._client):
            if count == 1:
                self._counters.dropped[why_lost(code)] += 1
            return False
        size, counters = count * len(run[0]), self._counters
        counters.datagrams_to_client += count
        counters.bytes_to_client += size
        self.datagrams_to_client += count
        self.bytes_to_client += size
        return True

    def _send(self, run: "Run") -> bool:
        """Send to the endpoint. False when it has refused, or the kernel will not have these."""
        assert self._sock is not None
        count = len(run)
        try:
            if count == 1:
                self._sock.send(run[0])
            else:
                send_run(self._sock, run)
        except BlockingIOError:  # its send buffer is full: datagrams may be lost
            self._why_lost = "buffer_full"
            self._drop(count)
            return True
        except OSError as error:
            self._on_refusal(error.errno or 0)
            return False
        size, counters = count * len(run[0]), self._counters
        counters.datagrams_to_endpoint += count
        counters.bytes_to_endpoint += size
        self.datagrams_to_endpoint += count
        self.bytes_to_endpoint += size
        return True

    def _drop(self, datagrams: int) -> None:
        """Count datagrams of the client that were not passed on."""
        self._counters.dropped[self._why_lost] += datagrams

    def _on_refusal(self, code: int) -> None:
        """Note an ICMP error; anything else (too long, no memory) concerns one datagram only."""
        result = result_of(code)
        if result == "error" or self._endpoint is None:
            self._why_lost = why_lost(code)
            return
        self._counters.attempts[result] += 1
        self._refused.add((self._endpoint.address, self._endpoint.port))
        now_s, client = self._server.clock(), self._client[0]
        note_failure(self._pool, self._counters, client, self._endpoint, result, now_s)
        self._must_move = True

    def _send_elsewhere(self, datagrams: "Sequence[Datagram]") -> bool:
        """Send what was refused to an endpoint that has not refused yet, while there is one."""
        while self._must_move and datagrams and self._move():
            if all(self._send((data,)) for data in datagrams):
                return True
        return False

    def _settle(self) -> bool:
        """Move to another endpoint when it has to; False when the flow has ended instead."""
        assert self._endpoint is not None
        backend = self._frontend.frontend.backend
        if backend is not self._backend:
            self._backend = backend
            if is_stale((self._endpoint.address, self._endpoint.port), backend):
                self._begin_again()
                if self._move():
                    return True
                self._server.flows.remove(self)
                self.end("service_gone")
                return False
        if self._must_move and not self._move():
            self._begin_again()  # all have refused; any of them may be back by now
            self._move()
        return True

    def _begin_again(self) -> None:
        """Let any endpoint be picked, and keep nothing that one of them may have had."""
        self._refused.clear()
        self._unanswered = ()

    def _move(self) -> bool:
        """Leave the endpoint for another; a new socket, as the old keeps its source address."""
        old_sock, old_endpoint, old_pool = self._sock, self._endpoint, self._pool
        if not self._connect():
            return False
        self._must_move = False
        if old_sock is not None and old_endpoint is not None:
            self._server.poller.close(old_sock)
            old_pool.released(old_endpoint)
            if old_endpoint != self._endpoint:
                self._counters.flows_moved += 1
                self._server.tell_move(self, (old_endpoint.address, old_endpoint.port))
        return True

    def _connect(self) -> bool:
        """Pick an endpoint and connect a socket to it; without one everything stays as it is."""
        dial, frontend, pool = self._server.dialler.datagram, self._frontend, self._frontend.pool
        while (endpoint := self._pick()) is not None:
            self._attempts += 1
            if leads_back(endpoint, frontend.frontend, self._server.all_frontends):
                self._give_up(endpoint, "loop")
                continue
            try:
                sock = dial(frontend.frontend, self._client[0], endpoint)
            except OSError as error:
                if error.errno in EXHAUSTED:
                    pool.released(endpoint)
                    # A flow that moves must not evict itself; the client's next datagram opens one.
                    if self._sock is None and self._server.evict_oldest():
                        continue
                    self._server.report_exhaustion(error, f"connect to {endpoint} over UDP")
                    self._why_lost = "exhausted"
                    return False
                self._give_up(endpoint, result_of(error.errno or 0))
                continue
            self._sock, self._endpoint, self._pool = sock, endpoint, pool
            self._is_heard = False
            self._server.poller.watch(sock.fileno(), self, DATAGRAMS)
            return True
        return False

    def _give_up(self, endpoint: "Endpoint", result: "ConnectResult") -> None:
        self._counters.attempts[result] += 1
        self._frontend.pool.released(endpoint)
        self._refused.add((endpoint.address, endpoint.port))

    def _pick(self) -> "Endpoint | None":
        """Pick by the rules for a new connection; None when all have refused."""
        server, frontend, client = self._server, self._frontend.frontend, self._client[0]
        decision = decide(frontend, client, server.dialler.node)
        if decision.action != "forward":
            is_outside = decision.reason == "SourceNotAllowed"
            self._why_lost = "not_allowed" if is_outside else "no_endpoint"
            return None
        self._why_lost = "connect_failed"  # unless one can be
        return self._frontend.pool.pick(
            decision.endpoints,
            client,
            server.clock(),
            self._refused,
            f"{client}|{self._client[1]}",
        )
