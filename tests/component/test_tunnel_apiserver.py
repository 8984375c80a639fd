"""Websockets are opened as all requests are: TLS, its server name, and fall-back addresses."""

from pathlib import Path

import msgspec

from pyproxy.core.apiservers import ApiServers
from pyproxy.core.decode import decode
from pyproxy.model.events import Applied
from pyproxy.source.client import ApiClient
from pyproxy.source.credentials import CredentialSettings
from pyproxy.tunnel.pods import PodTunnels
from tests.support.backends import echo, refusing_port, tcp_backend
from tests.support.fake_api import FakeApiServer, write_kubeconfig
from tests.support.fake_api_source import endpoint_slice
from tests.support.fake_api_tls import Tls


async def test_a_tunnel_is_opened_at_an_address_that_the_cluster_tells_of(tmp_path: Path) -> None:
    tls, servers = Tls(tmp_path, "server"), ApiServers()
    async with (
        FakeApiServer(tls=tls.server("api.example.com")) as api,
        tcp_backend("127.0.0.1", echo) as at,
    ):
        api.portforward.pods["web"] = {80: at}
        known = endpoint_slice("kubernetes", "127.0.0.1")
        port = int(api.url.rpartition(":")[2])
        known["ports"] = [{"name": "https", "port": port, "protocol": "TCP"}]
        stored = api.create("endpointslices", known)
        servers.observe(
            Applied(
                "endpointslices", decode("endpointslices", msgspec.Raw(msgspec.json.encode(stored)))
            )
        )
        cluster = {
            "certificate-authority": str(tls.ca_file),
            "tls-server-name": "api.example.com",
        }
        dead = "https://{}:{}".format(*refusing_port("127.0.0.1"))
        config = write_kubeconfig(tmp_path / "config", dead, cluster=cluster)
        credentials = CredentialSettings(kubeconfig=str(config))
        async with (
            ApiClient(credentials, servers, connect_timeout_s=10.0) as client,
            PodTunnels(client) as tunnels,
        ):
            tunnel = await tunnels.open("default", "web", 80)
            await tunnel.close()
        assert len(api.portforward.asked) == 1
