"""The session to the API server, below lists and watches."""

import socket
from pathlib import Path

from pyproxy.core.apiservers import ApiServers
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
