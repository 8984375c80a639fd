"""One connection through a channel: bytes pumped between a local socket and a pod, to both ends."""

import asyncio
import logging
import select
import socket
from collections.abc import Callable

from pyproxy.tunnel.channel import Channel
from pyproxy.tunnel.proven import ProvenPorts
from pyproxy.tunnel.settings import TunnelSettings
from pyproxy.tunnel.target import PodPort, TunnelError, tunnel_error

log = logging.getLogger(__name__)

_CHUNK_BYTES = 64 * 1024


class Tunnel:
    """A connected tunnel. Whoever opened it calls `run` or `close`, once.

    target: where it leads. first: what the pod has said already. proven: is told whether the port
    answers. lost: why it was cut, after a `run` that did not end in order. sent_bytes: of the
    client, so far; while it is 0 nothing is lost with the tunnel, and another may be tried.
    """

    def __init__(
        self,
        channel: Channel,
        target: PodPort,
        settings: TunnelSettings,
        proven: ProvenPorts,
        first: bytes | None = None,
    ) -> None:
        self.target = target
        self.sent_bytes = 0
        self.lost: TunnelError | None = None
        self._channel = channel
        self._settings = settings
        self._proven = proven
        self._first = first
        self._pod_spoke_last = first is not None
        self._pod_has_ended = False
        self._pod_moved = asyncio.Event()
        self._is_delivering = False

    async def close(self) -> None:
        """Give up a tunnel that is not run."""
        await self._channel.close()

    async def run(
        self, sock: socket.socket, on_lost: Callable[[TunnelError], None] | None = None
    ) -> None:
        """Pump until both directions have ended; then `sock` is closed. Raises nothing.

        sock: a connected, non-blocking AF_UNIX stream socket; it is owned from now on. EOF on it is
        the client's FIN; the pod's FIN is a shutdown of it. When the tunnel is cut, `lost` is set
        and `on_lost` called before the socket is closed: a Unix socket can pass on a reset only
        when it is closed with unread bytes in it, and otherwise the other end sees a FIN. A task
        that is cancelled before it has begun runs nothing of this: close both then.
        """
        try:
            with sock:
                try:
                    await self._pump(sock)
                except TunnelError as error:
                    self._lose(error, on_lost)
                except OSError as fault:
                    log.debug("port-forward to %s: the client is gone: %s", self.target, fault)
                except Exception as fault:  # the boundary of one connection
                    log.exception("a fault in the port-forward to %s", self.target)
                    self._lose(tunnel_error(self.target, "error", repr(fault)), on_lost)
        finally:
            await self._channel.close()

    def _lose(self, error: TunnelError, on_lost: Callable[[TunnelError], None] | None) -> None:
        self.lost = error
        self._proven.discard(self.target)
        log.info("%s; cut after %d bytes of the client", error, self.sent_bytes)
        if on_lost is not None:
            on_lost(error)

    async def _pump(self, sock: socket.socket) -> None:
        """Raises TunnelError when the pod's side fails, OSError when the socket does."""
        try:
            async with asyncio.TaskGroup() as tasks:
                others = [
                    tasks.create_task(self._upload(sock)),
                    tasks.create_task(self._channel.watch()),
                ]
                await self._download(sock)
                await self._channel.wait_over()
                for task in others:
                    task.cancel()
        except BaseExceptionGroup as group:
            failed, others_failed = group.split((TunnelError, OSError))
            if failed is None or others_failed is not None:
                raise
            raise failed.exceptions[0] from None

    async def _download(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        data = self._first if self._first is not None else await self._channel.receive()
        if data:
            self._proven.add(self.target)
        while data:
            self._pod_spoke_last = True
            self._is_delivering = True
            await loop.sock_sendall(sock, data)
            self._is_delivering = False
            self._pod_moved.set()
            data = await self._channel.receive()
        self._pod_has_ended = True
        sock.shutdown(socket.SHUT_WR)

    async def _upload(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(sock, _CHUNK_BYTES):
            self._pod_spoke_last = False
            self.sent_bytes += len(data)
            await self._channel.send(data)
        if not self._pod_has_ended:
            if _is_closed(sock):
                raise ConnectionResetError("closed in both directions")
            await self._linger()
        await self._channel.finish()

    async def _linger(self) -> None:
        """Wait, after the client's FIN, until the pod has been silent for a while."""
        settings = self._settings
        while True:
            self._pod_moved.clear()
            grace_s = settings.answered_grace_s if self._pod_spoke_last else settings.owed_grace_s
            try:
                async with asyncio.timeout(grace_s):
                    await self._pod_moved.wait()
            except TimeoutError:
                if not self._is_delivering:  # else it is the client that is slow
                    return


def _is_closed(sock: socket.socket) -> bool:
    """Whether the other end, which sends no more, reads no more either (POLLHUP, unix(7))."""
    poll = select.poll()
    poll.register(sock, 0)
    return bool(poll.poll(0))
