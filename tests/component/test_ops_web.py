"""HTTP ports that a newer agent shares with an older one."""

import asyncio
import socket

from aiohttp import web as http

from pyproxy.ops import web


def routes(name: str) -> dict[str, web.Handler]:
    async def answer(_: http.Request) -> http.Response:
        return http.Response(text=name)

    return {"/": answer}


async def test_a_port_is_shared_once_it_may_be_and_not_before() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    first, second = asyncio.Event(), asyncio.Event()
    bound: list[str] = []

    def serve(name: str, may_share: asyncio.Event | None) -> "asyncio.Task[None]":
        return group.create_task(
            web.serve(
                name,
                "127.0.0.1",
                port,
                routes(name),
                on_bound=lambda _: bound.append(name),
                retry_s=0.01,
                may_share=may_share,
            )
        )

    async def until(*names: str) -> None:
        async with asyncio.timeout(30):
            while bound != list(names):
                await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as group:
        older = serve("older", first)
        await until("older")
        newer = serve("newer", second)
        stranger = serve("stranger", None)
        await asyncio.sleep(0.1)
        assert bound == ["older"]
        second.set()
        await until("older", "newer")
        older.cancel()
        newer.cancel()
        await until("older", "newer", "stranger")
        stranger.cancel()
    with socket.create_server(("127.0.0.1", port)):
        pass
