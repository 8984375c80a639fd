"""A gate in front of an API server: it lets through what a ClusterRole allows, and no more."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Self

import aiohttp
from aiohttp import web

from tests.support.builders import Json

_HOP_BY_HOP = {"Host", "Connection", "Transfer-Encoding", "Content-Length"}


class Permission(NamedTuple):
    """One cell of a rule."""

    group: str
    resource: str
    verb: str


def permissions(rules: Iterable[Json]) -> Iterator[Permission]:
    """What the rules of a ClusterRole allow, cell by cell."""
    for rule in rules:
        assert rule.keys() == {"apiGroups", "resources", "verbs"}
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                yield from (Permission(group, resource, verb) for verb in rule["verbs"])


def asked_of(method: str, path: str, query: Mapping[str, str]) -> Permission:
    """What a request needs (kubernetes, apiserver/pkg/endpoints/request/requestinfo.go)."""
    _, root, *parts = path.split("/")
    group = parts.pop(0) if root == "apis" else ""
    parts.pop(0)  # the version
    if parts[0] == "namespaces" and len(parts) > 2:
        parts = parts[2:]
    verb = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch"}.get(method, "delete")
    if verb == "get" and len(parts) == 1:
        verb = "watch" if query.get("watch") in ("true", "1") else "list"
    return Permission(group, "/".join([parts[0], *parts[2:]]), verb)


class AuthorizedApi:
    """The gate; use it as `async with`. used, refused: the permissions that were asked for."""

    def __init__(self, behind: str, allowed: Iterable[Permission]) -> None:
        self.used: set[Permission] = set()
        self.refused: set[Permission] = set()
        self.url = ""
        self._behind = behind
        self._allowed = frozenset(allowed)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(auto_decompress=False)
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(
            application, handler_cancellation=True, shutdown_timeout=0.1, access_log=None
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        asked = asked_of(request.method, request.path, request.query)
        if asked not in self._allowed:
            self.refused.add(asked)
            body = {"kind": "Status", "code": 403, "reason": "Forbidden", "message": str(asked)}
            return web.json_response(body, status=403)
        self.used.add(asked)
        headers = {n: v for n, v in request.headers.items() if n not in _HOP_BY_HOP}
        async with self._session.request(
            request.method,
            self._behind + request.path_qs,
            headers=headers,
            data=await request.read(),
        ) as answer:
            kept = {n: v for n, v in answer.headers.items() if n not in _HOP_BY_HOP}
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for part in answer.content.iter_any():
                await response.write(part)
            return response
