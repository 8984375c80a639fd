"""Datagrams there and back: an echo server, and a client that keeps some on their way.

python -m tests.bench.relay.udp ADDRESS PORT: the server.
"""

import select
import socket
import sys
import time
from collections.abc import Iterable

from tests.bench.relay.load import Done
from tests.bench.relay.proxies import ECHO

FLOWS = 16
_WINDOW = 8  # datagrams of a flow on their way: 128 in all fit into any socket's buffer
_DATAGRAM = b"x" * 64
_LOST_S = 0.2


def exchange(address: str, duration_s: float) -> Done:
    """Send, and send again for each answer. Counts answers: each was two datagrams forwarded."""
    socks = {sock.fileno(): sock for sock in (_connected(address) for _ in range(FLOWS))}
    poll = select.epoll()
    for fd in socks:
        poll.register(fd, select.EPOLLIN)
    answers, start_s = 0, time.perf_counter()
    try:
        _send(socks.values())
        while (now_s := time.perf_counter()) < start_s + duration_s:
            ready = poll.poll(_LOST_S)
            if not ready:
                _send(socks.values())
            for fd, _ in ready:
                answers += _turn(socks[fd])
    finally:
        poll.close()
        for sock in socks.values():
            sock.close()
    return Done(answers, now_s - start_s)


def _turn(sock: socket.socket) -> int:
    for count in range(_WINDOW):
        try:
            sock.recv(2048)
        except BlockingIOError:
            return count
        sock.send(_DATAGRAM)
    return _WINDOW


def _send(socks: Iterable[socket.socket]) -> None:
    for sock in socks:
        for _ in range(_WINDOW):
            sock.send(_DATAGRAM)


def _connected(address: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((address, ECHO))
    sock.setblocking(False)
    return sock


def serve(address: str, port: int) -> None:
    """Send every datagram back. For ever."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.bind((address, port))
    buffer = memoryview(bytearray(65_536))
    while True:
        size, client = sock.recvfrom_into(buffer)
        sock.sendto(buffer[:size], client)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
