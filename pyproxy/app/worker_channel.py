"""One end of the socket between the agent and a worker: frames in, frames out."""

import asyncio
import socket
from collections.abc import Callable
from typing import cast

from pyproxy.app.worker_wire import Frames

# More unsent bytes than this, and what may be left out is left out: the other end is stuck.
_MAX_UNSENT_BYTES = 1 << 20


class Channel(asyncio.Protocol):
    """Hands each payload that arrives to `receive`. Never waits: what cannot be sent is buffered.

    How much is buffered is bounded by the agent, which kills a worker that does not answer.
    lost: set once the other end is gone, and everything that it had sent is received.
    """

    def __init__(self, receive: Callable[[bytes], None]) -> None:
        self._receive = receive
        self._frames = Frames()
        self._transport: asyncio.Transport | None = None
        self.lost = asyncio.Event()

    async def open(self, sock: socket.socket) -> None:
        """Take over one end of a pair of Unix stream sockets."""
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self, sock=sock)

    def send(self, data: bytes) -> None:
        """Send a frame, unless the other end is gone."""
        if self._transport is not None:
            self._transport.write(data)

    @property
    def has_room(self) -> bool:
        """Whether the other end keeps up. Send nothing that can be left out when it does not."""
        transport = self._transport
        return transport is not None and transport.get_write_buffer_size() < _MAX_UNSENT_BYTES

    def close(self) -> None:
        """Close once everything is sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (asyncio.Protocol)."""
        # What it is; but uvloop's class does not say so.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Hand on what is complete (asyncio.Protocol)."""
        for payload in self._frames.feed(data):
            self._receive(payload)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  gone is gone
        """Tell that the other end is gone (asyncio.Protocol)."""
        self._transport = None
        self.lost.set()
