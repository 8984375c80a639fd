"""A flood of UDP clients: python -m tests.soak.flood, a child. It is the endpoint as well.

So it can send no faster than the proxy passes on: it waits for what it has sent, for a moment, as
datagrams that find a buffer full are lost.
"""

import select
import socket
import time

from tests.soak.child import obey, run
from tests.soak.wire import ENDPOINT_PORT, PORT
from tests.support.udp_sources import many_clients_socket, send_from

# Of one go: fewer than fit into a socket's buffer (212,992 bytes by default, and a datagram takes
# at least 768 of them).
_GO = 100
_LOST_S = 0.05


class Sink:
    """The endpoint: takes everything, answers nothing."""

    def open(self, address: str) -> None:
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind((address, ENDPOINT_PORT))
        self._sock.setblocking(False)

    def flood(self, vip: str, first: int, count: int) -> int:
        """Send one datagram from each of so many addresses; return how many came through."""
        received = 0
        with many_clients_socket() as clients:
            for begin in range(first, first + count, _GO):
                go = min(_GO, first + count - begin)
                for number in range(begin, begin + go):
                    send_from(clients, number, b"flood", (vip, PORT))
                received += self._take(go)
        return received

    def _take(self, wanted: int) -> int:
        received, end_s = 0, time.monotonic() + _LOST_S
        while received < wanted and (left_s := end_s - time.monotonic()) > 0:
            select.select([self._sock], [], [], left_s)
            try:
                while received < wanted:
                    self._sock.recv(64)
                    received += 1
            except BlockingIOError:
                continue
        return received


async def main() -> None:
    sink = Sink()
    await obey({"open": sink.open, "flood": sink.flood})


if __name__ == "__main__":
    run(main)
