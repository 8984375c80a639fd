"""The DNS server of `pyproxy local`: UDP and TCP at one address and port.

It knows one zone at a time, which its owner replaces by another. It asks nobody else: resolvers
send it the questions for the cluster's domain only.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from typing import cast

from pyproxy.core.dns_zone import Zone
from pyproxy.errors import PyproxyError
from pyproxy.model.addresses import family_of, join_host_port
from pyproxy.names.dns_message import TCP_BYTES, respond

log = logging.getLogger(__name__)

_Respond = Callable[[bytes, bool], bytes | None]

# A resolver on this machine has one or two. An idle one keeps its place for the time that RFC 7766
# (section 6.2.3) calls "on the order of seconds".
MAX_TCP_CLIENTS = 64
TCP_IDLE_S = 10.0
_LENGTH_BYTES = 2


class DnsServer:
    """Answers from the zone that was published last; used by one event loop."""

    def __init__(
        self,
        zone: Zone,
        *,
        max_tcp_clients: int = MAX_TCP_CLIENTS,
        tcp_idle_s: float = TCP_IDLE_S,
    ) -> None:
        self._zone = zone
        self._max_tcp_clients = max_tcp_clients
        self._tcp_idle_s = tcp_idle_s
        self._clients: set[_TcpClient] = set()
        self._tcp: asyncio.Server | None = None
        self._udp: asyncio.DatagramTransport | None = None

    def publish(self, zone: Zone) -> None:
        """Answer from this zone from now on."""
        self._zone = zone

    async def start(self, address: str, port: int) -> int:
        """Listen, and return the port: another one if it was 0. Raises PyproxyError."""
        try:
            tcp, udp = _bound_sockets(address, port)
        except OSError as fault:
            raise PyproxyError(
                f"DNS cannot listen on {join_host_port(address, port)}:"
                f" {os.strerror(fault.errno or 0)}; choose another port, for example"
                " --dns 127.0.0.1:5353"
            ) from fault
        bound: int = tcp.getsockname()[1]
        loop = asyncio.get_running_loop()
        self._tcp = await loop.create_server(self._tcp_client, sock=tcp)
        self._udp, _ = await loop.create_datagram_endpoint(lambda: _Udp(self._respond), sock=udp)
        return bound

    async def close(self) -> None:
        """Listen no more, and end the TCP connections. May be called again."""
        if self._udp is not None:
            self._udp.close()
        if self._tcp is not None:
            self._tcp.close()
            for client in tuple(self._clients):
                client.end()
            await self._tcp.wait_closed()
        self._udp = self._tcp = None

    def _respond(self, wire: bytes, is_tcp: bool) -> bytes | None:
        return respond(wire, self._zone, is_tcp=is_tcp)

    def _tcp_client(self) -> "_TcpClient":
        return _TcpClient(self._respond, self._clients, self._max_tcp_clients, self._tcp_idle_s)


def _bound_sockets(address: str, port: int) -> tuple[socket.socket, socket.socket]:
    """Return a socket for TCP and one for UDP, at one port. Raises OSError."""
    family = socket.AF_INET6 if family_of(address) == "IPv6" else socket.AF_INET
    with contextlib.ExitStack() as opened:
        tcp = opened.enter_context(socket.socket(family, socket.SOCK_STREAM))
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart need not wait
        # One long response: the kernel would hold megabytes for a client that does not read.
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, TCP_BYTES)
        tcp.bind((address, port))
        udp = opened.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        udp.bind((address, tcp.getsockname()[1]))
        tcp.listen()  # only now: two pyproxy that do not listen yet may share the TCP port
        opened.pop_all()
    for bound in (tcp, udp):
        bound.setblocking(False)
    return tcp, udp


class _Udp(asyncio.DatagramProtocol):
    """Each datagram is a question."""

    def __init__(self, respond: _Respond) -> None:
        self._respond = respond
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not every loop's transport is of asyncio's class for it.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        response = self._respond(data, False)
        if response is not None and self._transport is not None:
            self._transport.sendto(response, addr)


class _TcpClient(asyncio.Protocol):
    """A connection: each message has its length in front, and many may come (RFC 7766).

    Invariant: it is in `clients` from the start of the connection to its end, if there was a place.
    """

    def __init__(
        self, respond: _Respond, clients: "set[_TcpClient]", most: int, idle_s: float
    ) -> None:
        self._respond = respond
        self._clients = clients
        self._most = most
        self._idle_s = idle_s
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if len(self._clients) >= self._most:
            self._transport.abort()
            return
        self._clients.add(self)
        self._await_more()

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._received += data
        self._transport.pause_reading()
        self._answer_next()

    def _answer_next(self) -> None:
        """Answer one message; the next one has to wait for everybody else on the loop."""
        assert self._transport is not None
        if self._transport.is_closing():
            return
        message = self._next_message()
        if message is None:
            self._transport.resume_reading()
            return
        response = self._respond(message, True)
        if response is None:
            self.end()
            return
        # In one piece: some clients read the length and the message with one call (RFC 7766, 8).
        self._transport.write(len(response).to_bytes(_LENGTH_BYTES) + response)
        self._await_more()
        asyncio.get_running_loop().call_soon(self._answer_next)

    def pause_writing(self) -> None:
        """Who asks and does not read has what was sent so far."""
        self.end()

    def connection_lost(self, _: Exception | None) -> None:
        self._clients.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def end(self) -> None:
        """Close the connection, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()

    def _next_message(self) -> bytes | None:
        length = int.from_bytes(self._received[:_LENGTH_BYTES])
        end = _LENGTH_BYTES + length
        if len(self._received) < max(end, _LENGTH_BYTES):
            return None
        message = bytes(self._received[_LENGTH_BYTES:end])
        del self._received[:end]
        return message

    def _await_more(self) -> None:
        """A message must be there in time; parts of one do not count as progress."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._idle_s, self.end)
