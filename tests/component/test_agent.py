"""The whole agent on manifests: what comes in as YAML goes out as forwarded connections."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pyproxy.config import HostPort
from pyproxy.errors import ConfigError
from tests.support import agents
from tests.support.backends import (
    VIP_PORT,
    ask,
    at,
    connect,
    echo,
    greet,
    new_address,
    read_all,
    receive,
    tcp_backend,
    udp_socket,
    until,
)
from tests.support.builders import make_endpoint, make_port, make_service, make_slice


async def get(url: str, accept: str = "") -> tuple[int, str, str]:
    """Status, content type and body."""
    headers = {"Accept": accept} if accept else {}
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        return answer.status, answer.headers["Content-Type"], await answer.text()


async def get_json(url: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.json()


async def refused(vip: str) -> bool:
    try:
        (await connect(vip)).close()
    except ConnectionRefusedError:
        return True
    return False


async def test_a_service_in_a_file_is_served(tmp_path: Path) -> None:
    vip = new_address()
    async with tcp_backend(new_address(), greet(b"hello")) as endpoint:
        agents.write(tmp_path / "web.yaml", *agents.web(vip, VIP_PORT, endpoint))
        async with agents.running(agents.settings(tmp_path)):
            assert await ask(vip) == b"hello"


async def test_a_udp_service_in_a_file_is_served(tmp_path: Path) -> None:
    vip = new_address()
    with udp_socket(new_address()) as backend, udp_socket("127.0.0.1") as client:
        service = make_service(cluster_ip=vip, ports=[make_port(VIP_PORT, protocol="UDP")])
        port = {"name": "http", "port": at(backend)[1], "protocol": "UDP"}
        agents.write(tmp_path / "a.yaml", service, make_slice(at(backend)[0], ports=[port]))
        async with agents.running(agents.settings(tmp_path)):
            client.sendto(b"question", (vip, VIP_PORT))
            data, sender = await receive(backend)
            backend.sendto(b"answer to " + data, sender)
            assert await receive(client) == (b"answer to question", (vip, VIP_PORT))


async def test_a_change_of_a_file_moves_new_connections(tmp_path: Path) -> None:
    vip, path = new_address(), tmp_path / "web.yaml"
    async with (
        tcp_backend(new_address(), greet(b"old")) as old,
        tcp_backend(new_address(), greet(b"new")) as new,
    ):
        agents.write(path, *agents.web(vip, VIP_PORT, old))
        async with agents.running(agents.settings(tmp_path)) as agent:
            assert await ask(vip) == b"old"
            agents.write(path, *agents.web(vip, VIP_PORT, new))
            generation = agent.metrics.table_generation
            await until(lambda: agent.metrics.table_generation > generation)
            assert await ask(vip) == b"new"


async def test_a_service_that_goes_is_refused_and_its_live_connections_go_on(
    tmp_path: Path,
) -> None:
    vip, path = new_address(), tmp_path / "web.yaml"
    finish = asyncio.Event()

    async def slow(connection: socket.socket) -> None:
        await finish.wait()
        await asyncio.get_running_loop().sock_sendall(connection, b"done")

    async with tcp_backend(new_address(), slow) as endpoint:
        agents.write(path, *agents.web(vip, VIP_PORT, endpoint))
        async with agents.running(agents.settings(tmp_path)) as agent:
            with await connect(vip) as client:
                path.unlink()
                await until(lambda: agent.metrics.frontends == 0)
                assert await refused(vip)
                finish.set()
                assert await read_all(client) == b"done"


async def test_node_ports_are_served_on_the_node_s_own_addresses(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        node_port = at(probe)[1]
    async with tcp_backend(new_address(), greet(b"hello")) as endpoint:
        port = make_port(VIP_PORT, node_port=node_port)
        slice_port = {"name": "http", "port": endpoint[1]}
        agents.write(
            tmp_path / "a.yaml",
            make_service(cluster_ip=new_address(), ports=[port], type="NodePort"),
            make_slice(endpoint[0], ports=[slice_port]),
        )
        async with agents.running(agents.settings(tmp_path)) as agent:
            await until(lambda: agent.metrics.frontends > 1)
            assert await ask("127.0.0.1", port=node_port) == b"hello"


async def test_bad_objects_cost_only_themselves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vip = new_address()
    async with tcp_backend(new_address(), greet(b"hello")) as endpoint:
        bad_port = make_service("bad", cluster_ip=new_address(), ports=[make_port(0)])
        bad_address = make_service("worse", cluster_ip="10.0.0.300")
        bad_slice = make_slice(make_endpoint("nonsense"), service="bad")
        stray = make_slice("10.1.2.3", service="nobody")
        outside = make_service("ext", cluster_ip="", type="ExternalName", externalName="db.example")
        agents.write(tmp_path / "a.yaml", bad_port, bad_address, bad_slice, stray, outside)
        agents.write(tmp_path / "b.yaml", *agents.web(vip, VIP_PORT, endpoint))
        (tmp_path / "c.yaml").write_text("kind: Service\nmetadata: {name: [1]}\napiVersion: v1\n")
        async with agents.running(agents.settings(tmp_path)):
            assert await ask(vip) == b"hello"
    log = caplog.text
    assert "Service default/bad: spec.ports: port 0 is not within 1 to 65535" in log
    assert "Service default/worse: spec.clusterIPs: '10.0.0.300' is not an IP address" in log
    assert (
        "EndpointSlice default/bad-1: endpoints.addresses: 'nonsense' is not an IP address" in log
    )
    assert "Service default/ext: an ExternalName Service is not proxied" in log
    assert "c.yaml:1: services: object [1] cannot be read and is left out" in log


async def test_an_unreadable_file_at_the_start_is_fatal(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: b\n c: d\n")
    with pytest.raises(ConfigError, match=r"a\.yaml:2: not YAML"):
        async with agents.running(agents.settings(tmp_path)):
            pass


async def test_addresses_of_other_hosts_are_told_by_the_health_port(tmp_path: Path) -> None:
    agents.write(tmp_path / "a.yaml", *agents.web("192.0.2.77", VIP_PORT, ("127.0.0.1", 1)))
    async with agents.running(agents.settings(tmp_path)) as agent:
        status, body = await get_json(agent.urls["health"] + "/healthz?verbose")
    assert status == 200
    assert body["synced"] is True
    assert body["unbound"] == [
        {
            "address": "192.0.2.77",
            "port": VIP_PORT,
            "protocol": "TCP",
            "reason": "the address is not on this host",
        }
    ]


async def test_health_has_kube_proxy_s_form(tmp_path: Path) -> None:
    async with agents.running(agents.settings(tmp_path)) as agent:
        url = agent.urls["health"]
        status, body = await get_json(url + "/healthz")
        assert status == 200
        assert list(body) == ["lastUpdated", "currentTime", "nodeEligible", "healthy", "status"]
        status, body = await get_json(url + "/livez")
        assert status == 200
        assert list(body) == ["lastUpdated", "currentTime", "healthy", "status"]
        assert (await get(url + "/nothing"))[0] == 404


async def test_a_node_with_the_autoscaler_s_taint_gets_no_new_traffic(tmp_path: Path) -> None:
    taint = {"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "node-1"},
        "spec": {"taints": [taint]},
    }
    agents.write(tmp_path / "a.yaml", node)
    async with agents.running(agents.settings(tmp_path)) as agent:
        status, body = await get_json(agent.urls["health"] + "/healthz")
        assert (status, body["healthy"], body["nodeEligible"]) == (503, True, False)
        assert (await get_json(agent.urls["health"] + "/livez"))[0] == 200


async def test_metrics_count_by_service_and_go_with_it(tmp_path: Path) -> None:
    vip, path = new_address(), tmp_path / "a.yaml"
    labels = {
        "service_namespace": "default",
        "service_name": "web",
        "service_port": "http",
        "protocol": "TCP",
    }

    async def samples(url: str) -> dict[str, float]:
        status, kind, text = await get(url + "/metrics")
        assert status == 200
        assert kind.startswith("text/plain")
        return {
            sample.name + "".join(f" {v}" for k, v in sample.labels.items() if k not in labels): (
                sample.value
            )
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if labels.items() <= sample.labels.items()
        }

    async with tcp_backend(new_address(), echo) as endpoint:
        agents.write(path, *agents.web(vip, VIP_PORT, endpoint))
        async with agents.running(agents.settings(tmp_path)) as agent:
            await ask(vip, b"abc")
            closed = agent.metrics.service_ports
            await until(lambda: all(counters.active == 0 for _, counters in closed()))
            found = await samples(agent.urls["metrics"])
            assert found["pyproxy_connections_opened_total"] == 1
            assert found["pyproxy_connections_active"] == 0
            assert found["pyproxy_connections_closed_total finished"] == 1
            assert found["pyproxy_bytes_total client_to_endpoint"] == 3
            assert found["pyproxy_bytes_total endpoint_to_client"] == 3
            assert found["pyproxy_connect_attempts_total ok"] == 1
            path.unlink()
            await until(lambda: agent.metrics.frontends == 0)
            assert await samples(agent.urls["metrics"]) == {}


async def test_the_metrics_port_answers_what_kube_proxy_s_does(tmp_path: Path) -> None:
    settings = agents.settings(tmp_path, configz={"pyproxy.io": {"steer": "none"}})
    async with agents.running(settings) as agent:
        url = agent.urls["metrics"]
        assert (await get(url + "/proxyMode"))[::2] == (200, "userspace")
        assert (await get(url + "/healthz"))[::2] == (200, "ok")
        status, body = await get_json(url + "/configz")
        assert (status, body) == (200, {"pyproxy.io": {"steer": "none"}})
        _, kind, text = await get(url + "/metrics", accept="application/openmetrics-text")
        assert kind.startswith("application/openmetrics-text")
        assert text.endswith("# EOF\n")
        assert "pyproxy_build_info" in text
        assert "process_open_fds" in text
        assert 'pyproxy_watch_state{resource="services",state="watching"}' in text


async def test_a_taken_metrics_port_is_tried_again_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vip = new_address()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = agents.settings(tmp_path, metrics=HostPort(*at(taken)), http_retry_s=0.02)
        async with tcp_backend(new_address(), greet(b"hello")) as endpoint:
            agents.write(tmp_path / "a.yaml", *agents.web(vip, VIP_PORT, endpoint))
            async with agents.running(settings, ports=1) as agent:
                assert await ask(vip) == b"hello"
                taken.close()
                await until(lambda: "metrics" in agent.urls)
                assert (await get(agent.urls["metrics"] + "/healthz"))[0] == 200
    assert caplog.text.count("metrics cannot listen on") == 1


async def test_the_health_check_node_port_counts_ready_endpoints_of_this_node(
    tmp_path: Path,
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = at(probe)[1]

    def documents(*, ready: bool) -> list[Any]:
        service = make_service(
            cluster_ip=new_address(),
            type="LoadBalancer",
            externalTrafficPolicy="Local",
            healthCheckNodePort=port,
        )
        return [service, make_slice(make_endpoint("127.0.0.9", ready=ready), make_endpoint("::1"))]

    agents.write(tmp_path / "a.yaml", *documents(ready=True))
    async with agents.running(agents.settings(tmp_path)) as agent:
        url = f"http://127.0.0.1:{port}/any/path"

        async def count() -> tuple[int, int]:
            status, body = await get_json(url)
            return status, body["localEndpoints"]

        assert await count() == (200, 1)
        generation = agent.metrics.table_generation
        agents.write(tmp_path / "a.yaml", *documents(ready=False))
        await until(lambda: agent.metrics.table_generation > generation)
        while await count() != (503, 0):
            await asyncio.sleep(0.01)
        (tmp_path / "a.yaml").unlink()
        await until(lambda: agent.metrics.frontends == 0)
        while True:
            try:
                await get_json(url)
            except aiohttp.ClientConnectorError:
                break


async def test_a_node_port_that_is_taken_is_an_event_on_its_service(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = make_port(VIP_PORT, node_port=at(taken)[1])
        service = make_service(cluster_ip=new_address(), ports=[port], type="NodePort")
        agents.write(tmp_path / "a.yaml", service, make_slice("127.0.0.9"))
        with caplog.at_level("INFO"):
            async with agents.running(agents.settings(tmp_path)):
                await until(lambda: "FailedToListen" in caplog.text)
    said = f"cannot listen on 127.0.0.1:{at_port(port)}/TCP: another process listens there"
    assert f"event on Service default/web: FailedToListen: {said}" in caplog.text


def at_port(port: Any) -> int:
    number: int = port["nodePort"]
    return number


async def test_an_annotation_that_cannot_be_used_is_logged_once_and_an_event_on_its_service(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = make_service(cluster_ip=new_address(), ports=[make_port(VIP_PORT)])
    service["metadata"]["annotations"] = {"pyproxy.io/balance": "rr"}
    agents.write(tmp_path / "a.yaml", service, make_slice("127.0.0.9"))
    with caplog.at_level("INFO"):
        async with agents.running(agents.settings(tmp_path)) as agent:
            await until(lambda: "InvalidAnnotation" in caplog.text)
            generation = agent.metrics.table_generation
            agents.write(tmp_path / "a.yaml", service, make_slice("127.0.0.9", "127.0.0.8"))
            await until(lambda: agent.metrics.table_generation > generation)
    said = "metadata.annotations: pyproxy.io/balance: 'rr' is none of least-connections,"
    (noted,) = [text for text in caplog.messages if text.startswith("Service default/web: ")]
    assert said in noted
    (event,) = [text for text in caplog.messages if "InvalidAnnotation" in text]
    assert event.startswith(f"event on Service default/web: InvalidAnnotation: {said}")


async def test_changes_of_endpoints_are_timed_from_their_trigger(tmp_path: Path) -> None:
    key = "endpoints.kubernetes.io/last-change-trigger-time"
    agents.write(tmp_path / "a.yaml", make_service(cluster_ip=new_address()))
    async with agents.running(agents.settings(tmp_path)) as agent:
        found = make_slice("127.0.0.9", annotations={key: "2999-01-01T00:00:00Z"})
        agents.write(tmp_path / "b.yaml", found)
        url = agent.urls["metrics"] + "/metrics"
        while "network_programming_duration_seconds_count 1.0" not in (await get(url))[2]:
            await asyncio.sleep(0.01)
