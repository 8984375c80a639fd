"""Word from the kernel that links or addresses have changed (rtnetlink(7)).

Only that something has: what it is now is read anew by whoever waits, since a lost notice (ENOBUFS)
must not leave a wrong picture.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

LINKS = 0x1
ADDRESSES = 0x10 | 0x100  # of IPv4 and of IPv6


@contextlib.contextmanager
def notices(groups: int, changed: asyncio.Event) -> Iterator[None]:
    """Set the event at every change of these groups. To be used in a running loop.

    pyroute2's own asyncio socket needs a datagram transport of family AF_NETLINK, which uvloop does
    not make.
    """
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.setblocking(False)
        sock.bind((0, groups))
        loop.add_reader(sock.fileno(), _drain, sock, changed)
        try:
            yield
        finally:
            loop.remove_reader(sock.fileno())


def _drain(sock: socket.socket, changed: asyncio.Event) -> None:
    # ENOBUFS: notices were lost, which is as good as a notice. EAGAIN: all are read.
    with contextlib.suppress(OSError):
        while sock.recv(65536):
            pass
    changed.set()
