"""Making and ending raw sockets: the options, and the errors that are not one connection's fault.

`_socket.socket`, the C base class, is used throughout: building the Python subclass costs a
microsecond more for each connection and adds nothing needed here.
"""

import _socket
import ctypes
import errno
import socket
import struct
from typing import Any

from pyproxy.forward.settings import ForwardSettings

RawSocket = _socket.socket
# (host, port), with flow info and scope behind them for IPv6.
SocketAddress = tuple[Any, ...]

# This host is out of something; waiting helps, another endpoint does not (accept(2), socket(2)).
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

# The kernel says "go on" when fewer bytes than this wait for the peer's window. Otherwise a stalled
# reader's send buffer grows to several MiB (tcp_wmem). Bytes in flight are not limited (tcp(7)).
_UNSENT_BYTES = 128 * 1024

# Passes what is no SYN, or is one with an ACK: `ldb [13]; and #0x12; jeq #2` (linux/filter.h). A
# filter of a TCP socket is shown the segment from its TCP header on (tcp_filter in net/ipv4).
_NO_SYN = ((0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 2), (6, 0, 0, 0), (6, 0, 0, 1 << 31))
_MIGRATION = "/proc/sys/net/ipv4/tcp_migrate_req"
# The discard port of this host (RFC 863); nobody sends from it.
_NOBODY: dict[int, tuple[str, int]] = {
    socket.AF_INET: ("127.0.0.1", 9),
    socket.AF_INET6: ("::1", 9),
}

# Missing from the socket module of Python 3.11 (linux/in6.h).
_IPV6_TRANSPARENT = 75

_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
_LINGER_ZERO = struct.pack("ii", 1, 0)
_NON_BLOCKING_STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK


def family_number(address: str) -> int:
    """Return AF_INET or AF_INET6 for a canonical address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def listen_tcp(address: str, port: int, settings: ForwardSettings) -> RawSocket:
    """Return a listening socket. Raises OSError when the address cannot be bound.

    Accepted sockets inherit the options of TCP and keep-alive from it on Linux, so they are set
    here once and not for every client.
    """
    listener = _bound(address, port, _NON_BLOCKING_STREAM, settings, reuse_address=True)
    try:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        probe_when_silent(listener, settings)
        limit_unsent(listener)
        listener.listen(settings.backlog)
    except OSError:
        listener.close()
        raise
    return listener


def bind_udp(address: str, port: int, settings: ForwardSettings) -> RawSocket:
    """Return a bound UDP socket. Raises OSError when the address cannot be bound.

    Bound to exactly this address, so that what is sent from it comes from the VIP. Without
    SO_REUSEADDR: on UDP that would let another socket steal the datagrams (socket(7)).
    """
    kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
    return _bound(address, port, kind, settings, reuse_address=False)


def _bound(
    address: str, port: int, kind: int, settings: ForwardSettings, *, reuse_address: bool
) -> RawSocket:
    family = family_number(address)
    sock = RawSocket(family, kind)
    try:
        if reuse_address:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if settings.reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if settings.transparent:
            let_use_any_address(sock)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
    except OSError:
        sock.close()
        raise
    return sock


def ignore_new_clients(listener: RawSocket) -> None:
    """Let it drop every SYN, but finish the handshakes that have begun. Raises OSError.

    Who is ignored asks again after a second (RFC 6298), and then finds another listener of the same
    port, once this one is closed. SO_ATTACH_FILTER, socket(7); newer kernels grant
    it on TCP sockets to CAP_NET_ADMIN alone.
    """
    program = b"".join(struct.pack("HBBI", *step) for step in _NO_SYN)
    # struct sock_fprog holds a pointer; the kernel copies what it points to.
    steps = ctypes.create_string_buffer(program, len(program))
    attached = struct.pack("HL", len(_NO_SYN), ctypes.addressof(steps))
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, attached)


def migrates_clients() -> bool:
    """Whether the kernel hands who waits at a listener that is closed to another of its port.

    net.ipv4.tcp_migrate_req, of both families, since Linux 5.14.
    """
    try:
        with open(_MIGRATION, "rb") as setting:
            return setting.read().strip() == b"1"
    except OSError:
        return False


def receive_no_more(sock: RawSocket) -> None:
    """Leave a UDP socket's port to the others that share it; what it has is still read. OSError.

    A connected socket takes part in no SO_REUSEPORT group (`reuseport_select_sock_by_hash`), and
    may still send to anybody.
    """
    sock.connect(_NOBODY[sock.family])


def accept(listener: RawSocket) -> tuple[RawSocket, SocketAddress]:
    """Take the next client off the queue: its socket and its address. Raises OSError."""
    fd, address = listener._accept()  # type: ignore[attr-defined]
    sock = RawSocket(listener.family, _NON_BLOCKING_STREAM, 0, fd)
    sock.setblocking(False)
    return sock, address


def prompt_socket(address: str) -> RawSocket:
    """Return a non-blocking TCP socket of the address's family that holds nothing back."""
    sock = RawSocket(family_number(address), _NON_BLOCKING_STREAM)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def datagram_socket(address: str) -> RawSocket:
    """Return a non-blocking UDP socket of the address's family. Raises OSError."""
    return RawSocket(family_number(address), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)


def is_local(address: str) -> bool:
    """Whether this host has the address on an interface. Raises OSError for lack of descriptors."""
    probe = datagram_socket(address)
    try:
        probe.bind((address, 0))
    except OSError:
        return False
    finally:
        probe.close()
    return True


def let_use_any_address(sock: RawSocket) -> None:
    """Let it be bound to an address of no interface (IP_TRANSPARENT, ip(7)). Raises OSError.

    Accepted sockets inherit it, so that the kernel sends for them from that address too.
    """
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TRANSPARENT, 1)


def probe_when_silent(sock: RawSocket, settings: ForwardSettings) -> None:
    """Notice a peer that has vanished."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, settings.keepalive_idle_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, settings.keepalive_interval_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, settings.keepalive_probes)


def limit_unsent(sock: RawSocket) -> None:
    """Let few bytes wait in the send buffer that the peer has no room for yet. Raises OSError."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)


def lift_limit(sock: RawSocket) -> None:
    """Take `limit_unsent` back: 0 is the system's default, which is none. Raises OSError."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 0)


def keep_urgent_data(sock: RawSocket) -> None:
    """Read urgent bytes in their place; else they are left out (tcp(7)). Raises OSError."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


def reset_on_close(sock: RawSocket) -> None:
    """Make the coming close send RST instead of FIN (SO_LINGER with zero seconds, socket(7))."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
