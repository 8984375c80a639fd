"""A fake API server on loopback: lists, watches and writes of the four resources, and faults.

It behaves like a real one as far as a watcher can see; the contract tests in
tests/component/test_fake_api.py run against both. Objects are written in Python (`create`,
`update`, `delete`) or over HTTP.
"""

import asyncio
import contextlib
import json
import ssl
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

import yaml
from aiohttp import web

from pyproxy.model.events import Resource
from tests.support.fake_api_bell import Bell
from tests.support.fake_api_faults import FakeFaults, Refusal, Verb
from tests.support.fake_api_namespaces import FakeNamespaces
from tests.support.fake_api_portforward import FakePortForward
from tests.support.fake_api_store import KINDS, ApiStatus, FakeStore, Json, Selection

__all__ = ["ApiStatus", "FakeApiServer", "Refusal", "write_kubeconfig"]


class Asked(NamedTuple):
    """A request that came in."""

    resource: Resource
    verb: Verb
    query: dict[str, str]
    authorization: str


class OpenWatch:
    """A watch that a client has open."""

    def __init__(self, selection: Selection, request: web.Request, position: int) -> None:
        self.selection = selection
        self.position = position
        self.raw: list[bytes] = []
        self.is_over = False
        self.is_frozen = False
        self.wake = asyncio.Event()
        self.request = request


class FakeApiServer:
    """The server; use it as `async with`, or `start` and `stop` it.

    token: the bearer token that requests must carry, or None. bookmark_interval_s: between the
    bookmarks of a watch. `asked` has every request since the start.
    """

    def __init__(
        self,
        *,
        token: str | None = None,
        tls: ssl.SSLContext | None = None,
        bookmark_interval_s: float = 60.0,
    ) -> None:
        self.store = FakeStore()
        self.faults = FakeFaults()
        self.portforward = FakePortForward()
        self.namespaces = FakeNamespaces()
        self.token = token
        self.bookmark_interval_s = bookmark_interval_s
        self.asked: list[Asked] = []
        self._tls = tls
        self._bell = Bell()
        self._watches: set[OpenWatch] = set()
        self._runner: web.AppRunner | None = None
        self._port = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """Where it listens; the same after a restart."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Listen, on the port it had before if it had one."""
        app = web.Application()
        for resource, kind in KINDS.items():
            spaces = ["", "/namespaces/{namespace}"] if kind.is_namespaced else [""]
            for space in spaces:
                path = f"{kind.prefix}{space}/{resource}"
                app.router.add_route("*", path, self._handler(resource))
                app.router.add_route("*", f"{path}/{{name}}", self._handler(resource))
        app.add_routes([*self.namespaces.routes(), *self.portforward.routes(self._check_token)])
        # A handler of a client that has gone away must not wait for the watch's time-out.
        self._runner = web.AppRunner(
            app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None
        )
        await self._runner.setup()
        site = web.TCPSite(
            self._runner, "127.0.0.1", self._port, ssl_context=self._tls, reuse_address=True
        )
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Break every connection and listen no more. The objects stay."""
        if self._runner is None:
            return
        runner, self._runner = self._runner, None
        for site in list(runner.sites):
            await site.stop()
        self.break_watches()
        await runner.cleanup()

    async def restart(self, *, tls: ssl.SSLContext | None = None) -> None:
        """Stop and start; with another certificate, when one is given."""
        await self.stop()
        self._tls = tls or self._tls
        await self.start()

    async def until(self, condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
        """Wait until a condition on the server's state holds."""
        await self._bell.until(condition, timeout_s)

    def count_asked(self, resource: Resource, verb: Verb) -> int:
        """How many requests of a sort came in."""
        return sum(asked.resource == resource and asked.verb == verb for asked in self.asked)

    # Writes.

    def create(self, resource: Resource, value: Json) -> Json:
        """Add an object; return it as it is stored. Raises ApiStatus."""
        return self._written(self.store.create(resource, value))

    def update(self, resource: Resource, value: Json) -> Json:
        """Replace an object; return it as it is stored. Raises ApiStatus."""
        return self._written(self.store.update(resource, value))

    def delete(self, resource: Resource, name: str, namespace: str = "") -> None:
        """Remove an object. Raises ApiStatus."""
        self.store.delete(resource, name, namespace)
        self._written({})

    def _written(self, value: Json) -> Json:
        for watch in self._watches:
            watch.wake.set()
        return value

    # Open watches, and what can happen to them.

    def watches(self, resource: Resource | None = None) -> list[OpenWatch]:
        """The watches that are open now."""
        return [one for one in self._watches if resource in (None, one.selection.resource)]

    def end_watches(self, resource: Resource | None = None) -> None:
        """End watches in order, as a time-out does."""
        for watch in self.watches(resource):
            watch.is_over = True
            watch.wake.set()

    def break_watches(self, resource: Resource | None = None) -> None:
        """Reset the connections of watches."""
        for watch in self.watches(resource):
            watch.is_over = True
            watch.wake.set()
            if watch.request.transport is not None:
                watch.request.transport.abort()

    def freeze_watches(self, resource: Resource | None = None) -> None:
        """Make connections half-open: nothing comes any more, and no end."""
        for watch in self.watches(resource):
            watch.is_frozen = True

    def send_raw(self, resource: Resource, data: bytes) -> None:
        """Put bytes into the open watches of a resource, after what is due before."""
        for watch in self.watches(resource):
            watch.raw.append(data)
            watch.wake.set()

    def send_error(self, resource: Resource, code: int, reason: str, message: str) -> None:
        """Put an ERROR event into the open watches of a resource."""
        status = ApiStatus(code, reason, message).body
        self.send_raw(resource, _line("ERROR", status))

    # HTTP.

    def _handler(self, resource: Resource) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.StreamResponse:
            verb = _verb(request)
            query = dict(request.query)
            authorization = request.headers.get("Authorization", "")
            self.asked.append(Asked(resource, verb, query, authorization))
            refusal = self.faults.refusal_of(resource, verb)
            self._bell.ring()
            try:
                if self.faults.hangs:
                    await asyncio.Event().wait()
                if refusal is not None:
                    return _status(refusal.status, refusal.headers)
                self._check_token(authorization)
                return await self._answer(request, resource, verb)
            except ApiStatus as status:
                return _status(status)

        return handle

    def _check_token(self, authorization: str) -> None:
        if self.token is not None and authorization != f"Bearer {self.token}":
            raise ApiStatus(401, "Unauthorized", "Unauthorized")

    async def _answer(
        self, request: web.Request, resource: Resource, verb: Verb
    ) -> web.StreamResponse:
        namespace = request.match_info.get("namespace", "")
        name = request.match_info.get("name", "")
        if verb == "write":
            return await self._write(request, resource, namespace, name)
        if name:
            return web.json_response(_typed(resource, self.store.get(resource, name, namespace)))
        selection = Selection(
            resource,
            namespace,
            request.query.get("labelSelector", ""),
            request.query.get("fieldSelector", ""),
        )
        if verb == "watch":
            return await self._watch(request, selection)
        version, token, found = self.store.page(
            selection, int(request.query.get("limit", "0")), request.query.get("continue", "")
        )
        kind = KINDS[resource]
        metadata = {"resourceVersion": str(version)} | ({"continue": token} if token else {})
        return web.json_response(
            {
                "kind": f"{kind.kind}List",
                "apiVersion": kind.api_version,
                "metadata": metadata,
                "items": found,
            }
        )

    async def _write(
        self, request: web.Request, resource: Resource, namespace: str, name: str
    ) -> web.Response:
        if request.method == "DELETE":
            self.delete(resource, name, namespace)
            return web.json_response({"kind": "Status", "apiVersion": "v1", "status": "Success"})
        value = cast("Json", await request.json())
        if namespace:
            value["metadata"]["namespace"] = namespace
        if request.method == "POST":
            return web.json_response(_typed(resource, self.create(resource, value)), status=201)
        return web.json_response(_typed(resource, self.update(resource, value)))

    async def _watch(self, request: web.Request, selection: Selection) -> web.StreamResponse:
        query = request.query
        is_streaming = query.get("sendInitialEvents") == "true"
        self._check_watch(query.get("resourceVersionMatch", ""), is_streaming=is_streaming)
        start = query.get("resourceVersion", "") or "0"
        position = int(start)
        if position and self.faults.gone == "status":
            for _ in self.store.changes(selection, position):
                break
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        if self.faults.watches_end_at_once:
            return response
        watch = OpenWatch(selection, request, position or self.store.version)
        self._watches.add(watch)
        self._bell.ring()
        try:
            if not position:
                found = self.store.select(selection)
                await response.write(b"".join(_added(selection.resource, found)))
                if is_streaming and self.faults.watch_list == "served":
                    await response.write(_bookmark(watch, is_initial_end=True))
            await self._serve(watch, response, _seconds(query.get("timeoutSeconds")))
        except OSError:
            pass  # the client has gone
        finally:
            self._watches.discard(watch)
            self._bell.ring()
        return response

    def _check_watch(self, match: str, *, is_streaming: bool) -> None:
        """Validate as apimachinery's validateWatchOptions does."""
        if self.faults.watch_list == "ignored":
            return
        if match and not is_streaming:
            message = (
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
            )
            raise ApiStatus(422, "Invalid", message)
        if is_streaming and self.faults.watch_list == "refused":
            message = (
                "sendInitialEvents is forbidden for watch unless the WatchList feature gate is on"
            )
            raise ApiStatus(422, "Invalid", message)
        if is_streaming and match != "NotOlderThan":
            message = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            raise ApiStatus(422, "Invalid", message)

    async def _serve(
        self, watch: OpenWatch, response: web.StreamResponse, timeout_s: float
    ) -> None:
        """Send what happens, until the time is up or somebody ends the watch."""
        now = asyncio.get_running_loop().time
        end, bookmark = now() + timeout_s, now() + self.bookmark_interval_s
        has_bookmarks = watch.request.query.get("allowWatchBookmarks") == "true"
        while not watch.is_over and (now() < end or watch.is_frozen):
            watch.wake.clear()
            if not watch.is_frozen:
                await self._send_due(watch, response)
                if has_bookmarks and now() >= bookmark:
                    bookmark = now() + self.bookmark_interval_s
                    await response.write(_bookmark(watch))
            due = min(end, bookmark) if has_bookmarks else end
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if watch.is_frozen else max(0.0, due - now())):
                    await watch.wake.wait()
        if not watch.is_frozen:
            await self._send_due(watch, response)

    async def _send_due(self, watch: OpenWatch, response: web.StreamResponse) -> None:
        resource = watch.selection.resource
        lines: list[bytes] = []
        try:
            for _, kind, value in self.store.changes(watch.selection, watch.position):
                lines.append(_line(kind, _typed(resource, value)))
            # Seen, although not all concerned this watch: the next bookmark says so.
            watch.position = max(watch.position, self.store.version)
        except ApiStatus as status:
            watch.is_over = True
            lines.append(_line("ERROR", status.body))
        lines += watch.raw
        watch.raw.clear()
        for line in lines:
            await response.write(line)


def _verb(request: web.Request) -> Verb:
    if request.method != "GET":
        return "write"
    return "watch" if request.query.get("watch") in ("true", "1") else "list"


def _seconds(text: str | None) -> float:
    return float(text) if text else 1800.0


def _status(status: ApiStatus, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response(status.body, status=status.code, headers=headers)


def _typed(resource: Resource, value: Json) -> Json:
    """Name the kind: objects have it on their own and in watches, and not within a list."""
    kind = KINDS[resource]
    return {"kind": kind.kind, "apiVersion": kind.api_version} | value


def _line(kind: str, value: Json) -> bytes:
    return json.dumps({"type": kind, "object": value}).encode() + b"\n"


def _added(resource: Resource, found: Iterable[Json]) -> Iterable[bytes]:
    return (_line("ADDED", _typed(resource, value)) for value in found)


def _bookmark(watch: OpenWatch, *, is_initial_end: bool = False) -> bytes:
    metadata: Json = {"resourceVersion": str(watch.position), "creationTimestamp": None}
    if is_initial_end:
        metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
    return _line("BOOKMARK", _typed(watch.selection.resource, {"metadata": metadata}))


def write_kubeconfig(
    path: Path,
    url: str,
    *,
    cluster: Json | None = None,
    user: Json | None = None,
    context: str = "test",
) -> Path:
    """Write a kubeconfig with one context; `cluster` and `user` add to their sections."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": context,
        "clusters": [{"name": "fake", "cluster": {"server": url} | (cluster or {})}],
        "users": [{"name": "tester", "user": user or {}}],
        "contexts": [{"name": context, "context": {"cluster": "fake", "user": "tester"}}],
    }
    path.write_text(yaml.safe_dump(content))
    return path
