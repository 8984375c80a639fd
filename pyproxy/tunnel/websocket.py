"""A websocket to a pod's port-forward subresource: opened, read, written and closed.

The edge to aiohttp: nothing above this module sees one of its errors. Its own heartbeat is not
used: it counts a pong as missing while nobody reads, and so cuts every tunnel to a client that does
not take its data for half a minute (aiohttp client_ws.py, _pong_not_received).
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Protocol

import aiohttp

from pyproxy.core.portforward import (
    may_lack_protocol,
    portforward_path,
    result_of_status,
    result_of_text,
)
from pyproxy.errors import ApiError, ConfigError
from pyproxy.tunnel.settings import TunnelSettings
from pyproxy.tunnel.target import PodPort, TunnelError, tunnel_error

_NORMAL_CLOSURE = 1000  # RFC 6455 section 7.4.1


class WebSocketApi(Protocol):
    """An API server, as far as tunnels need it."""

    async def websocket(
        self, path: str, query: Mapping[str, str], protocols: Sequence[str]
    ) -> aiohttp.ClientWebSocketResponse:
        """Open a websocket; the caller closes it.

        Raises ApiError with the status of a refused upgrade, 0 when there was no answer, and
        ConfigError when credentials must be renewed and cannot.
        """


class ProtocolRefused(TunnelError):  # noqa: N818  # it is answered with another protocol
    """Perhaps the server does not know the subprotocol: try another."""


class WebSocket:
    """An open websocket of binary messages. One task reads; any may send."""

    def __init__(
        self, ws: aiohttp.ClientWebSocketResponse, target: PodPort, close_timeout_s: float
    ) -> None:
        self._ws = ws
        self._target = target
        self._close_timeout_s = close_timeout_s

    async def send(self, data: bytes) -> None:
        """Send a message; waits while too much is unsent. Raises TunnelError."""
        try:
            await self._ws.send_bytes(data)
        except (aiohttp.ClientError, OSError) as fault:
            raise self._cut(fault) from fault

    async def ping(self) -> None:
        """Ask for a pong, which `receive` reports as an empty message. Raises TunnelError."""
        try:
            await self._ws.ping()
        except (aiohttp.ClientError, OSError) as fault:
            raise self._cut(fault) from fault

    async def receive(self) -> bytes | None:
        """Return the next message, b"" for a pong, None when the server has closed in order.

        Raises TunnelError. It may be cancelled without losing a message.
        """
        message = await self._ws.receive()
        match message.type:
            case aiohttp.WSMsgType.BINARY:
                return bytes(message.data)
            case aiohttp.WSMsgType.PING:
                with suppress(aiohttp.ClientError, OSError):  # the next receive tells
                    await self._ws.pong(message.data)
                return b""
            case aiohttp.WSMsgType.PONG:
                return b""
            case aiohttp.WSMsgType.CLOSE if message.data == _NORMAL_CLOSURE:
                return None
            case aiohttp.WSMsgType.CLOSE:
                said = message.extra or "no reason"
                text = f"the server closed the websocket: {said} (code {message.data})"
                raise tunnel_error(self._target, result_of_text(said), text)
            case aiohttp.WSMsgType.TEXT:
                text = "the server sent text in a protocol of bytes"
                raise tunnel_error(self._target, "error", text)
            case _:
                raise self._cut(message.data)

    async def close(self) -> None:
        """Close in order if the server does its part in time, and otherwise without it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._close_timeout_s):
                await self._ws.close()

    def _cut(self, fault: object) -> TunnelError:
        text = " ".join(f"{fault or ''}".split())
        return tunnel_error(
            self._target, "unreachable", f"the websocket was cut{': ' if text else ''}{text}"
        )


async def open_websocket(
    api: WebSocketApi,
    target: PodPort,
    query: Mapping[str, str],
    protocol: str,
    settings: TunnelSettings,
) -> WebSocket:
    """Open a websocket that speaks `protocol`.

    Raises TunnelError; ProtocolRefused when another protocol may do.
    """
    path = portforward_path(target.namespace, target.pod)
    try:
        ws = await api.websocket(path, query, [protocol])
    except ApiError as error:
        failure = tunnel_error(target, result_of_status(error.status), str(error))
        if may_lack_protocol(error.status):
            raise ProtocolRefused(failure.result, str(failure)) from error
        raise failure from error
    except ConfigError as error:
        raise tunnel_error(target, "forbidden", str(error)) from error
    opened = WebSocket(ws, target, settings.close_timeout_s)
    if ws.protocol != protocol:
        await opened.close()
        failure = tunnel_error(target, "error", f"the server did not agree to speak {protocol}")
        raise ProtocolRefused(failure.result, str(failure))
    return opened
