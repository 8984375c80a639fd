"""A session: one websocket to one pod with SPDY in it, and the connections that share it.

One task reads the websocket for all connections and hands out what comes. There is no flow control
by stream (core.spdy), so when one connection holds as much as it may, reading stops for all of them
until its client takes some. `has_room` is False meanwhile: new connections go elsewhere.

A session that one of its connections left before it was over takes no new ones and ends with the
last: the server may be stuck with the bytes of the one that was cut (spdystream connection.go,
handleDataFrame waits until they are taken, and the reset waits behind them).
"""

import asyncio
import logging
from contextlib import suppress

from pyproxy.core.portforward import TUNNEL_PROTOCOL, result_of_text
from pyproxy.core.portforward_spdy import (
    Answer,
    Connected,
    GoingAway,
    Over,
    Payload,
    PodEnded,
    PortForwardSession,
)
from pyproxy.errors import ProtocolError
from pyproxy.tunnel.heartbeat import Heartbeat
from pyproxy.tunnel.settings import TunnelSettings
from pyproxy.tunnel.stream import StreamChannel
from pyproxy.tunnel.target import PodPort, TunnelError, tunnel_error
from pyproxy.tunnel.websocket import WebSocket, WebSocketApi, open_websocket

log = logging.getLogger(__name__)


class Session:
    """Opened by its own task, `run`, so that no connection that gives up takes others with it.

    target: the pod; the port is that of the first connection. was_used: it has had a connection;
    the server may have closed it since, unseen.
    """

    def __init__(self, api: WebSocketApi, target: PodPort, settings: TunnelSettings) -> None:
        self.target = target
        self.was_used = False
        self._api = api
        self._settings = settings
        self._protocol = PortForwardSession()
        self._channels: dict[int, StreamChannel] = {}
        self._reserved = 0
        self._websocket: WebSocket | None = None
        self._heartbeat: Heartbeat | None = None
        self._is_open = asyncio.Event()
        self._done = asyncio.Event()
        self._lost: TunnelError | None = None
        self._takes_more = True
        self._stalled = False
        self._idle: asyncio.TimerHandle | None = None

    @property
    def connections(self) -> int:
        """How many share it, those included that wait for its opening."""
        return self._reserved

    @property
    def is_lost(self) -> bool:
        """Whether it has ended, in order or not."""
        return self._lost is not None

    @property
    def has_room(self) -> bool:
        """Whether a further connection is welcome."""
        return (
            self._takes_more
            and not self._stalled
            and self._reserved < self._settings.connections_per_session
        )

    async def run(self) -> None:
        """Open it, serve it, close it. Raises nothing: connections are told."""
        try:
            async with asyncio.timeout(self._settings.open_timeout_s):
                self._websocket = await open_websocket(
                    self._api, self.target, {}, TUNNEL_PROTOCOL, self._settings
                )
            await self._serve(self._websocket)
        except TunnelError as error:
            self._lost = error
        except TimeoutError:
            self._lost = tunnel_error(self.target, "timeout", "the API server did not answer")
        except Exception:  # the boundary of one session: the others go on
            log.exception("a fault in the session to %s", self.target)
        finally:
            await self._end()

    async def connect(self, port: int) -> StreamChannel:
        """Open a connection to a port of the pod. Raises TunnelError."""
        self._reserved += 1
        self._cancel_idle()
        channel: StreamChannel | None = None
        try:
            await self._is_open.wait()
            self._check()
            number, asked = self._protocol.connect(port)
            target = self.target._replace(port=port)
            channel = self._channels[number] = StreamChannel(self, number, target, self._settings)
            await self.send(asked)
            await channel.connected()
        except BaseException:
            if channel is None:
                self.left()
            else:
                await channel.close()
            raise
        self.was_used = True
        return channel

    async def send(self, data: bytes) -> None:
        """Send frames. Raises TunnelError."""
        self._check()
        assert self._websocket is not None
        assert self._heartbeat is not None
        self._heartbeat.sent(len(data))
        try:
            await self._websocket.send(data)
        except TunnelError as error:  # who sends may learn of it before who reads
            self._lost = error
            self.end()
            raise

    def payload(self, number: int, data: bytes, *, is_last: bool = False) -> bytes:
        """Return the frame that carries bytes of a connection."""
        return self._protocol.payload(number, data, is_last=is_last)

    async def drop(self, number: int) -> None:
        """Forget a connection; reset it when it is not over."""
        self._channels.pop(number, None)
        reset = self._protocol.drop(number)
        if not reset or self._lost is not None:
            return
        self._takes_more = False
        with suppress(TunnelError, TimeoutError):
            async with asyncio.timeout(self._settings.close_timeout_s):
                await self.send(reset)

    def left(self) -> None:
        """Note that a connection needs the session no more."""
        self._reserved -= 1
        if self._reserved:
            return
        if self._takes_more:
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(self._settings.idle_session_s, self.end)
        else:
            self._done.set()

    def end(self) -> None:
        """Close it soon."""
        self._takes_more = False
        self._done.set()

    def _check(self) -> None:
        if self._lost is not None:
            raise self._lost.with_traceback(None)  # it is raised for each connection

    def _cancel_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    async def _serve(self, websocket: WebSocket) -> None:
        """Read until it is done. Raises TunnelError."""
        heartbeat = self._heartbeat = Heartbeat(self._ping, self._settings.heartbeat_s)
        self._is_open.set()
        try:
            async with asyncio.TaskGroup() as tasks:
                reader = tasks.create_task(self._read(websocket, heartbeat))
                watcher = tasks.create_task(self._watch(heartbeat))
                await self._done.wait()
                reader.cancel()
                watcher.cancel()
        except BaseExceptionGroup as group:
            failed, others = group.split(TunnelError)
            if failed is None or others is not None:
                raise
            raise failed.exceptions[0] from None

    async def _watch(self, heartbeat: Heartbeat) -> None:
        await heartbeat.run()
        raise tunnel_error(self.target, "unreachable", "the kubelet has fallen silent")

    async def _ping(self) -> None:
        # SPDY's own ping goes all the way to the kubelet, the websocket's ends at the API server.
        await self.send(self._protocol.ping())

    async def _read(self, websocket: WebSocket, heartbeat: Heartbeat) -> None:
        while True:
            heartbeat.listening()
            message = await websocket.receive()
            heartbeat.heard()
            if message is None:
                self._takes_more = False
                raise tunnel_error(self.target, "error", "the server closed the session")
            try:
                await self._hand_out(message)
            except ProtocolError as fault:
                text = f"this is no port-forward: {fault}"
                raise tunnel_error(self.target, "error", text) from fault

    async def _hand_out(self, message: bytes) -> None:
        for event in self._protocol.receive(message):
            match event:
                case Answer(data):
                    await self.send(data)
                case GoingAway():
                    self._takes_more = False
                case Payload(number, data):
                    await self._deliver(number, data)
                case Connected(number) | PodEnded(number) | Over(number):
                    channel = self._channels.get(number)
                    if channel is not None:
                        self._tell(channel, event)

    def _tell(self, channel: StreamChannel, event: Connected | PodEnded | Over) -> None:
        match event:
            case Connected():
                channel.on_connected()
            case PodEnded():
                channel.on_pod_ended()
            case Over(_, text):
                lost = tunnel_error(channel.target, result_of_text(text), text) if text else None
                channel.on_over(lost)

    async def _deliver(self, number: int, data: bytes) -> None:
        channel = self._channels.get(number)
        if channel is None:
            return
        channel.on_payload(data)
        if channel.is_full:
            self._stalled = True
            try:
                await channel.wait_room()
            finally:
                self._stalled = False

    async def _end(self) -> None:
        """Tell the connections that wait or are open; close the websocket."""
        self._cancel_idle()
        self._takes_more = False
        if self._lost is None:
            self._lost = tunnel_error(self.target, "error", "the session has ended")
        self._is_open.set()
        log.debug("%d connections: %s", self._reserved, self._lost)
        for channel in list(self._channels.values()):
            channel.on_over(self._lost)
        if self._websocket is not None:
            await self._websocket.close()
