"""The pipes that bulk data passes through on its way from socket to socket (splice(2)).

A direction holds one only while bytes are stuck in it, so a few serve thousands of connections.
"""

import contextlib
import fcntl
import os
from typing import NamedTuple

# As many bytes as may be in one pipe. With the kernel's buffers on both sides of it, a reader that
# never reads holds less than 1 MiB. 512 KiB measured no better.
PIPE_BYTES = 256 * 1024
# Room for that many: a pipe has a slot for each 4 KiB of its size, and a slot may hold no more than
# one packet's worth (1,448 bytes on Ethernet).
_PIPE_SIZE = 512 * 1024
# 16 MiB in all. Users without privileges get 64 MiB of pipes (pipe(7), pipe-user-pages-soft).
MAX_PIPES = 32


class Pipe(NamedTuple):
    """The two descriptors of a pipe."""

    read_fd: int
    write_fd: int


class PipePool:
    """At most `max_pipes` pipes, those in use included. Every idle one is empty."""

    def __init__(self, max_pipes: int = MAX_PIPES) -> None:
        self._idle: list[Pipe] = []
        self._left = max_pipes

    def take(self) -> Pipe | None:
        """Return an empty pipe, or None when there is none left: copy instead."""
        if self._idle:
            return self._idle.pop()
        if not self._left:
            return None
        try:
            pipe = Pipe(*os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError:  # EMFILE, ENFILE, ENOMEM: copying needs no descriptors
            return None
        # EPERM above the user's share of pipe memory: a small pipe still beats copying.
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe.write_fd, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        self._left -= 1
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """Take back an empty pipe."""
        self._idle.append(pipe)

    def discard(self, pipe: Pipe) -> None:
        """Close a pipe that still holds bytes nobody wants."""
        os.close(pipe.read_fd)
        os.close(pipe.write_fd)
        self._left += 1

    def close(self) -> None:
        """Close the idle pipes."""
        while self._idle:
            self.discard(self._idle.pop())
