"""The HTTP side of the status page: its files, and who may ask for them. It changes nothing.

It answers without a password, so that no other web site may get at it through somebody's browser:
names that an attacker's DNS could point here are refused (DNS rebinding), requests that other sites
cause are refused, nothing may frame it, and the page itself loads nothing from elsewhere.
"""

import ipaddress
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from pyproxy.ops.control import ControlError
from pyproxy.ops.web import Handler

log = logging.getLogger(__name__)

_FILES = Path(__file__).parent / "page"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
# Of Sec-Fetch-Site: the page itself, a person who typed the address, or no browser.
_OUR_SITES = frozenset({"same-origin", "none", ""})


def application(
    answers: Mapping[str, Handler], *, bound: str, hosts: Iterable[str]
) -> web.Application:
    """The page at /, its files beside it, and `answers`, by their path.

    bound: the address that it listens on. hosts: names that browsers may know it by, beside that,
    and the names of this host's loopback.
    """
    allowed = _LOOPBACK | {bound.lower()} | {host.lower() for host in hosts}
    made = web.Application(middlewares=[_guard(allowed)], client_max_size=1024)
    made.on_response_prepare.append(_add_headers)
    for path, handler in {**_files(), **answers}.items():
        made.router.add_get(path, handler, allow_head=False)
    return made


def _files() -> dict[str, Handler]:
    found: dict[str, Handler] = {}
    for file in sorted(_FILES.iterdir()):
        path = "/" if file.name == "index.html" else f"/{file.name}"
        found[path] = _file(file.read_bytes(), _TYPES[file.suffix])
    return found


def _file(content: bytes, kind: str) -> Handler:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=content, headers={"Content-Type": kind})

    return answer


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


def _guard(allowed: frozenset[str]) -> Any:
    @web.middleware
    async def guard(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            _check(request, allowed)
            return await handler(request)
        except ControlError as fault:
            return _refusal(fault.status, str(fault), **fault.more)
        except web.HTTPException as fault:
            return _refusal(fault.status, f"{request.method} {request.path}: {fault.reason}")
        except Exception:  # of this request alone
            log.exception("the page cannot answer %s", request.path)
            return _refusal(500, "a fault of the agent; its log has it")

    return guard


def _check(request: web.Request, allowed: frozenset[str]) -> None:
    """Raise ControlError for whom this is not meant."""
    name = host_name(request.headers.get("Host", ""))
    if name not in allowed and not _is_own_address(name, request):
        raise ControlError(
            421,
            f"this page is not served as {name[:100]!r}: ask for it by the address it listens on,"
            " or add the name to uiHosts in the configuration",
        )
    site = request.headers.get("Sec-Fetch-Site", "")
    is_visit = request.headers.get("Sec-Fetch-Mode") == "navigate" and request.path == "/"
    if site not in _OUR_SITES and not is_visit:
        raise ControlError(403, "another site's page may not ask for this")


def host_name(header: str) -> str:
    """The name or address in a Host header, without its port."""
    text = header.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]


def _is_own_address(name: str, request: web.Request) -> bool:
    """Whether the name is the very address that the client has connected to; no DNS is in that."""
    transport = request.transport
    own = transport.get_extra_info("sockname") if transport is not None else None
    try:
        return own is not None and ipaddress.ip_address(name) == ipaddress.ip_address(own[0])
    except ValueError:
        return False


def _refusal(status: int, message: str, **more: object) -> web.Response:
    refusal = answer({"error": message, **more}, status)
    refusal.force_close()  # what is refused holds no connection
    return refusal


def answer(body: Mapping[str, Any], status: int = 200) -> web.Response:
    """An answer in JSON."""
    return web.Response(
        body=msgspec.json.encode(body), status=status, content_type="application/json"
    )
