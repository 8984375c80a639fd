"""How a listener comes to refuse clients without resetting one that was taken already.

Closing it would reset whoever is in its accept queue, a moment after the proxy was told that it is
connected: a fault of the endpoint that no proxy can hide, and no fault of this one.
"""

import asyncio
import ctypes
import socket
import struct
from collections.abc import Callable

_SO_ATTACH_FILTER = 26
_SYN = 0x02
# Classic BPF over the TCP header: drop what has the SYN flag, take the rest (linux/filter.h).
_DROP_SYN = (
    (0x30, 0, 0, 13),  # load the byte of the flags
    (0x45, 0, 1, _SYN),  # is SYN in it?
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFF_FFFF),  # take all of it
)
# The handshakes that are under way on loopback take microseconds.
_HANDSHAKES_S = 0.1


async def refuse(listener: socket.socket, accept: Callable[[], None]) -> None:
    """Let no handshake begin, `accept` all that have ended, and close."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _DROP_SYN))
    program = struct.pack("HL", len(_DROP_SYN), ctypes.addressof(code))
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    await asyncio.sleep(_HANDSHAKES_S)
    accept()
    listener.close()
