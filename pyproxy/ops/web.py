"""The two HTTP ports: metrics on one, health on the other. They answer, and change nothing.

A port that is taken is tried again every few seconds, as kube-proxy does (PARITY 14.8): the proxy
must serve traffic even if nobody can ask it how it is.
"""

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from pyproxy.core.health import ProxyHealth
from pyproxy.metrics import Exposition, Metrics
from pyproxy.model.addresses import join_host_port
from pyproxy.ops.bounded import MOST_CONNECTIONS, BoundedAppRunner
from pyproxy.ops.scrapes import Scrapes

log = logging.getLogger(__name__)

BIND_RETRY_S = 5.0
PROXY_MODE = "userspace"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def metrics_routes(exposition: Exposition, configuration: Mapping[str, Any]) -> dict[str, Handler]:
    """The paths of the metrics port. configuration: what /configz answers."""

    async def proxy_mode(_: web.Request) -> web.Response:
        return web.Response(text=PROXY_MODE)

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok")  # that this port answers; the health port tells the rest

    async def configz(_: web.Request) -> web.Response:
        return _json(200, configuration)

    return {
        "/metrics": Scrapes(exposition).answer,
        "/proxyMode": proxy_mode,
        "/configz": configz,
        "/healthz": healthz,
    }


def health_routes(
    health: ProxyHealth, metrics: Metrics, detail: Callable[[], Mapping[str, Any]]
) -> dict[str, Handler]:
    """The paths of the health port. `detail` gives what ?verbose adds to the answer."""

    def answer(request: web.Request, status: int, body: dict[str, Any]) -> web.Response:
        metrics.health_answers[request.path, status] += 1
        if "verbose" in request.query:
            body = {**body, **detail()}
        return _json(status, body)

    async def healthz(request: web.Request) -> web.Response:
        return answer(request, *health.healthz(datetime.now(UTC)))

    async def livez(request: web.Request) -> web.Response:
        return answer(request, *health.livez(datetime.now(UTC)))

    return {"/healthz": healthz, "/livez": livez}


def _json(status: int, body: Mapping[str, Any]) -> web.Response:
    return web.Response(
        text=json.dumps(body),
        status=status,
        content_type="application/json",
        headers={"X-Content-Type-Options": "nosniff"},
    )


async def serve(
    name: str,
    address: str,
    port: int,
    routes: Mapping[str, Handler],
    *,
    on_bound: Callable[[str], None] = lambda _: None,
    retry_s: float = BIND_RETRY_S,
    may_share: asyncio.Event | None = None,
) -> None:
    """Serve GET requests for the routes until cancelled. Port 0 takes a free one, and logs it.

    on_bound: is told the URL once it listens. may_share: set once a port that an older agent has
    may be shared with it (SO_REUSEPORT); None: never.
    """
    application = web.Application()
    for path, handler in routes.items():
        application.router.add_get(path, handler)
    await serve_application(
        name, address, port, application, on_bound=on_bound, retry_s=retry_s, may_share=may_share
    )


async def serve_application(
    name: str,
    address: str,
    port: int,
    application: web.Application,
    *,
    on_bound: Callable[[str], None],
    retry_s: float,
    may_share: asyncio.Event | None = None,
    most_connections: int = MOST_CONNECTIONS,
) -> None:
    """Serve an application, likewise."""
    runner = BoundedAppRunner(application, most=most_connections)
    await runner.setup()
    try:
        on_bound(await _bind(runner, name, address, port, retry_s, may_share))
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


async def _bind(
    runner: web.AppRunner,
    name: str,
    address: str,
    port: int,
    retry_s: float,
    may_share: asyncio.Event | None,
) -> str:
    is_reported = False
    while True:
        try:
            sock = _listen(address, port, may_share)
        except OSError as fault:
            if not is_reported:
                where = join_host_port(address, port)
                why = os.strerror(fault.errno or 0)  # create_server adds to its own
                is_expected = may_share is not None and not may_share.is_set()  # an older agent
                level = logging.INFO if is_expected else logging.WARNING
                log.log(level, "%s cannot listen on %s: %s; trying again", name, where, why)
                is_reported = True
            await _pause(retry_s, may_share)
            continue
        try:
            await web.SockSite(runner, sock).start()
        except BaseException:  # being cancelled, mostly: the loop does not own the socket yet
            sock.close()
            raise
        url = f"http://{join_host_port(*sock.getsockname()[:2])}"
        log.info("%s on %s", name, url)
        return url


def _listen(address: str, port: int, may_share: asyncio.Event | None) -> socket.socket:
    """Listen alone, or share the port if that may be, and is, the only way. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if may_share is None or not may_share.is_set():
        alone = socket.create_server((address, port), family=family)  # fails when anybody has it
        if may_share is None or not port:
            return alone
        alone.close()
    return socket.create_server((address, port), family=family, reuse_port=True)


async def _pause(retry_s: float, may_share: asyncio.Event | None) -> None:
    """Wait until it may be another matter."""
    if may_share is None or may_share.is_set():
        await asyncio.sleep(retry_s)
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(retry_s):
            await may_share.wait()
