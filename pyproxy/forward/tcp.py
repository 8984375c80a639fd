"""One TCP connection from accept to its one close reason.

    accepted -> refused (not forwarded: reset)
             -> dialling one endpoint after another -> relaying -> closed

What becomes of it later on, by age or silence or with its endpoint, is looked at from outside
(`look`): the hot path only counts bytes.

The client is not read before an endpoint is connected, so another endpoint can still be tried: its
first bytes stay in the kernel. A FIN is not the end: a client may send its request, end its side
and wait for the answer. A reset on one side is passed on as a reset to the other.
"""

import contextlib
import errno
import logging
import math
import socket
from typing import TYPE_CHECKING

from pyproxy.core.decision import decide
from pyproxy.core.lifetime import overdue
from pyproxy.core.loops import leads_back
from pyproxy.core.proxy_protocol import header
from pyproxy.forward.dial import result_of
from pyproxy.forward.poller import (
    CLIENT,
    CONNECTION,
    ERROR,
    HANGUP,
    OUT,
    PEER_ENDED,
    READABLE,
    URGENT,
)
from pyproxy.forward.relay import Direction, Outcome
from pyproxy.forward.served import note_failure
from pyproxy.forward.sockets import (
    EXHAUSTED,
    RawSocket,
    keep_urgent_data,
    probe_when_silent,
    reset_on_close,
)
from pyproxy.metrics.histogram import CONNECT_BOUNDS_S, DURATION_BOUNDS_S, observe

if TYPE_CHECKING:
    from pyproxy.core.affinity import EndpointKey
    from pyproxy.forward.connections import Connections
    from pyproxy.forward.listeners import TcpListener
    from pyproxy.forward.sockets import SocketAddress
    from pyproxy.model.endpoint import Endpoint
    from pyproxy.model.reasons import CloseReason, ConnectResult

log = logging.getLogger(__name__)

_FAILED = ERROR | HANGUP
# A read that is shorter than asked for stopped at the mark of urgent data, or before a reset.
_READS_ON = _FAILED | URGENT


class Connection:
    """A client's connection. What has no underscore may be read by those who tell of it.

    served: what it shares with the others of its Service port. endpoint, endpoint_key: where it
    leads, or would while it dials. to_endpoint, to_client: None until an endpoint is connected.
    tried: the endpoints that could not be. opened_s, connected_s: by the clock of the loop.
    next_step_s: when the attempt that is under way times out.
    """

    __slots__ = (
        "_client",
        "_client_events",
        "_client_fd",
        "_give_up_s",
        "_hears_of_room",
        "_moved",
        "_quiet_since_s",
        "_shared",
        "_upstream",
        "client_address",
        "connected_s",
        "endpoint",
        "is_open",
        "listener",
        "next_step_s",
        "opened_s",
        "served",
        "to_client",
        "to_endpoint",
        "tried",
    )

    def __init__(
        self,
        shared: "Connections",
        listener: "TcpListener",
        client: RawSocket,
        client_address: "SocketAddress",
    ) -> None:
        self.served = listener.served
        self._shared = shared
        self.listener = listener
        self._client = client
        self._client_fd = client.fileno()
        self.client_address = client_address
        self.is_open = True
        self._hears_of_room = False  # whether the client's socket tells of it
        self._client_events = 0  # those that came before an endpoint was connected
        self.tried: set[EndpointKey] = set()
        self.endpoint: Endpoint | None = None
        self._upstream: RawSocket | None = None
        self.to_endpoint: Direction | None = None
        self.to_client: Direction | None = None
        self.opened_s = 0.0
        self.connected_s = 0.0
        self._give_up_s = 0.0
        self._moved = -1  # bytes, at the last look
        self._quiet_since_s = 0.0
        self.next_step_s = 0.0

    def __str__(self) -> str:
        return f"a connection of {self.client_address[0]} to {self.listener.frontend}"

    @property
    def endpoint_key(self) -> "EndpointKey | None":
        """Address and port of its endpoint; None before one was picked."""
        endpoint = self.endpoint
        return None if endpoint is None else (endpoint.address, endpoint.port)

    def start(self) -> None:
        """Dial the first endpoint, or refuse the client."""
        shared = self._shared
        self.opened_s = now_s = shared.clock()
        self._give_up_s = now_s + shared.settings.connect_deadline_s
        shared.poller.watch(self._client_fd, self, CLIENT)
        self._dial(now_s)

    def on_events(self, fd: int, events: int) -> None:
        """Handle an event of either socket while it dials."""
        if fd != self._client_fd:
            self._on_dial_events(events)
        elif events & _FAILED:
            # Both sides of the client's connection are closed, and we closed neither: a reset.
            self._close("client_gone", reset=True)
        else:
            self._client_events |= events

    def on_resume(self) -> None:
        """Nothing is left off while it dials."""

    def on_endpoint_lost(self) -> None:
        """Reset the client as well."""
        self._close("endpoint_reset", reset=True)

    def on_fault(self) -> None:
        """Close after an unexpected exception."""
        self._close("error", reset=True)

    def has_aged(self) -> None:
        """Let the kernel probe the endpoint: this is no short connection.

        Four system calls that most connections never need. The client's side has it from its
        listener.
        """
        upstream = self._upstream
        if upstream is not None and upstream.family != socket.AF_UNIX:  # a tunnel has its own
            probe_when_silent(upstream, self._shared.settings)

    def cut(self, reason: "CloseReason") -> None:
        """Reset both sides."""
        self._close(reason, reset=True)

    def look(self, now_s: float) -> None:
        """End it when it is silent, or old, for longer than its Service allows."""
        to_endpoint, to_client = self.to_endpoint, self.to_client
        if to_endpoint is None or to_client is None:
            return  # dialling has a deadline of its own
        moved = to_endpoint.moved + to_client.moved
        if moved != self._moved:
            self._moved = moved
            self._quiet_since_s = now_s
        reason = overdue(
            self.served.options,
            age_s=now_s - self.opened_s,
            quiet_s=now_s - self._quiet_since_s,
            has_pending=to_endpoint.has_pending or to_client.has_pending,
            client_port=self.client_address[1],
            grace_s=self._shared.settings.drain_timeout_s,
        )
        if reason is not None:
            self._close(reason)

    # Dialling

    def on_step_due(self) -> None:
        """Try the next endpoint: the attempt took too long, or could not be started a while ago."""
        if self._upstream is None:
            self._dial(self._shared.clock())
        else:
            self.on_attempt_failed("timeout")

    def _dial(self, now_s: float) -> None:
        """Start an attempt; while the kernel fails those at once, start another.

        Each attempt is decided about anew: endpoints may have come and gone since the last.
        """
        shared, pool, client = self._shared, self.served.pool, self.client_address[0]
        while now_s < self._give_up_s:
            listener = self.listener
            frontend = listener.frontend
            decision = listener.decision or decide(frontend, client, shared.dialler.node)
            if decision.action != "forward":
                is_outside = decision.reason == "SourceNotAllowed"
                self._close("not_allowed" if is_outside else "no_endpoint", reset=True)
                return
            endpoint = pool.pick(decision.endpoints, client, now_s, self.tried)
            if endpoint is None:
                break
            self.endpoint = endpoint
            key = endpoint.address, endpoint.port, frontend.protocol
            if key in shared.frontends and leads_back(endpoint, frontend, shared.frontends):
                self._give_up_endpoint("loop")
                now_s = shared.clock()
                continue
            try:
                self._upstream = shared.dialler.stream(frontend, client, endpoint, self)
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self._wait_for_descriptors(error, endpoint, now_s)
                    return
                self._note_failure(result_of(error.errno or 0))
                now_s = shared.clock()
                continue
            if self.tried:
                self.served.counters.retries += 1
            if self.next_step_s:  # not the first attempt: it may have waited for a descriptor
                shared.admission.fed(self)
            options = pool.backend.options
            timeout_s = options.connect_timeout_s or shared.settings.connect_timeout_s
            self.next_step_s = min(now_s + timeout_s, self._give_up_s)
            return
        self._close("connect_failed", reset=True)

    def _wait_for_descriptors(self, error: OSError, endpoint: "Endpoint", now_s: float) -> None:
        """Try again soon, until the deadline: another endpoint needs a descriptor as well."""
        shared = self._shared
        self._give_back_endpoint("error")
        shared.admission.exhausted(error, f"connect to {endpoint}")
        shared.admission.starve(self)
        self.next_step_s = min(now_s + shared.settings.accept_pause_s, self._give_up_s)

    def _on_dial_events(self, events: int) -> None:
        assert self._upstream is not None
        if events & _FAILED:
            code = self._upstream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self.on_attempt_failed(result_of(code or errno.ECONNRESET))
        elif events & OUT:  # never told of a socket that is still connecting
            self._connected(self._upstream, events)

    def on_attempt_failed(self, result: "ConnectResult") -> None:
        """Try another endpoint."""
        assert self._upstream is not None
        self._shared.poller.close(self._upstream)
        self._upstream = None
        self._note_failure(result)
        self._dial(self._shared.clock())

    def _note_failure(self, result: "ConnectResult") -> None:
        endpoint, shared = self.endpoint, self._shared
        assert endpoint is not None
        served, client = self.served, self.client_address[0]
        note_failure(served.pool, served.counters, client, endpoint, result, shared.clock())
        log.debug("connect to %s for %s: %s", endpoint, served.pool.backend.name, result)
        self._give_up_endpoint(result)

    def _give_up_endpoint(self, result: "ConnectResult") -> None:
        """Try another endpoint, and never this one again."""
        endpoint = self.endpoint
        assert endpoint is not None
        self.tried.add((endpoint.address, endpoint.port))
        self._give_back_endpoint(result)

    def _give_back_endpoint(self, result: "ConnectResult") -> None:
        assert self.endpoint is not None
        self.served.counters.attempts[result] += 1
        self.served.pool.released(self.endpoint)
        self.endpoint = None

    def _connected(self, upstream: RawSocket, events: int) -> None:
        shared, pool, counters = self._shared, self.served.pool, self.served.counters
        assert self.endpoint is not None
        counters.attempts["ok"] += 1
        self.connected_s = now_s = shared.clock()
        self.next_step_s = math.inf
        observe(counters.connect_times, CONNECT_BOUNDS_S, now_s - self.opened_s)
        pool.connected(self.endpoint)
        client, workspace = self._client, shared.workspace
        to_endpoint = Direction(client, upstream, workspace, counters, is_to_client=False)
        to_client = Direction(upstream, client, workspace, counters, is_to_client=True)
        to_endpoint.back, to_client.back = to_client, to_endpoint
        to_endpoint.owner = to_client.owner = self
        if pool.backend.options.proxy_protocol:
            frontend = self.listener.frontend
            host, port = self.client_address[:2]
            to_endpoint.begin_with(header(host, port, frontend.address, frontend.port))
        self.to_endpoint, self.to_client = to_endpoint, to_client
        client_fd, upstream_fd = self._client_fd, upstream.fileno()
        shared.poller.hand_over(client_fd, to_endpoint)
        shared.poller.hand_over(upstream_fd, to_client)
        if to_endpoint.has_pending:  # the endpoint may wait for it, and the client for the endpoint
            self._pump(to_endpoint)
        if self._client_events:
            to_endpoint.on_events(client_fd, self._client_events)
        if events & ~OUT:  # the endpoint has spoken first
            to_client.on_events(upstream_fd, events)

    # Relaying

    def on_relay_events(self, events: int, outward: Direction, inward: Direction) -> None:
        """Handle an event of the socket that `outward` reads and `inward` writes."""
        if events & PEER_ENDED:
            outward.source_ended = True
        if events & _READS_ON:
            outward.reads_on = True
            if events & URGENT:
                with contextlib.suppress(OSError):  # a tunnel's socket knows no urgent data
                    keep_urgent_data(outward.source)
        if events & OUT and inward.has_pending and not inward.is_waiting:
            self._pump(inward)
            if not self.is_open:
                return
        if not events & READABLE or outward.is_waiting:
            return
        if not (outward.ended or outward.has_pending):
            self._pump(outward)
        elif events & ERROR and self._is_lost(outward.source):
            # It is not being read, because the other side is slow or because it has ended: no
            # read will tell of the reset.
            self._reset_by(outward.source)

    def _is_lost(self, sock: RawSocket) -> bool:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def _pump(self, direction: Direction) -> None:
        self.on_outcome(direction, direction.pump())

    def on_outcome(self, direction: Direction, outcome: Outcome) -> None:
        """Act on how a pump came to an end."""
        if outcome == "blocked":
            if direction.is_to_client and direction.has_pending and not self._hears_of_room:
                self._hears_of_room = True
                self._shared.poller.report(self._client_fd, CONNECTION)
            return
        if outcome == "ended":
            direction.ended = True
            self._pass_on_end(direction)
        elif outcome == "turn_over":
            direction.is_waiting = True
            self._shared.poller.resume(direction)
        elif outcome == "source_lost":
            self._reset_by(direction.source)
        else:
            direction.ended = True
            self._destination_lost(direction)

    def _pass_on_end(self, direction: Direction) -> None:
        back = direction.back
        if back is None or back.ended:
            self._close("finished")  # closing sends the FIN
            return
        try:
            direction.destination.shutdown(socket.SHUT_WR)
        except OSError:  # ENOTCONN: it was reset meanwhile
            self._destination_lost(direction)

    def _destination_lost(self, direction: Direction) -> None:
        """Pass on the reset, and before it what the lost side had still said.

        A server that answers early and closes resets the rest of the request: its answer waits in
        our receive queue, and with a plain network path the client would have got it.
        """
        back = direction.back
        if back is not None and not (back.ended or back.has_pending):
            back.pump()
        self._reset_by(direction.destination)

    def _reset_by(self, lost: RawSocket) -> None:
        self._close("client_reset" if lost is self._client else "endpoint_reset", reset=True)

    # Closing

    def _close(self, reason: "CloseReason", *, reset: bool = False) -> None:
        """Give everything back. The one place where a connection ends, and it ends once."""
        if not self.is_open:
            return
        self.is_open = False
        shared, served, to_endpoint, to_client = (
            self._shared,
            self.served,
            self.to_endpoint,
            self.to_client,
        )
        if reset:
            reset_on_close(self._client)
            if self._upstream is not None:
                reset_on_close(self._upstream)
        shared.poller.close(self._client)
        if self._upstream is not None:
            shared.poller.close(self._upstream)
        if self.endpoint is not None:
            served.pool.released(self.endpoint)
        if to_endpoint is not None and to_client is not None:
            to_endpoint.drop()
            to_client.drop()
            duration_s = shared.clock() - self.opened_s
            observe(served.counters.durations, DURATION_BOUNDS_S, duration_s)
        shared.ended(self, reason)
