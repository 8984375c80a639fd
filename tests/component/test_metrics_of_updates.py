"""What an agent tells of its updates under kube-proxy's names."""

from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.support import agents
from tests.support.backends import VIP_PORT, new_address, until


async def scraped(url: str) -> dict[str, float]:
    """Samples of IPv4, or of no family, by name."""
    async with aiohttp.ClientSession() as session, session.get(url + "/metrics") as answer:
        text = await answer.text()
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels in ({}, {"ip_family": "IPv4"})
    }


async def test_the_first_update_is_full_and_those_that_follow_are_partial(tmp_path: Path) -> None:
    vip, path = new_address(), tmp_path / "web.yaml"
    agents.write(path, *agents.web(vip, VIP_PORT, ("127.0.0.9", 80)))
    full = "kubeproxy_sync_full_proxy_rules_duration_seconds_count"
    partial = "kubeproxy_sync_partial_proxy_rules_duration_seconds_count"
    async with agents.running(agents.settings(tmp_path)) as agent:
        first = await scraped(agent.urls["metrics"])
        generation = agent.metrics.table_generation
        agents.write(path, *agents.web(vip, VIP_PORT, ("127.0.0.8", 80)))
        await until(lambda: agent.metrics.table_generation > generation)
        second = await scraped(agent.urls["metrics"])
    assert (first[full], second[full]) == (1, 1)
    assert second[partial] > first[partial]
    both = second["kubeproxy_sync_proxy_rules_duration_seconds_count"]
    assert both == second[full] + second[partial]


async def test_changes_that_no_update_has_taken_up_yet_are_pending(tmp_path: Path) -> None:
    vip, path = new_address(), tmp_path / "web.yaml"
    agents.write(path, *agents.web(vip, VIP_PORT, ("127.0.0.9", 80)))
    endpoints = "kubeproxy_sync_proxy_rules_endpoint_changes_pending"
    services = "kubeproxy_sync_proxy_rules_service_changes_pending"
    async with agents.running(agents.settings(tmp_path)) as agent:
        await until(lambda: not agent.metrics.pending_changes)
        # The next update has to wait for so long that the test sees the time in between.
        pipeline = agent._pipeline
        pipeline.pacer(min_interval_s=0, retry_s=1)  # requests go to one that nobody runs
        agents.write(path, *agents.web(vip, VIP_PORT, ("127.0.0.8", 80), ("127.0.0.9", 80)))
        await until(lambda: agent.metrics.pending_changes["endpointslices"] > 0)
        waiting = await scraped(agent.urls["metrics"])
        await pipeline.update()
        done = await scraped(agent.urls["metrics"])
    assert waiting[endpoints] >= 1
    assert waiting[services] == 0
    assert (done[endpoints], done[services]) == (0, 0)
