"""The list of namespaces of the fake API server."""

from aiohttp import web


class FakeNamespaces:
    """names: of the namespaces that there are; None when listing them is forbidden."""

    def __init__(self) -> None:
        self.names: set[str] | None = {"default"}

    def routes(self) -> list[web.RouteDef]:
        """Return what serves the path."""
        return [web.get("/api/v1/namespaces", self._list)]

    async def _list(self, _: web.Request) -> web.Response:
        if self.names is None:
            return web.json_response({"kind": "Status", "code": 403}, status=403)
        items = [{"metadata": {"name": name}} for name in sorted(self.names)]
        return web.json_response({"kind": "NamespaceList", "apiVersion": "v1", "items": items})
