"""The port-forward subresource of pods, for the fake API server: v4, and SPDY in a websocket.

It plays the API server, the kubelet and the container runtime in one, and connects to real sockets.
Like them it accepts a connection before it connects to the pod, and tells of a refusal later.
"""

import asyncio
import contextlib
import json
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import aiohttp
from aiohttp import web

from pyproxy.core import spdy
from pyproxy.core.portforward import TUNNEL_PROTOCOL, V4_PROTOCOL
from tests.support.fake_api_bell import Bell
from tests.support.fake_api_store import ApiStatus

_POD_PATH = "/api/v1/namespaces/{namespace}/pods/{name}"
Address = tuple[str, int]
_CHUNK = 32 * 1024  # as Go's io.Copy


class AskedTunnel(NamedTuple):
    """A websocket that was asked for."""

    pod: str
    protocols: str
    ports: str


@dataclass
class PortForwardFaults:
    """What goes wrong now.

    prelude: of v4. error_text: said, and the pod never connected to, when it is not None.
    cut_after_bytes: of the pod's; then the TCP connection is reset.
    refuse: this status for the upgrade. never_accepts: the websocket is open, and nothing comes.
    garbage: sent first. protocols: those that are spoken.
    closes_data_first: as containerd does when it fails. dials_once: the pod, when this is set.
    """

    prelude: Literal["right", "wrong port", "missing", "split"] = "right"
    error_text: str | None = None
    cut_after_bytes: int | None = None
    refuse: int | None = None
    negotiates_nothing: bool = False
    never_answers: bool = False
    never_accepts: bool = False
    garbage: bytes = b""
    closes_data_first: bool = False
    dials_once: asyncio.Event | None = None
    protocols: set[str] = field(default_factory=lambda: {V4_PROTOCOL, TUNNEL_PROTOCOL})


class FakePortForward:
    """Pods with ports; `asked` has every websocket that was asked for since the start.

    live: connections to pods that are open now. half_close: "kept" passes on one FIN and keeps the
    other direction; "cut" ends both directions a moment after a FIN, as containerd and CRI-O do.
    """

    def __init__(self) -> None:
        self.pods: dict[str, dict[int, Address]] = {}
        self.faults = PortForwardFaults()
        self.half_close: Literal["kept", "cut"] = "kept"
        self.asked: list[AskedTunnel] = []
        self.websockets = 0
        self.live = 0
        self.bell = Bell()
        self._requests: list[web.Request] = []

    def freeze(self) -> None:
        """Read nothing more from the websockets that are open: no ping is answered."""
        for request in self._requests:
            assert request.transport is not None
            request.transport.pause_reading()

    def routes(self, check: Callable[[str], None]) -> list[web.RouteDef]:
        """Return what serves the paths. check: raises ApiStatus for a wrong Authorization header.

        All but the first are what kubectl asks for before it forwards a port.
        """

        async def forward(request: web.Request) -> web.StreamResponse:
            try:
                check(request.headers.get("Authorization", ""))
                return await self._serve(request)
            except ApiStatus as status:
                return web.json_response(status.body, status=status.code)

        async def pod(request: web.Request) -> web.StreamResponse:
            name = request.match_info["name"]
            if name not in self.pods:
                return web.json_response(ApiStatus(404, "NotFound", "no pod").body, status=404)
            metadata = {"name": name, "namespace": request.match_info["namespace"]}
            status = {"phase": "Running"}
            value = {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "status": status}
            return web.json_response(value)

        def fixed(kind: str, **more: object) -> Callable[[web.Request], Awaitable[web.Response]]:
            async def answer(_: web.Request) -> web.Response:
                return web.json_response({"kind": kind, "apiVersion": "v1", **more})

            return answer

        pods = {"name": "pods", "kind": "Pod", "namespaced": True, "verbs": ["get"]}
        return [
            web.get(f"{_POD_PATH}/portforward", forward),
            web.get(_POD_PATH, pod),
            web.get("/api", fixed("APIVersions", versions=["v1"])),
            web.get("/apis", fixed("APIGroupList", groups=[])),
            web.get("/api/v1", fixed("APIResourceList", groupVersion="v1", resources=[pods])),
        ]

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        pod = request.match_info["name"]
        offered = request.headers.get("Sec-WebSocket-Protocol", "")
        self.asked.append(AskedTunnel(pod, offered, request.query.get("ports", "")))
        self.bell.ring()
        faults = self.faults
        if faults.never_answers:
            await asyncio.Event().wait()
        if faults.refuse is not None:
            raise ApiStatus(faults.refuse, "Refused", "refused by the test")
        if pod not in self.pods:
            raise ApiStatus(404, "NotFound", f'pods "{pod}" not found')
        known = [name.strip() for name in offered.split(",") if name.strip() in faults.protocols]
        if not known:
            return web.Response(status=403)  # as x/net/websocket: nothing else is said
        negotiated = () if faults.negotiates_nothing else (known[0],)
        ws = web.WebSocketResponse(protocols=negotiated, max_msg_size=1 << 25, compress=False)
        await ws.prepare(request)
        self.websockets += 1
        self._requests.append(request)
        try:
            speaker = _V4(self, pod, request, ws) if known[0] == V4_PROTOCOL else None
            await (speaker or _Spdy(self, pod, request, ws)).serve()
        finally:
            self.websockets -= 1
            self._requests.remove(request)
            self.bell.ring()
        return ws

    @contextlib.asynccontextmanager
    async def connected(self, pod: str, port: int) -> AsyncIterator[socket.socket]:
        """Connect to a pod's port. Raises OSError."""
        if self.faults.dials_once is not None:
            await self.faults.dials_once.wait()
        text = self.faults.error_text
        if text is not None:
            raise OSError(text)
        sock = socket.socket()
        sock.setblocking(False)
        self.live += 1
        try:
            with sock:
                try:
                    await asyncio.get_running_loop().sock_connect(sock, self.pods[pod][port])
                except (KeyError, ConnectionRefusedError) as fault:
                    dial = f"dial tcp4 127.0.0.1:{port}: connect: connection refused"
                    text = f"failed to connect to localhost:{port} inside namespace: {dial}"
                    raise OSError(text) from fault
                yield sock
        finally:
            self.live -= 1
            self.bell.ring()


Send = Callable[[bytes], Awaitable[None]]


class _Speaker:
    """What both protocols do: copy between a pod's socket and the websocket."""

    def __init__(
        self, fake: FakePortForward, pod: str, request: web.Request, ws: web.WebSocketResponse
    ) -> None:
        self.fake = fake
        self.pod = pod
        self.request = request
        self.ws = ws

    async def from_pod(self, sock: socket.socket, send: Send) -> None:
        loop = asyncio.get_running_loop()
        left = self.fake.faults.cut_after_bytes
        while data := await loop.sock_recv(sock, _CHUNK):
            if left is not None:
                data, left = data[:left], left - len(data)
            await send(data)
            if left is not None and left <= 0:
                self.cut()
                await asyncio.Event().wait()

    def cut(self) -> None:
        """Reset the connection that the websocket runs over."""
        if self.request.transport is not None:
            self.request.transport.abort()

    def failure(self, port: int, fault: OSError) -> str:
        return f"error forwarding port {port} to pod 0b6, uid : {fault}"


class _V4(_Speaker):
    """One connection; cri-streaming websocket.go."""

    async def serve(self) -> None:
        port = int(self.request.query["ports"])
        await self._begin(port)
        try:
            async with self.fake.connected(self.pod, port) as sock, asyncio.TaskGroup() as tasks:
                copier = tasks.create_task(self._from_pod(sock))
                await self._to_pod(sock)
                copier.cancel()
        except* OSError as group:
            fault = group.exceptions[0]
            assert isinstance(fault, OSError)
            with contextlib.suppress(OSError):
                await self.ws.send_bytes(b"\x01" + self.failure(port, fault).encode())
        await self.ws.close()

    async def _begin(self, port: int) -> None:
        faults = self.fake.faults
        if faults.never_accepts:
            await asyncio.Event().wait()
        prelude = (port + (faults.prelude == "wrong port")).to_bytes(2, "little")
        if faults.garbage:
            await self.ws.send_bytes(faults.garbage)
        await self.ws.send_bytes(b"\x00" + prelude)
        if faults.prelude == "split":
            await self.ws.send_bytes(b"\x01" + prelude[:1])
            await self.ws.send_bytes(b"\x01" + prelude[1:])
        elif faults.prelude != "missing":
            await self.ws.send_bytes(b"\x01" + prelude)

    async def _from_pod(self, sock: socket.socket) -> None:
        await self.from_pod(sock, self._send)
        await self.ws.close()  # ends the other direction as well: there is no half-close

    async def _send(self, data: bytes) -> None:
        await self.ws.send_bytes(b"\x00" + data)

    async def _to_pod(self, sock: socket.socket) -> None:
        async for message in self.ws:
            if message.type is not aiohttp.WSMsgType.BINARY:
                break
            if message.data[0] == 0:
                await asyncio.get_running_loop().sock_sendall(sock, message.data[1:])


class _Pair:
    """Two streams of one request id; what came for the data stream waits here for the pod."""

    def __init__(self) -> None:
        self.streams: dict[str, int] = {}
        self.port = 0
        self.chunks: deque[bytes] = deque()
        self.has_ended = False
        self.is_reset = False
        self.changed = asyncio.Event()
        self.room = asyncio.Event()

    async def until_reset(self) -> None:
        while not self.is_reset:
            self.changed.clear()
            await self.changed.wait()


class _Spdy(_Speaker):
    """Many connections; cri-streaming httpstream.go, and moby/spdystream."""

    def __init__(
        self, fake: FakePortForward, pod: str, request: web.Request, ws: web.WebSocketResponse
    ) -> None:
        super().__init__(fake, pod, request, ws)
        self._reader = spdy.FrameReader()
        self._writer = spdy.FrameWriter()
        self._pairs: dict[str, _Pair] = {}
        self._by_stream: dict[int, _Pair] = {}

    async def serve(self) -> None:
        if self.fake.faults.garbage:
            await self.ws.send_bytes(self.fake.faults.garbage)
        async with asyncio.TaskGroup() as tasks:
            async for message in self.ws:
                if message.type is not aiohttp.WSMsgType.BINARY:
                    break
                for frame in self._reader.receive(message.data):
                    await self._take(frame, tasks)
            for pair in self._by_stream.values():
                pair.is_reset = True
                pair.changed.set()

    async def _take(self, frame: spdy.Frame, tasks: asyncio.TaskGroup) -> None:
        match frame:
            case spdy.SynStream(stream, headers, _):
                pair = self._pairs.setdefault(headers["requestid"], _Pair())
                pair.port = int(headers["port"])
                pair.streams[headers["streamtype"]] = stream
                self._by_stream[stream] = pair
                if self.fake.faults.never_accepts:
                    return
                await self.ws.send_bytes(self._writer.syn_reply(stream))
                if len(pair.streams) == 2:
                    tasks.create_task(self._forward(headers["requestid"], pair))
            case spdy.Data(stream, payload, is_last):
                at = self._by_stream.get(stream)
                if at is None or stream != at.streams.get("data"):
                    return
                at.chunks.append(payload)
                at.has_ended |= is_last
                at.room.clear()
                at.changed.set()
                if len(at.chunks) > 8:
                    await at.room.wait()  # and with it all that share the session
            case spdy.RstStream(stream, _):
                at = self._by_stream.get(stream)
                if at is not None:
                    at.is_reset = True
                    at.changed.set()
            case spdy.Ping(number):
                if number % 2:
                    await self.ws.send_bytes(spdy.ping(number))
            case _:
                pass

    async def _forward(self, request_id: str, pair: _Pair) -> None:
        text = ""
        try:
            async with self.fake.connected(self.pod, pair.port) as sock:
                await self._both_ways(pair, sock)
        except* OSError as group:
            fault = group.exceptions[0]
            assert isinstance(fault, OSError)
            text = self.failure(pair.port, fault)
        pair.room.set()
        data, error = pair.streams["data"], pair.streams["error"]
        del self._pairs[request_id], self._by_stream[data], self._by_stream[error]
        with contextlib.suppress(OSError):
            await self._end(data, error, text)

    async def _end(self, data: int, error: int, text: str) -> None:
        if self.fake.faults.closes_data_first:
            await self.ws.send_bytes(spdy.data_frame(data, b"", is_last=True))
            await asyncio.sleep(0.01)
        if text:
            said = json.dumps({"closeConnection": True, "message": text}) + "\n"
            await self.ws.send_bytes(spdy.data_frame(error, said.encode()))
        await self.ws.send_bytes(spdy.data_frame(error, b"", is_last=True))
        await self.ws.send_bytes(spdy.data_frame(data, b"", is_last=True))

    async def _both_ways(self, pair: _Pair, sock: socket.socket) -> None:
        async with asyncio.TaskGroup() as tasks:
            ways = {
                tasks.create_task(self._from_pod(pair.streams["data"], sock)),
                tasks.create_task(self._to_pod(pair, sock)),
            }
            reset = tasks.create_task(pair.until_reset())
            await asyncio.wait({*ways, reset}, return_when=asyncio.FIRST_COMPLETED)
            if self.fake.half_close == "cut":
                await asyncio.wait(ways, timeout=0.05)
            else:
                both = tasks.create_task(asyncio.wait(ways))
                await asyncio.wait({both, reset}, return_when=asyncio.FIRST_COMPLETED)
                both.cancel()
            for task in (*ways, reset):
                task.cancel()

    async def _from_pod(self, stream: int, sock: socket.socket) -> None:
        async def send(payload: bytes) -> None:
            await self.ws.send_bytes(spdy.data_frame(stream, payload))

        await self.from_pod(sock, send)
        if self.fake.half_close == "kept":
            await self.ws.send_bytes(spdy.data_frame(stream, b"", is_last=True))

    async def _to_pod(self, pair: _Pair, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while not pair.is_reset:
            while pair.chunks:
                await loop.sock_sendall(sock, pair.chunks.popleft())
            pair.room.set()
            if pair.has_ended:
                if self.fake.half_close == "kept":
                    sock.shutdown(socket.SHUT_WR)
                return
            pair.changed.clear()
            await pair.changed.wait()
