"""Answers scrapes: renders in turns, traffic and health answers between, and sends at each pace.

One rendering at a time, kept compressed: text of 10,000 Services is 60 MB, and 2 MB like this. Who
comes while one is under way gets the next, together with all others who wait. A client that reads
slowly, or goes away, holds up nobody.
"""

import asyncio
import zlib
from collections.abc import Iterator

from aiohttp import hdrs, web

from pyproxy.metrics import Exposition

# Level 1: 2 ms for a megabyte, to a twentieth of it. Higher ones win little.
_LEVEL = 1
_GZIP = 16 + zlib.MAX_WBITS
_PART_BYTES = 64 * 1024
_COMPRESSED_PART_BYTES = 2 * 1024  # some 50 KB of text
# Prometheus gives up after 10 s by default; one that has not read all after this is stuck.
_DELIVERY_S = 60.0
_MOST_AT_ONCE = 32


class Scrapes:
    """The handler of /metrics."""

    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition
        self._rendering = asyncio.Lock()
        self._begun = 0
        # By content type: the number of its newest rendering, and the rendering.
        self._rendered: dict[str, tuple[int, bytes]] = {}
        self._waiting = 0
        self._under_way = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a scrape."""
        accept = request.headers.get(hdrs.ACCEPT, "")
        headers: dict[str, str] = {
            hdrs.CONTENT_TYPE: self._exposition.format(accept),
            hdrs.VARY: "Accept-Encoding",
        }
        if request.method == hdrs.METH_HEAD:
            return web.Response(headers=headers)
        if self._under_way == _MOST_AT_ONCE:
            text = f"{_MOST_AT_ONCE} scrapes are under way; try again later"
            return web.Response(status=503, text=text)
        self._under_way += 1
        try:
            body = await self._body(accept)
            return await _deliver(request, body, headers)
        finally:
            self._under_way -= 1

    async def _body(self, accept: str) -> bytes:
        """A rendering that began after this call, compressed."""
        key, begun = self._exposition.format(accept), self._begun
        self._waiting += 1
        try:
            async with self._rendering:
                number, body = self._rendered.get(key, (0, b""))
                if number <= begun:
                    self._begun += 1
                    number, body = self._begun, await _compressed(self._exposition.pieces(accept))
                    self._rendered[key] = number, body
                return body
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._rendered.clear()


async def _compressed(pieces: Iterator[bytes]) -> bytes:
    compressor = zlib.compressobj(_LEVEL, wbits=_GZIP)
    parts = []
    for piece in pieces:
        parts.append(compressor.compress(piece))
        await asyncio.sleep(0)
    return b"".join([*parts, compressor.flush()])


async def _deliver(
    request: web.Request, body: bytes, headers: dict[str, str]
) -> web.StreamResponse:
    """Send it in parts, at the client's pace."""
    is_compressed = "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, "")
    response = web.StreamResponse(headers=headers)
    if is_compressed:
        response.headers[hdrs.CONTENT_ENCODING] = "gzip"
        response.content_length = len(body)
    try:
        async with asyncio.timeout(_DELIVERY_S):
            await response.prepare(request)
            for part in _parts(body) if is_compressed else _plain(body):
                await response.write(part)
                await asyncio.sleep(0)
            await response.write_eof()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()  # it would wait for what is still to be sent
    return response


def _parts(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), _PART_BYTES):
        yield body[start : start + _PART_BYTES]


def _plain(body: bytes) -> Iterator[bytes]:
    decompressor = zlib.decompressobj(_GZIP)
    for start in range(0, len(body), _COMPRESSED_PART_BYTES):
        yield decompressor.decompress(body[start : start + _COMPRESSED_PART_BYTES])
