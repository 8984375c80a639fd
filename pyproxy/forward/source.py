"""Gives a socket towards an endpoint the address of the client, and a port that is nobody else's.

The ports are a range of their own: a socket of ours with the addresses and ports of a direct
connection from client to endpoint would steal its packets. Hosts take theirs from 32768 to 60999
unless told otherwise (ip_local_port_range, ip(7)).

The kernel does not pick the port. It would pick a better one, knowing the endpoint, but only from
its own range: IP_LOCAL_PORT_RANGE can narrow that, and has no effect beyond it (ip(7)). On the
other hand it takes a port that was asked for although the last connection from it to this endpoint
is in TIME_WAIT, with any tcp_tw_reuse: so only live connections use up ports.
"""

import errno
import itertools
import logging
import random
import socket

from pyproxy.forward.sockets import RawSocket, datagram_socket, let_use_any_address

log = logging.getLogger(__name__)

FIRST_PORT, LAST_PORT = 61_000, 65_535

# From bind(2) and connect(2): the port is in use for this address, or towards this endpoint.
PORT_IN_USE = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL})

# How many ports are tried for one socket. While half of them are in use, one in 256 finds none.
PORT_TRIES = 8

# The next port is so many further on. It has no divisor in common with the number of ports, so that
# all have their turn before one comes again, and those in use are scattered, not in a row.
_STRIDE = 2801


class Ports:
    """Binds sockets to addresses of any host, each to the next port."""

    def __init__(self, first: int = FIRST_PORT, last: int = LAST_PORT) -> None:
        count = last - first + 1
        # Begins at random: other processes of this host take ports as well.
        turns = itertools.count(random.randrange(count))  # noqa: S311
        self._ports = (first + turn * _STRIDE % count for turn in turns)

    def bind(self, sock: RawSocket, address: str) -> None:
        """Bind to an address of the socket's family. Raises OSError."""
        let_use_any_address(sock)
        if sock.type & socket.SOCK_STREAM:
            # One port serves for several endpoints; connect(2) tells when for this one it does not.
            # Not so in UDP, where nothing would tell.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, next(self._ports)))


def available_ports() -> Ports | None:
    """Return the ports, or None when this process may not use the addresses of others."""
    probe = datagram_socket("127.0.0.1")
    try:
        let_use_any_address(probe)
    except PermissionError:
        log.warning(
            "endpoints see this node's address instead of their clients': to use those takes the "
            "capability NET_ADMIN or NET_RAW"
        )
        return None
    finally:
        probe.close()
    return Ports()
