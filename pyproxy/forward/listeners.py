"""TCP listeners: accept clients and hand them on. Accepting never waits for a dial."""

import errno
import logging
from typing import TYPE_CHECKING

from pyproxy.core.decision import decision_for_all
from pyproxy.forward.connections import Connections
from pyproxy.forward.limits import Admission
from pyproxy.forward.poller import LISTENER, Poller
from pyproxy.forward.sockets import EXHAUSTED, RawSocket, accept, ignore_new_clients, listen_tcp

if TYPE_CHECKING:
    from pyproxy.forward.settings import ForwardSettings
    from pyproxy.model.table import Frontend, FrontendKey

log = logging.getLogger(__name__)

# Errors that were pending on the new socket (accept(2)): that client is gone, the next one is not.
_CLIENT_GONE = frozenset(
    {
        errno.ECONNABORTED,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENONET,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.EPERM,  # a firewall forbids it
        errno.EPROTO,
    }
)
# Clients taken in one turn: accept and connect for 32 of them take about 2 ms.
_ACCEPTS_IN_A_TURN = 32


class TcpListener:
    """One listening socket. It *is* the answer to which frontend a client asked for.

    frontend: its newest state. decision: what happens to every client; None where that depends on
    the client. served: what the connections of its Service port share.
    max_connections: of its Service, or None.
    """

    def __init__(
        self,
        frontend: "Frontend",
        sock: RawSocket,
        connections: Connections,
        admission: Admission,
    ) -> None:
        self._sock = sock
        self._connections = connections
        self._admission = admission
        self._is_open = True
        self._is_muted = False
        self._batch = 1  # how many clients are taken at an event: more while more are waiting
        self.serve(frontend)

    def __str__(self) -> str:
        return f"the listener {self.frontend}"

    def serve(self, frontend: "Frontend") -> None:
        """Send new clients by this state of the frontend; the socket is not touched."""
        self.frontend = frontend
        self.decision = decision_for_all(frontend)
        self.served = self._connections.served(frontend.backend)
        self.max_connections = frontend.backend.options.max_connections

    def on_events(self, fd: int, events: int) -> None:  # noqa: ARG002  # only clients can be reported
        """Accept clients that wait; when there are more, the next event tells."""
        for _ in range(self._batch):
            if not self._accept_one():
                self._batch = 1
                return
        self._batch = min(2 * self._batch, _ACCEPTS_IN_A_TURN)

    def on_resume(self) -> None:
        """Accept all that wait, a turn's worth at a time: it may be another one's turn then."""
        if not self._is_open:
            return
        if self._is_muted:
            self._is_muted = False
            self._connections.poller.report(self._sock.fileno(), LISTENER)
        for _ in range(_ACCEPTS_IN_A_TURN):
            if not self._accept_one():
                return
        self._connections.poller.resume(self)

    def on_fault(self) -> None:
        """Keep listening: a fault in one accept is no reason to refuse the others."""

    def ignore_new_clients(self) -> None:
        """Let nobody begin to connect; who has begun is still served."""
        ignore_new_clients(self._sock)

    def stop(self) -> None:
        """Accept who is in the queue already, then close. Closing first would reset them."""
        for _ in range(self._connections.settings.backlog):
            if not self._accept_one():
                break
        self.close()

    def close(self) -> None:
        """Close the socket; who waits in its queue is reset."""
        self._is_open = False
        self._admission.forget(self)
        self._connections.poller.close(self._sock)

    def _accept_one(self) -> bool:
        """Return whether there may be another client to accept."""
        if not self._admission.may_accept():
            self._park()
            return False
        try:
            client, address = accept(self._sock)
        except BlockingIOError:
            self._admission.wake_one()
            return False
        except OSError as error:
            if error.errno in EXHAUSTED:
                self._admission.exhausted(error, f"accept on {self.frontend}")
                self._park()
                return False
            if error.errno not in _CLIENT_GONE:
                raise
            return True
        self._connections.open(self, client, address)
        return True

    def _park(self) -> None:
        """Take no clients until the admission says so; events would come without end."""
        self._admission.park(self)
        if self._is_open and not self._is_muted:
            self._is_muted = True
            self._connections.poller.mute(self._sock.fileno())


class TcpListeners:
    """All TCP listeners, by the key of their frontend."""

    def __init__(
        self,
        settings: "ForwardSettings",
        poller: Poller,
        connections: Connections,
        admission: Admission,
    ) -> None:
        self._settings = settings
        self._poller = poller
        self._connections = connections
        self._admission = admission
        self._listeners: dict[FrontendKey, TcpListener] = {}

    def keys(self) -> "list[FrontendKey]":
        """The frontends that are listened on."""
        return list(self._listeners)

    def has(self, key: "FrontendKey") -> bool:
        """Whether a frontend is listened on."""
        return key in self._listeners

    def serve(self, frontend: "Frontend") -> None:
        """Listen, or change where it leads. Raises OSError when it cannot be bound."""
        listener = self._listeners.get(frontend.key)
        if listener is not None:
            listener.serve(frontend)
            return
        sock = listen_tcp(frontend.address, frontend.port, self._settings)
        listener = TcpListener(frontend, sock, self._connections, self._admission)
        self._listeners[frontend.key] = listener
        self._poller.watch(sock.fileno(), listener, LISTENER)

    def judge_by(self, state: "Frontend") -> None:
        """Judge the clients of a frontend by this state from now on, if it is listened on."""
        listener = self._listeners.get(state.key)
        if listener is not None:
            listener.serve(state)

    def retire(self, key: "FrontendKey") -> None:
        """Stop listening; the live connections go on (PARITY 5.11)."""
        listener = self._listeners.pop(key, None)
        if listener is not None:
            listener.stop()

    def ignore_new_clients(self) -> bool:
        """Let nobody begin to connect; return whether there is a listener with whom some may have.

        Whose SYN is answered already would be reset if its listener were closed now. So it is where
        the kernel takes such a filter from CAP_NET_ADMIN alone, and this process is without.
        """
        try:
            for listener in self._listeners.values():
                listener.ignore_new_clients()
        except PermissionError:
            return False
        return bool(self._listeners)

    def close(self) -> None:
        """Close all listeners at once."""
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()
