"""Changes of set elements, told to the kernel by a socket that is kept open.

What `nft` takes 3 ms for at 100 Services and 10 at 10,000, because it starts as a process and reads
what the kernel has, takes 20 µs here. And a socket that is closed waits until the kernel has given
back the memory of what was removed (nf_tables_api.c, nft_rcv_nl_event): 10 to 20 ms.
"""

import contextlib
import errno
import os
import socket
import threading
from collections.abc import Iterator, Sequence

from pyproxy.core import nfnetlink
from pyproxy.core.transaction import Elements

# linux/netlink.h, linux/socket.h, asm-generic/socket.h: Python has no names for these.
_NETLINK_NETFILTER = 12
_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_SO_SNDBUFFORCE = 32

# An answer to one message is 36 bytes, and each comes for itself.
_ANSWER_BYTES = 4096
_MAX_TOLD = 100


class Netlink:
    """A netlink socket to nf_tables, in the network namespace where it is first used.

    May be used by several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def commit(self, changes: Sequence[Elements]) -> None:
        """Make these changes as one atomic transaction; at least one. It waits for the kernel.

        Raises OSError; then nothing was changed, unless the kernel's answer was lost (ENOBUFS).
        EMSGSIZE: the kernel does not take as much at once.
        """
        with self._lock:
            answers = self._ask(nfnetlink.batch(changes))
        for number, error in answers:
            if error:
                raise OSError(error, f"{_told(changes, number)}: {os.strerror(error)}")
        if not answers:
            raise OSError(errno.ENOMSG, "the kernel did not say whether it made the changes")

    def close(self) -> None:
        """Give the socket back. A later use opens another one."""
        with self._lock:
            self._close()

    def _ask(self, data: bytes) -> list[tuple[int, int]]:
        if self._socket is None:
            self._socket = _open()
        try:
            _send(self._socket, data)
            return list(_receive(self._socket))
        except OSError:
            self._close()  # with what else may have been answered
            raise

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _open() -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    # Without that, each answer to a message that failed repeats the message.
    sock.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
    sock.connect((0, 0))  # the kernel, and nobody else
    return sock


def _send(sock: socket.socket, data: bytes) -> None:
    try:
        sock.send(data)
    except OSError as fault:
        if fault.errno != errno.EMSGSIZE:
            raise
        # More than net.core.wmem_max is not for root of a user namespace. nft asks for it likewise.
        with contextlib.suppress(PermissionError):
            sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, len(data))
        sock.send(data)


def _receive(sock: socket.socket) -> Iterator[tuple[int, int]]:
    """The kernel has answered when `send` returns: it works in the sender's time (af_netlink.c)."""
    while True:
        try:
            yield from nfnetlink.answers(sock.recv(_ANSWER_BYTES, socket.MSG_DONTWAIT))
        except BlockingIOError:
            return


def _told(changes: Sequence[Elements], number: int) -> str:
    if number == nfnetlink.whole(changes):
        return f"a transaction of {number} changes"
    return str(changes[number])[:_MAX_TOLD]
