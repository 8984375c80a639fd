"""A channel over a websocket of its own: v4.channel.k8s.io. Works with every server.

There is no half-close: the client's FIN ends the websocket, and so does the pod's.
"""

from pyproxy.core.portforward import V4_PROTOCOL, result_of_text
from pyproxy.core.portforward_v4 import Connected, Failed, Payload, V4Channels, data_message
from pyproxy.errors import ProtocolError
from pyproxy.tunnel.heartbeat import Heartbeat
from pyproxy.tunnel.settings import TunnelSettings
from pyproxy.tunnel.target import PodPort, TunnelError, tunnel_error
from pyproxy.tunnel.websocket import WebSocket, WebSocketApi, open_websocket


async def open_v4(api: WebSocketApi, target: PodPort, settings: TunnelSettings) -> "V4Channel":
    """Open a channel, up to the moment when the server has begun both of its own.

    Raises TunnelError.
    """
    query = {"ports": str(target.port)}
    websocket = await open_websocket(api, target, query, V4_PROTOCOL, settings)
    channel = V4Channel(websocket, target, settings)
    try:
        await channel.connect()
    except BaseException:
        await channel.close()
        raise
    return channel


class V4Channel:
    """One connection, one websocket."""

    def __init__(self, websocket: WebSocket, target: PodPort, settings: TunnelSettings) -> None:
        self._websocket = websocket
        self._target = target
        self._channels = V4Channels(target.port)
        self._heartbeat = Heartbeat(websocket.ping, settings.heartbeat_s)
        self._early = b""  # came with the server's beginning
        self._is_connected = False
        self._is_finished = False
        self._is_over = False

    async def connect(self) -> None:
        """Wait for the beginning of both channels. Raises TunnelError."""
        while not self._is_connected:
            self._early += await self._next()
            if self._is_over:
                raise tunnel_error(self._target, "error", "the server ended the tunnel at once")

    async def send(self, data: bytes) -> None:
        """See Channel."""
        self._heartbeat.sent(len(data))
        await self._websocket.send(data_message(data))

    async def finish(self) -> None:
        """End the websocket: nothing else tells the pod."""
        self._is_finished = True
        await self._websocket.close()

    async def receive(self) -> bytes:
        """See Channel."""
        data, self._early = self._early, b""
        while not (data or self._is_over):
            data = await self._next()
        return data

    async def wait_over(self) -> None:
        """See Channel: the pod's FIN was the end of the websocket."""

    async def watch(self) -> None:
        """See Channel."""
        await self._heartbeat.run()
        raise tunnel_error(self._target, "unreachable", "the API server has fallen silent")

    async def close(self) -> None:
        """See Channel."""
        await self._websocket.close()

    async def _next(self) -> bytes:
        """Take the next message; return what it has of the pod, perhaps nothing."""
        self._heartbeat.listening()
        try:
            message = await self._websocket.receive()
        except TunnelError:
            if not self._is_finished:
                raise
            message = None  # as good as closed in order: we began it
        self._heartbeat.heard()
        if message is None:
            self._is_over = True
            return b""
        try:
            return self._take(message)
        except ProtocolError as fault:
            raise tunnel_error(
                self._target, "error", f"this is no port-forward: {fault}"
            ) from fault

    def _take(self, message: bytes) -> bytes:
        data = b""
        for event in self._channels.receive(message):
            match event:
                case Connected():
                    self._is_connected = True
                case Payload(payload):
                    data = payload
                case Failed(text):
                    raise tunnel_error(self._target, result_of_text(text), text)
        return data
