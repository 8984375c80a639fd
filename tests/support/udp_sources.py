"""Datagrams from very many clients, sent by one socket: each from another loopback address."""

import socket
import struct

# From 127.128.0.0 to 127.255.255.255: more than eight million addresses, that no test binds.
_FIRST = 0x7F80_0000
_MOST = 1 << 23
_IP_PKTINFO = 8  # missing from the socket module of Python 3.11 (linux/in.h)


def many_clients_socket() -> socket.socket:
    """A blocking UDP socket on a free port of every address."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("0.0.0.0", 0))
    return sock


def send_from(sock: socket.socket, client: int, data: bytes, to: tuple[str, int]) -> None:
    """Send a datagram as the client of this number; each number has an address of its own."""
    source = (_FIRST + client % _MOST).to_bytes(4, "big")
    # struct in_pktinfo: the interface, the address to send from, the destination (ip(7)).
    info = struct.pack("I4s4s", 0, source, b"\0\0\0\0")
    sock.sendmsg([data], [(socket.IPPROTO_IP, _IP_PKTINFO, info)], 0, to)
