"""The API server's configured address dies; the cluster has told of another."""

from pathlib import Path

from tests.support.backends import VIP_PORT, backend_of, frontend_of, new_address, rig
from tests.support.fake_api import FakeApiServer, write_kubeconfig
from tests.support.fake_api_source import FAST, endpoint_slice, running_source, service
from tests.support.fake_api_tls import Tls


async def test_watches_go_on_at_an_endpoint_of_the_kubernetes_service(tmp_path: Path) -> None:
    tls, vip = Tls(tmp_path, "server"), new_address()
    async with FakeApiServer(tls=tls.server("api.example.com")) as api:
        port = int(api.url.rpartition(":")[2])
        known = endpoint_slice("kubernetes", "127.0.0.1")
        known["ports"] = [{"name": "https", "port": port, "protocol": "TCP"}]
        api.create("endpointslices", known)
        cluster = {
            "certificate-authority": str(tls.ca_file),
            "tls-server-name": "api.example.com",
        }
        url = f"https://{vip}:{VIP_PORT}"
        kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", url, cluster=cluster)
        # The configured address is a VIP that this process serves itself, until it does not.
        async with rig() as proxy:
            backend = backend_of([("127.0.0.1", port)])
            proxy.serve(frontend_of(vip, backend))
            async with running_source(kubeconfig, FAST) as source:
                await source.until_listed("services", "endpointslices")
                proxy.forwarder.close()
                api.create("services", service("later"))
                await source.until(lambda: "later" in source.names("services"))
                assert source.lists("services") == 1
