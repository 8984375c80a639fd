"""Header blocks of SPDY/3: names and values, compressed with zlib and a dictionary known to both.

Sources: SPDY/3.1 section 2.6.10 (name/value blocks) and 2.6.10.1 (compression). Both directions
keep one zlib stream for the whole session, so blocks must be handled in the order of the wire, and
one that cannot be read makes all later ones unreadable: it ends the session.
"""

import struct
import zlib
from collections.abc import Mapping

from pyproxy.errors import ProtocolError

# Words that are frequent in HTTP of 2012 (SPDY/3.1 section 2.6.10.1): methods and header names with
# their lengths before them, then statuses, dates and media types run together.
_WORDS = (  # noqa: SIM905  # a list of 58 strings is harder to read
    "options head post put delete trace accept accept-charset accept-encoding accept-language "
    "accept-ranges age allow authorization cache-control connection content-base content-encoding "
    "content-language content-length content-location content-md5 content-range content-type date "
    "etag expect expires from host if-match if-modified-since if-none-match if-range "
    "if-unmodified-since last-modified location max-forwards pragma proxy-authenticate "
    "proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status"
).split()
_PAIRS = ("200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin")
_TAIL = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request"
    "401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented"
    "503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 "
    "Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,"
    "application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,"
    "deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
_LENGTH = struct.Struct("!I")


def _counted(text: str) -> bytes:
    return _LENGTH.pack(len(text)) + text.encode()


DICTIONARY = b"".join(map(_counted, (*_WORDS, *_PAIRS))) + _TAIL.encode()

# Port-forward streams carry three short headers, and answers none; what is far larger is an attack
# or garbage (a few KB can inflate to many MB).
MAX_BLOCK_BYTES = 16 * 1024


class HeaderWriter:
    """Packs header blocks of one direction."""

    def __init__(self) -> None:
        self._stream = zlib.compressobj(zdict=DICTIONARY)

    def pack(self, headers: Mapping[str, str]) -> bytes:
        """Return the block. Names are lower-case; neither names nor values are empty."""
        block = _LENGTH.pack(len(headers)) + b"".join(
            _counted(name) + _counted(value) for name, value in headers.items()
        )
        return self._stream.compress(block) + self._stream.flush(zlib.Z_SYNC_FLUSH)


class HeaderReader:
    """Unpacks header blocks of one direction."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(zdict=DICTIONARY)

    def unpack(self, data: bytes) -> dict[str, str]:
        """Return the headers of a block. Raises ProtocolError; the session cannot go on then."""
        try:
            block = self._stream.decompress(data, MAX_BLOCK_BYTES)
        except zlib.error as fault:
            raise ProtocolError(f"a header block cannot be inflated: {fault}") from fault
        if self._stream.unconsumed_tail or self._stream.unused_data:
            raise ProtocolError(f"a header block is over {MAX_BLOCK_BYTES} bytes, or ends too soon")
        try:
            return _parse(block)
        except (struct.error, UnicodeDecodeError) as fault:
            raise ProtocolError(f"a header block makes no sense: {fault}") from fault


def _parse(block: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    (count,) = _LENGTH.unpack_from(block)
    at = _LENGTH.size
    for _ in range(count):
        name, at = _text_at(block, at)
        headers[name], at = _text_at(block, at)
    return headers


def _text_at(block: bytes, at: int) -> tuple[str, int]:
    (size,) = _LENGTH.unpack_from(block, at)
    start = at + _LENGTH.size
    if start + size > len(block):
        raise ProtocolError("a header block ends within a name or a value")
    return block[start : start + size].decode("latin-1"), start + size
