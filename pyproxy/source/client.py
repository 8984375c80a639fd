"""Requests to the API server over one aiohttp session, with credentials that can be renewed.

The session outlives the credentials: token, TLS context and proxy are arguments of each request, so
that renewing them cuts no watch that is open, and no connection made with old ones is used again.
"""

import asyncio
import re
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType, TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
import msgspec

from pyproxy import __version__
from pyproxy.core.apiservers import ApiServers
from pyproxy.core.listwatch import Stop, StopReason
from pyproxy.core.listwire import STATUS, UNREADABLE, Status
from pyproxy.errors import ApiError
from pyproxy.metrics import NO_ANSWER, ApiRequests
from pyproxy.source.credentials import Credentials, CredentialSettings, load_credentials

_POST_TIMEOUT_S = 10.0
_MAX_REFUSAL_BYTES = 64 * 1024
# Kubelets send 32 KiB at a time (Go, io.Copy), and proxies in between may join a few.
_MAX_MESSAGE_BYTES = 4 * 1024 * 1024
# A watch is silent for minutes when nothing happens. A machine that slept, or left the network
# it began on, never hears of its end: the kernel asks after 15 s of silence, for 15 s at most.
_PROBES = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
# What aiohttp says of the TLS context in its messages.
_TLS_CONTEXT = re.compile(r" ssl:(<[^>]*>|\S+)")
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class _Named(msgspec.Struct):
    name: str


class _Item(msgspec.Struct):
    metadata: _Named


class _Names(msgspec.Struct):
    items: list[_Item]


class ApiClient:
    """An open session, and the credentials as they are now. Use it as `async with`.

    Entering it loads the credentials; that raises ConfigError. counts: of its requests, websockets
    left out; None: nobody looks at them.
    """

    def __init__(
        self,
        settings: CredentialSettings,
        servers: ApiServers,
        *,
        connect_timeout_s: float,
        counts: ApiRequests | None = None,
    ) -> None:
        self.servers = servers
        self._counts = counts or ApiRequests()
        self._settings = settings
        self._connect_timeout_s = connect_timeout_s
        self._loading = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self.credentials: Credentials = await load_credentials(self._settings)
        self._session = aiohttp.ClientSession(
            # A watch holds its connection; the library's limit would queue further ones silently.
            connector=aiohttp.TCPConnector(limit=0, socket_factory=_socket),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s),
            headers={"Accept": "application/json", "User-Agent": f"pyproxy/{__version__}"},
            cookie_jar=aiohttp.DummyCookieJar(),
            middlewares=(_refused_upgrade,),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def fresh_credentials(self) -> Credentials:
        """Return the credentials, loaded anew when they are stale. Raises ConfigError."""
        stale_at = self.credentials.stale_at
        if stale_at is not None and datetime.now(UTC) >= stale_at:
            await self.reload(self.credentials)
        return self.credentials

    async def reload(self, refused: Credentials) -> None:
        """Load the credentials anew, unless that happened since `refused` were in use.

        Raises ConfigError; the old ones stay then. All watches are refused together when a token
        ends: the first to come loads, the others wait and find it done.
        """
        async with self._loading:
            if self.credentials is refused:
                self.credentials = await load_credentials(self._settings)

    async def get(
        self, credentials: Credentials, path: str, parameters: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        """Make a request and wait for the answer's headers. The caller closes the response."""
        return await self._request("GET", credentials, path, params=parameters)

    async def names(self, path: str) -> set[str] | None:
        """Return the names of the objects of a list; None without a list in the answer.

        Raises ConfigError when credentials must be renewed and cannot.
        """
        credentials = await self.fresh_credentials()
        if self._session.closed:
            return None
        try:
            async with (
                asyncio.timeout(_POST_TIMEOUT_S),
                await self.get(credentials, path, {}) as answer,
            ):
                listed = msgspec.json.decode(await answer.read(), type=_Names)
        except (aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError):
            return None
        return {item.metadata.name for item in listed.items}

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Post JSON; return the answer's status and body.

        Raises ApiError without an answer, ConfigError when credentials must be renewed and cannot.
        """
        credentials = await self.fresh_credentials()
        status, answer = await self._post(credentials, path, body)
        if status == 401:
            await self.reload(credentials)
            status, answer = await self._post(self.credentials, path, body)
        return status, answer

    async def websocket(
        self, path: str, query: Mapping[str, str], protocols: Sequence[str]
    ) -> aiohttp.ClientWebSocketResponse:
        """Open a websocket; the caller closes it. Its `receive` reports pings and pongs too.

        Raises ApiError with the status of a refused upgrade, 0 when there was no answer, and
        ConfigError when credentials must be renewed and cannot.
        """
        credentials = await self.fresh_credentials()
        try:
            return await self._websocket(credentials, path, query, protocols)
        except ApiError as error:
            if error.status != 401:
                raise
        await self.reload(credentials)
        return await self._websocket(self.credentials, path, query, protocols)

    async def _websocket(
        self,
        credentials: Credentials,
        path: str,
        query: Mapping[str, str],
        protocols: Sequence[str],
    ) -> aiohttp.ClientWebSocketResponse:
        """Try each known address of the API server once, from the current one on."""
        tried: set[str] = set()
        while True:
            url = self.servers.current(credentials.url)
            tried.add(url)
            try:
                ws: aiohttp.ClientWebSocketResponse = await self._session.ws_connect(
                    url + path,
                    params=query,
                    protocols=protocols,
                    autoping=False,
                    max_msg_size=_MAX_MESSAGE_BYTES,
                    **self._as(credentials, url),
                )
            except (aiohttp.ClientError, OSError) as fault:
                stop = transport_stop(fault, credentials)
                if stop.reason == "unreachable" and credentials.proxy is None:
                    following = self.servers.unreachable(url, credentials.url)
                    if following not in tried:
                        continue
                raise ApiError(stop.message) from fault
            return ws

    async def _post(self, credentials: Credentials, path: str, body: bytes) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"}
        try:
            async with (
                asyncio.timeout(_POST_TIMEOUT_S),
                await self._request(
                    "POST", credentials, path, data=body, headers=headers
                ) as answer,
            ):
                return answer.status, await answer.read()
        except TimeoutError as fault:
            text = f"{credentials.url}: no answer within {_POST_TIMEOUT_S:g} s"
            raise ApiError(text) from fault
        except (aiohttp.ClientError, OSError) as fault:
            raise ApiError(transport_stop(fault, credentials).message) from fault

    async def _request(
        self,
        method: str,
        credentials: Credentials,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> aiohttp.ClientResponse:
        url = self.servers.current(credentials.url)
        began_s, code = time.monotonic(), NO_ANSWER
        try:
            response = await self._session.request(
                method,
                url + path,
                allow_redirects=False,  # a token must not follow one
                **self._as(credentials, url, headers or {}),
                **more,
            )
            code = str(response.status)
        finally:
            self._counts.add(method, urlsplit(url).netloc, code, time.monotonic() - began_s)
        return response

    def _as(
        self, credentials: Credentials, url: str, headers: Mapping[str, str] = _NO_HEADERS
    ) -> dict[str, Any]:
        """The arguments that make a request to this address one of ours."""
        name = credentials.server_name
        if url != credentials.url:
            # A fall-back is the same server at another address; its certificate has the old name.
            name = name or urlsplit(credentials.url).hostname
        authorization = {"Authorization": credentials.authorization}
        return {
            "headers": {**headers, **(authorization if credentials.authorization else {})},
            "ssl": credentials.tls if credentials.tls is not None else True,
            "server_hostname": name,
            "proxy": credentials.proxy,
        }


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Return a socket that notices a server that has vanished."""
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _PROBES.items():
        if hasattr(socket, name):  # macOS has another name for the first
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


async def _refused_upgrade(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Raise ApiError when the answer to an upgrade is another than yes.

    The library's own error does not have the body, which says why; and it would follow a redirect,
    with the token.
    """
    response = await handler(request)
    if "Upgrade" not in request.headers or response.status == 101:
        return response
    async with response:
        body = await response.content.read(_MAX_REFUSAL_BYTES)
    raise ApiError(_refusal(response.status, body), status=response.status)


def _refusal(status: int, body: bytes) -> str:
    try:
        said = STATUS.decode(body)
    except UNREADABLE:  # the kubelet answers in plain text, a proxy in HTML
        said = Status()
    text = said.message or body[:200].decode(errors="replace")
    return f"the API server answered {status}: {' '.join(text.split()) or 'no message'}"


def transport_stop(error: aiohttp.ClientError | OSError, credentials: Credentials) -> Stop:
    """Translate an error of the session, in the words of the watch."""
    if isinstance(error, aiohttp.ClientPayloadError):
        return Stop("reset", f"{credentials.url}: the connection broke within the answer")
    text = _TLS_CONTEXT.sub("", " ".join(str(error).split())) or type(error).__name__
    if credentials.has_client_certificate and isinstance(error, aiohttp.ServerDisconnectedError):
        # All that can be seen of it with TLS 1.3, where the client's handshake is over before the
        # server looks at the certificate. It may also have died: then a reload does no harm.
        text = f"{text} before it answered; it may refuse the client certificate"
        return Stop("tls", f"{credentials.url}: {text}")
    reason = _transport_reason(error)
    if credentials.address_fix and reason in ("unreachable", "tls"):
        text = f"{text}; {credentials.address_fix}"
    return Stop(reason, f"{credentials.url}: {text}")


def _transport_reason(error: aiohttp.ClientError | OSError) -> StopReason:
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return "tls"
    if isinstance(
        error,
        aiohttp.ClientConnectorError
        | aiohttp.ConnectionTimeoutError
        | aiohttp.ClientHttpProxyError,
    ):
        return "unreachable"
    if isinstance(error, aiohttp.ClientResponseError):
        return "malformed"  # what answers speaks no HTTP
    return "reset"
