"""Reading datagrams by the turn, and sending those of one size in one system call.

What costs is the way of a packet through the kernel, from the call to the queue of whom it is for.
A run of datagrams of one size goes that way once: as one packet, which the kernel cuts up at the
end of it (UDP_SEGMENT, udp(7); generic segmentation offload). Each arrives as the datagram that it
was; only filters and captures of this host see the run, as they do with TCP. On loopback, where one
alone took 2.6 µs, two took 2.0 each, eight 0.8. sendmmsg(2) would save the calls but not the way.
recvmmsg(2), by way of ctypes, saved half a µs for each of eight that were read, and nothing that
could be told from noise in whole exchanges.

It knows no flows. Every error of a socket is returned or raised to who asked.
"""

import itertools
import socket
import struct
import sys
from collections.abc import Iterable, Sequence
from errno import EAGAIN, EMSGSIZE
from typing import TYPE_CHECKING

from pyproxy.forward.sockets import EXHAUSTED, RawSocket, SocketAddress

if TYPE_CHECKING:
    from pyproxy.model.reasons import DatagramDrop

Datagram = memoryview | bytes
Run = Sequence[Datagram]  # not empty; all of one size

# Read from one socket in one turn: about 1 ms of work. A packet may be cut into as many
# (UDP_MAX_SEGMENTS of linux/udp.h; 128 since Linux 6.9).
IN_A_TURN = 64

# The largest payload is 65,507 bytes on IPv4 and 65,527 on IPv6. A buffer for each of a turn: only
# the pages that something was written to take memory, 256 KiB if no datagram is large.
_BUFFER_BYTES = 65_536
# Not a power of two: the beginnings of all buffers would compete for few lines of the CPU's
# caches (3 % of the time of lone datagrams). Room for a full Ethernet frame, in lines of 64 bytes.
_BUFFERS_APART = _BUFFER_BYTES + 2112

# Each must fit into a packet of the route (its MTU). 1,280 bytes do on any route of IPv6 (RFC 8200
# 5), and on all but odd ones of IPv4; less 48 for the headers.
_LARGEST_SEGMENT_BYTES = 1232
# All of them together must fit into one IP packet.
_LARGEST_RUN_BYTES = 65_000

_UDP_SEGMENT = 103  # linux/udp.h; missing from the socket module


class Datagrams:
    """Buffers that all sockets share: what was read is valid until the next reading.

    has_runs: whether the kernel knows UDP_SEGMENT.
    """

    def __init__(self) -> None:
        self.has_runs = _cuts_up()
        memory = memoryview(bytearray(IN_A_TURN * _BUFFERS_APART))
        starts = range(0, len(memory), _BUFFERS_APART)
        self._buffers = [memory[start : start + _BUFFER_BYTES] for start in starts]

    def from_clients(self, sock: RawSocket) -> tuple[dict[SocketAddress, list[memoryview]], int]:
        """Read a turn's worth; return what each client sent, in order, and the errno at its end.

        That is 0 when there may be more, and EAGAIN when nothing waits.
        """
        read: dict[SocketAddress, list[memoryview]] = {}
        receive = sock.recvfrom_into
        for buffer in self._buffers:
            try:
                size, client = receive(buffer)
            except OSError as error:
                return read, error.errno or 0
            if client in read:
                read[client].append(buffer[:size])
            else:
                read[client] = [buffer[:size]]
        return read, 0

    def from_endpoint(self, sock: RawSocket) -> tuple[list[memoryview], int]:
        """As `from_clients`, for a connected socket."""
        read: list[memoryview] = []
        receive = sock.recv_into
        for buffer in self._buffers:
            try:
                read.append(buffer[: receive(buffer)])
            except OSError as error:
                return read, error.errno or 0
        return read, 0

    def runs(self, datagrams: Sequence[Datagram]) -> Iterable[Run]:
        """Split them, in their order, into what `send_run` takes at once."""
        runs: list[Run] = []
        for size, alike in itertools.groupby(datagrams, len):
            run = list(alike)
            fits = self.has_runs and 0 < size <= _LARGEST_SEGMENT_BYTES
            most = _LARGEST_RUN_BYTES // size if fits else 1
            runs += (run[first : first + most] for first in range(0, len(run), most))
        return runs


def send_run(sock: RawSocket, run: Run, address: SocketAddress | None = None) -> None:
    """Send a run of several, to this address or to whom the socket is connected to.

    Raises OSError when nothing was sent. Each may still go alone then: not every interface has
    packets cut up, and a route may have less room (EIO, EINVAL, EMSGSIZE).
    """
    segment_size = (socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("H", len(run[0])))
    sock.sendmsg(run, (segment_size,), 0, address)


def why_lost(code: int) -> "DatagramDrop":
    """Return what a datagram was lost for, from the errno with which it could not be sent."""
    if code == EAGAIN:
        return "buffer_full"
    if code == EMSGSIZE:
        return "too_long"
    return "exhausted" if code in EXHAUSTED else "error"


def _cuts_up() -> bool:
    """Ask the kernel. Linux before 4.18 would send a run as one large datagram."""
    if sys.platform != "linux":
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.getsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT)
        except OSError:
            return False
    return True
