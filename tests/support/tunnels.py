"""Tunnels to pods of a fake API server, with a client's socket at this end."""

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from pyproxy.core.apiservers import ApiServers
from pyproxy.core.portforward import V4_PROTOCOL
from pyproxy.source.client import ApiClient
from pyproxy.source.credentials import CredentialSettings
from pyproxy.tunnel.pods import PodTunnels
from pyproxy.tunnel.settings import TunnelSettings
from pyproxy.tunnel.target import TunnelError
from tests.support.backends import Handler, tcp_backend, until
from tests.support.fake_api import FakeApiServer, write_kubeconfig

Transport = Literal["spdy", "v4"]
TRANSPORTS: list[Transport] = ["spdy", "v4"]

# Far away is what a test does not want to meet.
PATIENT = {"heartbeat_s": 1000.0, "open_timeout_s": 1000.0, "owed_grace_s": 1000.0}


class TunnelRig:
    """A fake API server, and tunnels through it. lost: why tunnels were cut, so far."""

    def __init__(
        self, api: FakeApiServer, tunnels: PodTunnels, tasks: asyncio.TaskGroup, token_file: Path
    ) -> None:
        self.api = api
        self.fake = api.portforward
        self.tunnels = tunnels
        self.lost: list[TunnelError] = []
        self.running = 0
        self._tasks = tasks
        self._token_file = token_file

    async def connect(
        self, pod: str, port: int, on_lost: Callable[[TunnelError], None] | None = None
    ) -> socket.socket:
        """Open a tunnel; return the end of it that a relay has. Raises TunnelError."""
        tunnel = await self.tunnels.open("default", pod, port)
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setblocking(False)

        async def run() -> None:
            self.running += 1
            try:
                await tunnel.run(theirs, on_lost)
            finally:
                self.running -= 1
                if tunnel.lost is not None:
                    self.lost.append(tunnel.lost)

        self._tasks.create_task(run())
        return ours

    @contextlib.asynccontextmanager
    async def to(self, handler: Handler) -> AsyncIterator[socket.socket]:
        """A client of a pod in which `handler` runs."""
        async with tcp_backend("127.0.0.1", handler) as at:
            self.fake.pods["web"] = {80: at}
            with await self.connect("web", 80) as client:
                yield client

    def settle(self, settle_s: float) -> None:
        """Wait so long for a refusal, from now on."""
        self.tunnels._settings = msgspec.structs.replace(self.tunnels._settings, settle_s=settle_s)

    def renew_token(self, token: str) -> None:
        """Let the server take this token only; the client finds it in its file."""
        self.api.token = token
        self._token_file.write_text(token)

    async def all_ended(self) -> None:
        """Wait until no tunnel runs."""
        await until(lambda: self.running == 0)


@contextlib.asynccontextmanager
async def tunnel_rig(
    transport: Transport = "spdy", token: str = "", **settings: Any
) -> AsyncIterator[TunnelRig]:
    """A rig whose server speaks this transport; everything has ended when it is left."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        async with FakeApiServer(token=token or None) as api:
            if transport == "v4":
                api.portforward.faults.protocols = {V4_PROTOCOL}
            token_file = directory / "token"
            token_file.write_text(token)
            user = {"tokenFile": str(token_file)} if token else None
            kubeconfig = write_kubeconfig(directory / "config", api.url, user=user)
            credentials = CredentialSettings(kubeconfig=str(kubeconfig), token_refresh_s=1000.0)
            async with (
                ApiClient(credentials, ApiServers(), connect_timeout_s=10.0) as client,
                PodTunnels(client, TunnelSettings(**(PATIENT | settings))) as tunnels,
                asyncio.TaskGroup() as tasks,
            ):
                yield TunnelRig(api, tunnels, tasks, token_file)
