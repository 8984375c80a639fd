"""Tunnels to the ports of pods: the way in.

It decides which transport is spoken, and when a tunnel counts as connected.

SPDY is tried first; a cluster that refuses it and accepts v4 is spoken to in v4 from then on. Which
status tells of a protocol that is not known differs, so what has worked decides.

A tunnel is connected when the server has accepted it, and, at a port that has not answered yet,
when the pod has spoken or a short time has passed: only then does the kubelet connect to the pod,
and a refusal in that time is a failure to open, after which another pod can be tried. A refusal
that comes later cuts the tunnel.
"""

import asyncio
import logging
from types import TracebackType
from typing import Self

from pyproxy.core.portforward import TUNNEL_PROTOCOL, V4_PROTOCOL
from pyproxy.tunnel.channel import Channel
from pyproxy.tunnel.proven import ProvenPorts
from pyproxy.tunnel.sessions import Sessions
from pyproxy.tunnel.settings import TunnelSettings
from pyproxy.tunnel.target import PodPort, tunnel_error
from pyproxy.tunnel.tunnel import Tunnel
from pyproxy.tunnel.v4 import open_v4
from pyproxy.tunnel.websocket import ProtocolRefused, WebSocketApi

log = logging.getLogger(__name__)

_DEFAULTS = TunnelSettings()


class PodTunnels:
    """Opens tunnels through one API server. Use it as `async with`: it owns the sessions."""

    def __init__(self, api: WebSocketApi, settings: TunnelSettings = _DEFAULTS) -> None:
        self._api = api
        self._settings = settings
        self._transport: str | None = None
        self._proven = ProvenPorts()

    async def __aenter__(self) -> Self:
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        self._sessions = Sessions(self._api, self._settings, self._tasks)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._sessions.end()
        await self._tasks.__aexit__(kind, error, trace)

    @property
    def transport(self) -> str | None:
        """The subprotocol that has worked last; None before one has."""
        return self._transport

    @property
    def sessions(self) -> int:
        """How many websockets are open for connections over SPDY."""
        return self._sessions.count

    async def open(self, namespace: str, pod: str, port: int) -> Tunnel:
        """Open a tunnel to a port of a pod, 1 to 65535. Raises TunnelError."""
        target = PodPort(namespace, pod, port)
        try:
            async with asyncio.timeout(self._settings.open_timeout_s):
                channel = await self._connect(target)
                try:
                    return await self._settled(channel, target)
                except BaseException:
                    await channel.close()
                    raise
        except TimeoutError as fault:
            text = f"not connected within {self._settings.open_timeout_s:g} s"
            raise tunnel_error(target, "timeout", text) from fault

    async def _connect(self, target: PodPort) -> Channel:
        channel: Channel
        if self._transport != V4_PROTOCOL:
            try:
                channel = await self._sessions.connect(target)
            except ProtocolRefused as refused:
                log.debug("no SPDY: %s", refused)
            else:
                self._transport = TUNNEL_PROTOCOL
                return channel
        channel = await open_v4(self._api, target, self._settings)
        self._transport = V4_PROTOCOL
        return channel

    async def _settled(self, channel: Channel, target: PodPort) -> Tunnel:
        first: bytes | None = None
        if target not in self._proven:
            try:
                async with asyncio.timeout(self._settings.settle_s):
                    first = await channel.receive()
            except TimeoutError:
                pass  # it waits for the client to speak, or the kubelet is slow
        return Tunnel(channel, target, self._settings, self._proven, first)
