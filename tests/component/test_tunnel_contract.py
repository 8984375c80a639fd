"""What tunnels rely on of a server: the fake keeps to it, a real cluster does, and so does kubectl.

With PYPROXY_TEST_KUBECONFIG the first tests run against that cluster, with a pod of their own.
"""

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from pyproxy.core.apiservers import ApiServers
from pyproxy.core.portforward import TUNNEL_PROTOCOL, V4_PROTOCOL
from pyproxy.source.client import ApiClient
from pyproxy.source.credentials import CredentialSettings
from pyproxy.tunnel.pods import PodTunnels
from pyproxy.tunnel.settings import TunnelSettings
from pyproxy.tunnel.target import TunnelError
from tests.support.backends import echo, read_all, tcp_backend
from tests.support.fake_api import FakeApiServer, write_kubeconfig
from tests.support.fake_api_contract import FAKE_AND_CLUSTER, ApiUnderTest, api_under_test

_IMAGE = "registry.k8s.io/e2e-test-images/agnhost:2.53"
_SETTINGS = TunnelSettings(open_timeout_s=60.0, settle_s=1.0)


class Pod(NamedTuple):
    """A running pod: HTTP on port 8080, nothing on 8081."""

    kubeconfig: Path
    namespace: str


async def serve_http(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_recv(connection, 1000)
    await loop.sock_sendall(connection, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


@pytest.fixture(params=FAKE_AND_CLUSTER)
async def pod(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pod]:
    if request.param == "fake":
        async with FakeApiServer() as api, tcp_backend("127.0.0.1", serve_http) as at:
            api.portforward.pods["web"] = {8080: at}
            yield Pod(write_kubeconfig(tmp_path / "config", api.url), "default")
        return
    async with api_under_test("cluster", tmp_path) as cluster:
        await start_pod(cluster)
        yield Pod(cluster.kubeconfig, cluster.namespace)


async def start_pod(api: ApiUnderTest) -> None:
    path = f"/api/v1/namespaces/{api.namespace}/pods"
    container = {"name": "web", "image": _IMAGE, "args": ["netexec", "--http-port=8080"]}
    value = {"metadata": {"name": "web"}, "spec": {"containers": [container]}}
    status, answer = await api.ask("POST", path, value)
    assert status == 201, answer
    ready = False
    while not ready:  # ended by the test's time-out
        await asyncio.sleep(0.5)
        _, answer = await api.ask("GET", f"{path}/web")
        statuses = answer["status"].get("containerStatuses", [])
        ready = bool(statuses) and all(one["ready"] for one in statuses)


@asynccontextmanager
async def tunnels_to(pod: Pod, protocol: str) -> AsyncIterator[PodTunnels]:
    credentials = CredentialSettings(kubeconfig=str(pod.kubeconfig))
    async with (
        ApiClient(credentials, ApiServers(), connect_timeout_s=10.0) as client,
        PodTunnels(client, _SETTINGS) as tunnels,
    ):
        if protocol == V4_PROTOCOL:
            tunnels._transport = V4_PROTOCOL
        yield tunnels


@pytest.mark.parametrize("protocol", [TUNNEL_PROTOCOL, V4_PROTOCOL])
async def test_a_request_is_answered_by_the_pod(pod: Pod, protocol: str) -> None:
    async with tunnels_to(pod, protocol) as tunnels, asyncio.TaskGroup() as tasks:
        tunnel = await tunnels.open(pod.namespace, "web", 8080)
        ours, theirs = socket.socketpair()
        with ours:
            ours.setblocking(False)
            theirs.setblocking(False)
            tasks.create_task(tunnel.run(theirs))
            request = b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n"
            await asyncio.get_running_loop().sock_sendall(ours, request)
            ours.shutdown(socket.SHUT_WR)
            assert (await read_all(ours)).startswith(b"HTTP/1.1 200")
        assert tunnels.transport == protocol


@pytest.mark.parametrize("protocol", [TUNNEL_PROTOCOL, V4_PROTOCOL])
async def test_what_cannot_be_reached_is_named(pod: Pod, protocol: str) -> None:
    async with tunnels_to(pod, protocol) as tunnels:
        with pytest.raises(TunnelError) as refused:
            await tunnels.open(pod.namespace, "web", 8081)
        assert refused.value.result == "refused"
        with pytest.raises(TunnelError) as missing:
            await tunnels.open(pod.namespace, "no-such-pod", 8080)
        assert missing.value.result == "not_found"


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
async def test_kubectl_forwards_a_port_through_the_fake(tmp_path: Path) -> None:
    """So the frames of SPDY are those of moby/spdystream, in both directions."""
    data = os.urandom(4 * 1024 * 1024)
    async with FakeApiServer() as api, tcp_backend("127.0.0.1", echo) as at:
        api.portforward.pods["web"] = {80: at}
        kubeconfig = write_kubeconfig(tmp_path / "config", api.url)
        process = await asyncio.create_subprocess_exec(
            *("kubectl", "--kubeconfig", str(kubeconfig), "port-forward", "pod/web", ":80"),
            *("--address", "127.0.0.1"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=os.environ | {"HOME": str(tmp_path)},
        )
        assert process.stdout is not None
        try:
            said = await process.stdout.readline()  # Forwarding from ADDRESS:PORT -> 80
            port = int(said.split()[2].rpartition(b":")[2])
            with socket.socket() as client:
                client.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(client, ("127.0.0.1", port))
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(send_all(client, data))
                    assert await read_all(client) == data
        finally:
            process.kill()
            await process.communicate()
        assert [asked.protocols for asked in api.portforward.asked] == [TUNNEL_PROTOCOL]


async def send_all(client: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(client, data)
    client.shutdown(socket.SHUT_WR)
