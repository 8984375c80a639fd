"""The session to the API server, below lists and watches."""

import socket
from pathlib import Path

import aiohttp
import pytest

from pyproxy.core.apiservers import ApiServers
from pyproxy.metrics import NO_ANSWER, ApiRequests
from pyproxy.source.client import ApiClient
from pyproxy.source.credentials import CredentialSettings
from tests.support.fake_api import FakeApiServer, write_kubeconfig


async def test_a_server_that_vanishes_is_noticed_within_half_a_minute(tmp_path: Path) -> None:
    async with FakeApiServer() as api:
        kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", api.url)
        credentials = CredentialSettings(kubeconfig=str(kubeconfig))
        async with ApiClient(credentials, ApiServers(), connect_timeout_s=5) as client:
            path = "/api/v1/services"
            async with await client.get(client.credentials, path, {"watch": "true"}) as answer:
                assert answer.connection is not None
                assert answer.connection.transport is not None
                sock = answer.connection.transport.get_extra_info("socket")
                idle, interval, probes = (
                    sock.getsockopt(socket.IPPROTO_TCP, option)
                    for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
                )
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert idle + interval * probes <= 30


async def test_requests_are_counted_by_what_came_of_them(tmp_path: Path) -> None:
    counts = ApiRequests()
    async with FakeApiServer() as api:
        host = api.url.removeprefix("http://")
        kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", api.url)
        credentials = CredentialSettings(kubeconfig=str(kubeconfig))
        client = ApiClient(credentials, ApiServers(), connect_timeout_s=5, counts=counts)
        async with client:
            for path in ("/api/v1/services", "/api/v1/services", "/no/such/path"):
                async with await client.get(client.credentials, path, {}):
                    pass
            await client.post("/no/such/path", b"{}")
            await api.stop()
            with pytest.raises(aiohttp.ClientError):
                await client.get(client.credentials, "/api/v1/services", {})
    assert counts.results == {
        ("200", "GET", host): 2,
        ("404", "GET", host): 1,
        ("404", "POST", host): 1,
        (NO_ANSWER, "GET", host): 1,
    }
    assert {at: sum(times[:-1]) for at, times in counts.times.items()} == {
        ("GET", host): 4,
        ("POST", host): 1,
    }
