"""The control socket: HTTP and JSON on a Unix socket that its owner alone may use (mode 0600).

What changes the agent's state is asked for here and nowhere else: no TCP port takes such a request.
A socket file that nobody answers on is a dead agent's, and replaced; one that somebody answers on
is left alone, and the place tried again, as taken ports are.
"""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from pyproxy import __version__
from pyproxy.errors import PyproxyError
from pyproxy.ops.bounded import BoundedAppRunner
from pyproxy.ops.control_places import VERSION

log = logging.getLogger(__name__)

# The longest request: some thousand targets to explain.
_MAX_BODY_BYTES = 256 * 1024
# One that lets nobody connect for longer is alive, and busy.
_CONNECT_S = 1.0
# The place is not ours to use; another may be.
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})

Body = dict[str, Any]
Handler = Callable[[web.Request], Awaitable[Body]]


class ControlError(PyproxyError):
    """A request that cannot be answered. status: of HTTP; more: further fields of the answer."""

    def __init__(self, status: int, message: str, **more: object) -> None:
        super().__init__(message)
        self.status = status
        self.more = more


class _TakenError(Exception):
    """Somebody answers on the socket, or what is there is none."""


async def serve(
    places: Sequence[str],
    routes: Mapping[tuple[str, str], Handler],
    *,
    on_bound: Callable[[str], None],
    retry_s: float,
) -> None:
    """Answer requests until cancelled, at the first place that may be used; then remove the socket.

    routes: by method and path. on_bound: is told the path of the socket once it listens.
    """
    application = web.Application(client_max_size=_MAX_BODY_BYTES, middlewares=[_answer_faults])
    for (method, path), handler in routes.items():
        application.router.add_route(method, path, _answering(handler))
    runner = BoundedAppRunner(application)
    await runner.setup()
    try:
        sock, path = await _bound(places, retry_s)
        mine = os.stat(path)
        try:
            try:
                await web.SockSite(runner, sock).start()
            except BaseException:  # being cancelled: the loop does not own the socket yet
                sock.close()
                raise
            log.info("control socket at %s", path)
            on_bound(path)
            await asyncio.Event().wait()
        finally:
            _remove(path, mine)
    finally:
        await runner.cleanup()


async def _bound(places: Sequence[str], retry_s: float) -> tuple[socket.socket, str]:
    is_reported = False
    while True:
        faults = []
        for place in places:
            try:
                return _bind(place), place
            except _TakenError as fault:
                faults.append(str(fault))
                break  # a second socket elsewhere would only confuse who asks
            except OSError as fault:
                faults.append(f"{place}: {fault.strerror or fault}")
                if fault.errno not in _FORBIDDEN:
                    break
        if not is_reported:
            is_reported = True
            log.warning(
                "no control socket, and so no pyproxy status: %s; trying again", "; ".join(faults)
            )
        await asyncio.sleep(retry_s)


def _bind(path: str) -> socket.socket:
    """Listen at the path. Raises OSError, and _TakenError where another agent answers."""
    _make_directory(Path(path).parent)
    _clear(path)
    sock = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)  # from its first moment on for its owner only
    try:
        sock.bind(path)
        sock.listen(128)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(before)
    sock.setblocking(False)
    return sock


def _make_directory(directory: Path) -> None:
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o755)


def _clear(path: str) -> None:
    """Remove a dead agent's socket."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise _TakenError(f"{path} is no socket, and left alone")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(_CONNECT_S)
        try:
            client.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
        except TimeoutError:
            pass  # it has so many waiting that it must be alive
    raise _TakenError(f"another agent answers on {path}; --control-socket gives this one its own")


def _remove(path: str, mine: os.stat_result) -> None:
    """Remove the socket, unless it is another's by now."""
    with contextlib.suppress(OSError):
        found = os.lstat(path)
        if (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino):
            os.unlink(path)


def _answering(handler: Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        return _response(200, await handler(request))

    return answer


@web.middleware
async def _answer_faults(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Every answer is JSON of one form, that to nonsense too."""
    try:
        return await handler(request)
    except ControlError as fault:
        return _response(fault.status, {"error": str(fault), **fault.more})
    except web.HTTPException as fault:
        message = f"{request.method} {request.path}: {fault.reason}"
        return _response(fault.status, {"error": message})
    except Exception:  # of this request alone
        log.exception("the control socket cannot answer %s %s", request.method, request.path)
        return _response(500, {"error": "a fault of the agent; its log has it"})


def _response(status: int, body: Body) -> web.Response:
    whole = {"version": VERSION, "pyproxy": __version__, **body}
    return web.Response(
        body=msgspec.json.encode(whole), status=status, content_type="application/json"
    )
