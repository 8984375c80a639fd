"""A channel over a session that others share: what its connection has received, and its ends."""

import asyncio
from collections import deque
from typing import Protocol

from pyproxy.tunnel.settings import TunnelSettings
from pyproxy.tunnel.target import PodPort, TunnelError


class Carrier(Protocol):
    """The session, as far as one of its connections needs it."""

    async def send(self, data: bytes) -> None:
        """Send frames. Raises TunnelError."""

    def payload(self, number: int, data: bytes, *, is_last: bool = False) -> bytes:
        """Return the frame that carries bytes of a connection."""

    async def drop(self, number: int) -> None:
        """Forget a connection; reset it when it is not over."""

    def left(self) -> None:
        """Note that a connection needs the session no more."""


class StreamChannel:
    """One connection of a session.

    The session calls `on_...` as things come; they never wait. What has come before the end is
    received before the end is told.
    """

    def __init__(
        self, session: Carrier, number: int, target: PodPort, settings: TunnelSettings
    ) -> None:
        self.target = target
        self._session = session
        self._number = number
        self._settings = settings
        self._chunks: deque[bytes] = deque()
        self._held_bytes = 0
        self._connected = asyncio.Event()
        self._readable = asyncio.Event()
        self._room = asyncio.Event()
        self._over = asyncio.Event()
        self._pod_has_ended = False
        self._client_has_ended = False
        self._deadline: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._lost: TunnelError | None = None

    # What the session tells.

    @property
    def is_full(self) -> bool:
        """Whether it holds as much as it may."""
        return self._held_bytes >= self._settings.max_held_bytes and not self._is_closed

    def on_connected(self) -> None:
        """Note that the server has accepted the connection."""
        self._connected.set()

    def on_payload(self, data: bytes) -> None:
        """Hold bytes of the pod."""
        self._chunks.append(data)
        self._held_bytes += len(data)
        self._room.clear()
        self._readable.set()

    def on_pod_ended(self) -> None:
        """Note the pod's FIN."""
        self._pod_has_ended = True
        self._readable.set()
        self._expect_over()

    def on_over(self, lost: TunnelError | None) -> None:
        """Note the end of both directions; lost: why, when it was not in order."""
        self._lost = lost
        self._over.set()
        self._connected.set()
        self._readable.set()

    async def wait_room(self) -> None:
        """Wait until it holds less than it may, or is given up."""
        await self._room.wait()

    # Channel.

    async def connected(self) -> None:
        """Wait until the server has accepted the connection. Raises TunnelError."""
        await self._connected.wait()
        self._check()

    async def send(self, data: bytes) -> None:
        """See Channel."""
        self._check()
        if not self._over.is_set():  # else nobody takes them; a TCP endpoint would answer RST
            await self._session.send(self._session.payload(self._number, data))

    async def finish(self) -> None:
        """See Channel: a real FIN, and the other direction goes on."""
        if not self._over.is_set():
            self._client_has_ended = True
            await self._session.send(self._session.payload(self._number, b"", is_last=True))
            self._expect_over()

    async def receive(self) -> bytes:
        """See Channel."""
        while not self._chunks:
            if self._over.is_set():
                self._check()
                return b""
            if self._pod_has_ended:
                return await self._verdict()
            self._readable.clear()
            await self._readable.wait()
        data = self._chunks.popleft()
        self._held_bytes -= len(data)
        if not self.is_full:
            self._room.set()
        return data

    async def wait_over(self) -> None:
        """See Channel."""
        await self._over.wait()
        self._check()

    async def watch(self) -> None:
        """See Channel: the session watches, for all."""

    async def close(self) -> None:
        """See Channel."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._deadline is not None:
            self._deadline.cancel()
        self._room.set()  # the session must not wait for us
        try:
            await self._session.drop(self._number)
        finally:
            self._session.left()

    def _expect_over(self) -> None:
        """Wait for the server's word that all is over, once both ends are told, but not for ever.

        Without it `close` resets the connection.
        """
        if self._pod_has_ended and self._client_has_ended and self._deadline is None:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(self._settings.close_timeout_s, self.on_over, None)

    async def _verdict(self) -> bytes:
        """Wait a moment whether the pod's FIN turns out to be a failure. Raises TunnelError.

        A container runtime that fails closes the data stream before the kubelet can say why
        (containerd sandbox_portforward_linux.go, portForward: `defer stream.Close()`).
        """
        try:
            async with asyncio.timeout(self._settings.verdict_s):
                await self.wait_over()
        except TimeoutError:
            pass  # a half-close
        return b""

    def _check(self) -> None:
        if self._lost is not None:
            raise self._lost.with_traceback(None)  # the session's own, perhaps
