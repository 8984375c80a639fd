"""`Local` in this process, on a fake API server: run it, wait for what it shows, talk to it."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from pyproxy.app.local import Follower, Local, LocalSettings, State
from pyproxy.app.local_dial import Upstream
from pyproxy.app.local_served import Cluster
from pyproxy.app.stop import Stop
from pyproxy.core.local_service import Claimant
from pyproxy.core.loopback import Rules
from pyproxy.source.apiserver import ApiServerSettings, Selection
from tests.support.backends import (
    connect,
    until,
)
from tests.support.builders import Json, make_endpoint, make_port, make_service, make_slice
from tests.support.fake_api import FakeApiServer, write_kubeconfig

# Of its own, so that two runs of the tests have different addresses.
CONTEXT = f"fake-{os.getpid()}"
WEB = Claimant(CONTEXT, "default", "web")
RULES = Rules(first_port=1024)


class Watched:
    """A follower that keeps the newest state."""

    def __init__(self) -> None:
        self.state: State | None = None
        self.is_closed = False
        self.run: asyncio.Task[None] | None = None

    async def follow(self, state: State) -> None:
        self.state = state

    async def close(self) -> None:
        self.is_closed = True

    def place(self, claimant: Claimant = WEB, port: int = 0) -> tuple[str, int]:
        """Address and local port."""
        assert self.state is not None
        placement = self.state.placements[claimant]
        return placement.address, placement.ports[port].local

    async def until_ready(self, claimant: Claimant = WEB, endpoints: int = 1) -> None:
        run = self.run
        assert run is not None
        await until(lambda: run.done() or self.endpoints(claimant) == endpoints)
        if run.done():
            run.result()

    def endpoints(self, claimant: Claimant) -> int | None:
        rows = self.state.rows if self.state else ()
        return next((row.endpoints for row in rows if row.claimant == claimant), None)


class Running:
    """A `Local` that runs, and what it showed."""

    def __init__(self, local: Local, watched: Watched, stop: Stop) -> None:
        self.local = local
        self.watched = watched
        self.stop = stop


@contextlib.asynccontextmanager
async def running(
    api: FakeApiServer,
    directory: Path,
    upstream: Upstream = "portforward",
    *followers: Follower,
    namespaces: tuple[str, ...] = ("default",),
    labels: str = "",
    rules: Rules = RULES,
    user: Json | None = None,
) -> AsyncIterator[Running]:
    kubeconfig = write_kubeconfig(directory / "kubeconfig", api.url, user=user)
    settings = ApiServerSettings(
        kubeconfig=str(kubeconfig),
        selection=Selection(namespaces, labels),
        backoff_base_s=0.01,
        backoff_cap_s=0.1,
    )
    watched, stop = Watched(), Stop()
    local = Local(
        LocalSettings(
            clusters=(Cluster(context=CONTEXT, api=settings),),
            upstream=upstream,
            rules=rules,
            min_interval_s=0.01,
        ),
        [*followers, watched],
    )
    watched.run = run = asyncio.get_running_loop().create_task(local.run(stop))
    try:
        yield Running(local, watched, stop)
    finally:
        stop.asked.set()
        await run
    assert watched.is_closed


async def said(address: str, port: int) -> bytes:
    """What comes back for a few bytes, while both sides are open."""
    with await connect(address, port) as client:
        await asyncio.get_running_loop().sock_sendall(client, b"abc")
        return await asyncio.get_running_loop().sock_recv(client, 100)


def make_web(
    api: FakeApiServer, *pods: tuple[str, tuple[str, int]], cluster_ip: str = "10.96.0.1"
) -> None:
    """Service default/web on port 80, and its pods."""
    api.create("services", make_service(cluster_ip=cluster_ip, ports=[make_port(80)]))
    for name, (address, port) in pods:
        api.portforward.pods[name] = {port: (address, port)}
        api.create("endpointslices", slice_for(name, address, port))


def slice_for(pod: str, address: str, port: int) -> Json:
    endpoint = make_endpoint(address, targetRef={"kind": "Pod", "name": pod})
    return make_slice(endpoint, name=f"web-{pod}", ports=[{"name": "http", "port": port}])
