"""One connect attempt: start it without waiting, as whom, and name how it ended."""

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from pyproxy.core.source_address import SourceReason, source_address
from pyproxy.forward.poller import Poller, Watcher
from pyproxy.forward.sockets import RawSocket, datagram_socket, prompt_socket
from pyproxy.forward.source import PORT_IN_USE, PORT_TRIES, Ports
from pyproxy.metrics import Metrics
from pyproxy.model.node import NodeView

if TYPE_CHECKING:
    from pyproxy.model.endpoint import Endpoint
    from pyproxy.model.reasons import ConnectResult
    from pyproxy.model.table import Frontend

_RESULTS: dict[int, "ConnectResult"] = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "refused",
    errno.ETIMEDOUT: "timeout",
    errno.ENETUNREACH: "unreachable",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETDOWN: "unreachable",
    errno.EHOSTDOWN: "unreachable",
    errno.EACCES: "unreachable",  # a firewall's or a prohibit route's answer
    errno.ENOPROTOOPT: "unreachable",  # ICMP protocol unreachable
    errno.EPROTO: "unreachable",
}


_STARTED = frozenset({0, errno.EINPROGRESS})


class Attempt(Watcher, Protocol):
    """Who waits for a connect attempt: gets the events of its socket, or hears that it failed."""

    def on_attempt_failed(self, result: "ConnectResult") -> None:
        """Go on without: no event will tell."""

    def on_endpoint_lost(self) -> None:
        """Take it for a reset of the endpoint, where no event can tell it from an end."""


class Dialler(Protocol):
    """Starts connect attempts. node: what the rules see of this node."""

    node: NodeView

    def stream(
        self, frontend: "Frontend", client: str, endpoint: "Endpoint", attempt: Attempt
    ) -> RawSocket:
        """Return a stream socket that is connecting to the endpoint, for a client of the frontend.

        Who closes it gives the attempt up. Raises OSError when it fails at once: no descriptor, no
        route, no free port.
        """

    def datagram(self, frontend: "Frontend", client: str, endpoint: "Endpoint") -> RawSocket:
        """Return a UDP socket that is connected to the endpoint. Raises OSError."""


class DirectDialler:
    """Connects from here: as the client where the rules and the kernel let it, as this node.

    ports: for the clients' addresses; None to use this node's address always.
    """

    def __init__(self, poller: Poller, metrics: Metrics, ports: Ports | None = None) -> None:
        self.node = NodeView()
        self._poller = poller
        self._metrics = metrics
        self._ports = ports

    def stream(
        self, frontend: "Frontend", client: str, endpoint: "Endpoint", attempt: Attempt
    ) -> RawSocket:
        """As Dialler says. The kernel refuses at once, or tells by an event."""
        sock = self._start(prompt_socket, frontend, client, endpoint)
        self._poller.watch(sock.fileno(), attempt)
        return sock

    def datagram(self, frontend: "Frontend", client: str, endpoint: "Endpoint") -> RawSocket:
        """As Dialler says."""
        return self._start(datagram_socket, frontend, client, endpoint)

    def _start(
        self,
        make: Callable[[str], RawSocket],
        frontend: "Frontend",
        client: str,
        endpoint: "Endpoint",
    ) -> RawSocket:
        if self._ports is not None:
            reason = source_address(frontend, client, endpoint, self.node).reason
            if reason == "client_kept":
                made = _start_as(self._ports, client, make, endpoint)
                if not isinstance(made, str):
                    return made
                reason = made
            if reason != "masqueraded":
                self._metrics.source_address_fallbacks[reason] += 1
        sock = make(endpoint.address)
        code = sock.connect_ex((endpoint.address, endpoint.port))
        if code not in _STARTED:
            raise _refused(code, sock)
        return sock


def _start_as(
    ports: Ports, client: str, make: Callable[[str], RawSocket], endpoint: "Endpoint"
) -> RawSocket | SourceReason:
    """Return a socket with the client's address, or why it cannot be had. Raises OSError."""
    for _ in range(PORT_TRIES):
        sock = make(endpoint.address)
        try:
            ports.bind(sock, client)
        except OSError as error:
            sock.close()
            if error.errno not in PORT_IN_USE:
                return "not_possible"
            continue
        code = sock.connect_ex((endpoint.address, endpoint.port))
        if code in _STARTED:
            return sock
        if code not in PORT_IN_USE:
            raise _refused(code, sock)
        sock.close()
    return "ports_used_up"


def _refused(code: int, sock: RawSocket) -> OSError:
    """Close a socket that the kernel refused to connect; return that as an OSError."""
    sock.close()
    return OSError(code, os.strerror(code))


def result_of(code: int) -> "ConnectResult":
    """Name the result of an attempt by its errno; "error" is this host's own fault."""
    return _RESULTS.get(code, "error")
