"""A real Prometheus scrapes a real agent: targets are up, and dashboards' queries find series."""

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from pyproxy.app.agent import Agent
from pyproxy.source.apiserver import ApiServerSettings
from tests.support import agents
from tests.support.backends import VIP_PORT, ask, greet, new_address, tcp_backend
from tests.support.builders import make_port, make_service, make_slice
from tests.support.fake_api import FakeApiServer, write_kubeconfig
from tests.support.prometheus import Prometheus, lint, scraping

TRIGGER = "endpoints.kubernetes.io/last-change-trigger-time"
WEB = 'service_namespace="default",service_name="web",service_port="http",protocol="TCP"'
KUBE_PROXY = 'job="kube-proxy", instance=~".+"'

# Of the dashboard "Kubernetes / Proxy" (kubernetes-mixin, dashboards/proxy.libsonnet).
DASHBOARD = {
    "Up": 'sum(up{job="kube-proxy"})',
    "Rules Sync Rate": (
        f"sum(rate(kubeproxy_sync_proxy_rules_duration_seconds_count{{{KUBE_PROXY}}}[5m]))"
    ),
    "Rule Sync Latency 99th Quantile": (
        "histogram_quantile(0.99,"
        f"rate(kubeproxy_sync_proxy_rules_duration_seconds_bucket{{{KUBE_PROXY}}}[5m]))"
    ),
    "Network Programming Rate": (
        f"sum(rate(kubeproxy_network_programming_duration_seconds_count{{{KUBE_PROXY}}}[5m]))"
    ),
    "Network Programming Latency 99th Quantile": (
        "histogram_quantile(0.99, sum(rate("
        f"kubeproxy_network_programming_duration_seconds_bucket{{{KUBE_PROXY}}}[5m]))"
        " by (instance, le))"
    ),
    "Kube API Request Rate, 2xx": (
        f'sum(rate(rest_client_requests_total{{{KUBE_PROXY},code=~"2.."}}[5m]))'
    ),
    "Kube API Request Rate, 4xx": (
        f'sum(rate(rest_client_requests_total{{{KUBE_PROXY},code=~"4.."}}[5m]))'
    ),
    "Post Request Latency 99th Quantile": (
        "histogram_quantile(0.99, sum(rate("
        f'rest_client_request_duration_seconds_bucket{{{KUBE_PROXY},verb="POST"}}[5m]))'
        " by (verb, url, le))"
    ),
    "Get Request Latency 99th Quantile": (
        "histogram_quantile(0.99, sum(rate("
        f'rest_client_request_duration_seconds_bucket{{{KUBE_PROXY},verb="GET"}}[5m]))'
        " by (verb, url, le))"
    ),
    "Memory": f"process_resident_memory_bytes{{{KUBE_PROXY}}}",
    "CPU usage": f"rate(process_cpu_seconds_total{{{KUBE_PROXY}}}[5m])",
    "Goroutines": f"go_goroutines{{{KUBE_PROXY}}}",
}

DASHBOARDS = Path(__file__).parents[2] / "deploy" / "monitoring" / "dashboards"
# What Grafana puts in for the choices of who looks at them.
VARIABLES = {
    "$job": "kube-proxy",
    "$instance": ".+",
    "$namespace": "default",
    "$service": "web",
    "$__rate_interval": "1m",
}
NOTHING_HAPPENED = {
    "Attempts that failed, by result",
    "Connections that ended badly, by reason",
    "Services whose clients are refused",
    "UDP datagrams by direction",
    "UDP datagrams dropped, by reason",
    "UDP flows moved to another endpoint",
    "Watches that broke",
}


@pytest.fixture
async def api() -> AsyncIterator[FakeApiServer]:
    async with FakeApiServer() as server:
        yield server


@pytest.fixture
async def agent(api: FakeApiServer, tmp_path: Path) -> AsyncIterator[Agent]:
    """One that serves default/web, which somebody uses all the time."""
    kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", api.url)
    source = ApiServerSettings(kubeconfig=str(kubeconfig), node_name="node-1")
    vip = new_address()
    async with (
        tcp_backend(new_address(), greet(b"hello")) as endpoint,
        agents.running(agents.settings(api=source)) as running,
        asyncio.TaskGroup() as group,
    ):
        api.create("services", make_service(cluster_ip=vip, ports=[make_port(VIP_PORT)]))
        port = {"name": "http", "port": endpoint[1], "protocol": "TCP"}
        triggered = {TRIGGER: "2999-01-01T00:00:00Z"}
        api.create("endpointslices", make_slice(endpoint[0], ports=[port], annotations=triggered))
        traffic = group.create_task(use(vip))
        yield running
        traffic.cancel()


async def use(vip: str) -> None:
    while True:
        with contextlib.suppress(ConnectionRefusedError):  # until it is served
            await ask(vip)
        await asyncio.sleep(0.02)


@pytest.fixture
async def prometheus(
    agent: Agent, tmp_path: Path, unused_tcp_port: int
) -> AsyncIterator[Prometheus]:
    url = agent.urls["metrics"]
    async with scraping(tmp_path, unused_tcp_port, "kube-proxy", url) as started:
        yield started


async def test_a_real_prometheus_scrapes_an_agent_and_its_queries_answer(
    prometheus: Prometheus, agent: Agent
) -> None:
    assert await prometheus.until('up{job="kube-proxy"}') == 1
    assert await prometheus.until(f"rate(pyproxy_connections_opened_total{{{WEB}}}[5s])") > 0
    direction = 'direction="endpoint_to_client"'
    assert await prometheus.until(f"rate(pyproxy_bytes_total{{{WEB},{direction}}}[5s])") > 0
    quantile = (
        f"histogram_quantile(0.99, rate(pyproxy_connect_duration_seconds_bucket{{{WEB}}}[5s]))"
    )
    assert 0 < await prometheus.until(quantile) <= 5
    assert await prometheus.until(f'pyproxy_endpoints{{{WEB},state="ready"}}') == 1
    # None of the labels is the target's own, or Prometheus would have given it another name.
    found = await prometheus.answer('{__name__=~"pyproxy_.+"}')
    assert not [labels for labels, _ in found if any(k.startswith("exported_") for k in labels)]
    shown = {labels["__name__"] for labels, _ in found}
    assert {"pyproxy_build_info", "pyproxy_watch_state", "pyproxy_table_generation"} <= shown
    assert agent.metrics.frontends == 1


async def test_the_queries_of_kube_proxys_dashboard_find_series(prometheus: Prometheus) -> None:
    for query in DASHBOARD.values():
        await prometheus.answer(query)
    # These saw something happen, however short the test was.
    for panel in ("Up", "CPU usage", "Memory", "Goroutines"):
        assert await prometheus.until(DASHBOARD[panel]) > 0
    for name in ("sync_proxy_rules", "network_programming"):
        counted = f'sum(kubeproxy_{name}_duration_seconds_count{{{KUBE_PROXY},ip_family="IPv4"}})'
        assert await prometheus.until(counted) > 0
    ((_, value),) = await prometheus.answer(DASHBOARD["Rules Sync Rate"])
    assert not math.isnan(value)


async def test_each_query_of_our_dashboards_is_understood_and_finds_what_happened(
    prometheus: Prometheus,
) -> None:
    """Those find nothing that ask for what did not happen: UDP, refusals, broken watches."""
    await prometheus.until(f"rate(pyproxy_connections_closed_total{{{WEB}}}[5s])")
    for board in sorted(DASHBOARDS.glob("*.json")):
        empty = set()
        for panel in json.loads(board.read_text())["panels"]:
            for target in panel.get("targets", ()):
                query = target["expr"]
                for name, value in VARIABLES.items():
                    query = query.replace(name, value)
                assert "$" not in query
                if not await prometheus.query(query):
                    empty.add(panel["title"])
        assert empty <= NOTHING_HAPPENED, board


async def test_promtool_finds_nothing_wrong_with_a_live_scrape(agent: Agent) -> None:
    url = agent.urls["metrics"] + "/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        text = await answer.read()
    # A gauge of this name is what kube-proxy has, and dashboards ask for.
    name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total"
    assert await lint(text) == [f'{name} non-counter metrics should not have "_total" suffix']
