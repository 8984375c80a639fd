"""`pyproxy local` as a user runs it: its streams, its signals, and what it leaves."""

import asyncio
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.backends import connect, greet, new_address, tcp_backend, until
from tests.support.builders import make_port, make_service
from tests.support.fake_api import FakeApiServer
from tests.support.local_commands import (
    ROOT,
    Command,
    command,
    make_web,
    names_in,
    said,
    two_contexts,
)

BEFORE = b"127.0.0.1 localhost\r\n# no newline at the end"


async def test_the_table_is_printed_and_the_addresses_in_it_answer(
    web: tuple[str, int], kubeconfig: Path
) -> None:
    async with command(kubeconfig, "--upstream", "portforward") as local:
        await local.until_said("upstream: test: portforward")
        out = local.out.decode()
        assert re.match(r"SERVICE +KIND +ADDRESS +PORTS +ENDPOINTS +NOTE\n", out)
        match = re.search(r"default/web +ClusterIP +(\S+) +(?:80->)?(\d+) +1\n", out)
        assert match is not None, out
        assert await said(match[1], int(match[2])) == b"abc"
        await local.until_said("port-forwards go by SPDY/3.1+portforward.k8s.io")
        assert await local.end() == 0


async def test_json_is_one_object_a_line_at_each_change(
    api: FakeApiServer, web: tuple[str, int], kubeconfig: Path
) -> None:
    async with command(kubeconfig, "-o", "json", "--port", "web:9000") as local:
        await local.until_said('"endpoints": 1')
        (service,) = json.loads(local.out.splitlines()[-1])["services"]
        assert (service["name"], service["ports"][0]["local"]) == ("web", 9000)
        assert await said(service["address"], 9000) == b"abc"
        api.create("services", make_service("other", ports=[make_port(80)], cluster_ip="10.96.0.2"))
        await local.until_said('"name": "other"')
        assert json.loads(local.out.splitlines()[-1])["upstream"] == {"test": "direct"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_what_was_written_is_taken_back_at_the_end(
    web: tuple[str, int], kubeconfig: Path, tmp_path: Path, number: signal.Signals
) -> None:
    hosts, env = tmp_path / "hosts", tmp_path / "env"
    hosts.write_bytes(BEFORE)
    names = ("--hosts-path", str(hosts), "--env-file", str(env))
    async with command(kubeconfig, *names) as local:
        await local.until_said("upstream: test")
        assert b"web.default.svc.cluster.local" in hosts.read_bytes()
        assert "WEB_SERVICE_HOST=127." in env.read_text()
        assert await local.end(number) == 0
    assert hosts.read_bytes() == BEFORE
    assert names_in(tmp_path) == ["hosts", "kubeconfig"]


async def test_a_second_signal_ends_it_at_once_and_nothing_is_left(
    web: tuple[str, int], kubeconfig: Path, tmp_path: Path
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_bytes(BEFORE)
    async with command(kubeconfig, "-o", "json", "--hosts-path", str(hosts)) as local:
        await local.until_said('"endpoints": 1')
        (service,) = json.loads(local.out.splitlines()[-1])["services"]
        at = (service["address"], service["ports"][0]["local"])
        with await connect(*at) as client:  # it would be drained
            await asyncio.get_running_loop().sock_sendall(client, b"abc")
            assert await asyncio.get_running_loop().sock_recv(client, 100) == b"abc"
            local.process.send_signal(signal.SIGINT)
            await local.until_said("stopping; a second one stops at once")
            assert await local.end() == 0
            await local.until_said("stopping at once")
    assert hosts.read_bytes() == BEFORE


async def test_killed_it_leaves_names_and_cleanup_takes_them_out(
    web: tuple[str, int], kubeconfig: Path, tmp_path: Path
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_bytes(BEFORE)
    async with command(kubeconfig, "--hosts-path", str(hosts)) as local:
        await local.until_said("upstream: test")
        running = await cleanup(hosts)
        assert running.returncode == 1
        assert f"the names of processes {local.process.pid} stay" in running.stderr
        await local.end(signal.SIGKILL)
    assert hosts.read_bytes() != BEFORE
    assert (await cleanup(hosts)).returncode == 0
    assert hosts.read_bytes() == BEFORE


async def cleanup(hosts: Path) -> "subprocess.CompletedProcess[str]":
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "pyproxy", "cleanup", "--hosts", "--hosts-path", str(hosts)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )


async def test_two_at_once_share_a_hosts_file_and_leave_it_as_it_was(
    api: FakeApiServer, web: tuple[str, int], kubeconfig: Path, tmp_path: Path
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_bytes(BEFORE)
    arguments = ("-o", "json", "--hosts-path", str(hosts))
    async with command(kubeconfig, *arguments) as one, command(kubeconfig, *arguments) as two:
        places = set()
        for local in (one, two):
            await local.until_said('"endpoints": 1')
            (service,) = json.loads(local.out.splitlines()[-1])["services"]
            places.add((service["address"], service["ports"][0]["local"]))
        assert len(places) == 2
        for at in places:
            assert await said(*at) == b"abc"
        assert await one.end() == 0
        assert f"local {two.process.pid}/" in hosts.read_text()
        assert f"local {one.process.pid}/" not in hosts.read_text()
        assert await two.end() == 0
    assert hosts.read_bytes() == BEFORE


async def test_ctrl_c_while_it_starts_leaves_nothing(
    api: FakeApiServer, kubeconfig: Path, tmp_path: Path
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_bytes(BEFORE)
    api.faults.hangs = True
    async with command(kubeconfig, "--hosts-path", str(hosts)) as local:
        await api.until(lambda: bool(api.asked))
        assert await local.end() == 0
    assert hosts.read_bytes() == BEFORE


async def test_a_cluster_that_cannot_be_reached_is_told_and_tried_on(
    api: FakeApiServer, web: tuple[str, int], kubeconfig: Path
) -> None:
    await api.stop()
    async with command(kubeconfig) as local:
        await local.until_said("cannot watch services")
        await local.until_said("trying on")
        await api.start()
        await local.until_said("default/web")
        assert await local.end() == 0


async def test_a_namespace_that_is_not_there_is_told_with_a_near_one_and_waited_for(
    api: FakeApiServer, kubeconfig: Path
) -> None:
    async with command(kubeconfig, "-n", "defualt,later") as local:
        await local.until_said("has no namespace defualt (did you mean default?); waiting for it")
        service = make_service("web", namespace="later", ports=[make_port(80)])
        api.create("services", service)
        await local.until_said("later/web")


async def test_two_contexts_with_one_service_are_told_apart(
    api: FakeApiServer, web: tuple[str, int], tmp_path: Path
) -> None:
    hosts = tmp_path / "hosts"
    async with FakeApiServer() as other, tcp_backend(new_address(), greet(b"other")) as pod:
        make_web(other, pod)
        kubeconfig = two_contexts(tmp_path / "kubeconfig", api, other)
        contexts = ("--context", "test", "--context", "other")
        arguments = ("--hosts-path", str(hosts), "-o", "json")
        async with command(kubeconfig, *contexts, *arguments) as local:
            await until(lambda: both_ready(local))
            services = json.loads(local.out.splitlines()[-1])["services"]
            at = {s["context"]: (s["address"], s["ports"][0]["local"]) for s in services}
            assert await said(*at["test"]) == b"abc"
            assert await said(*at["other"]) == b"other"
            lines = hosts.read_text().splitlines()
            assert f"{at['test'][0]} web web.default web.default.svc" in "\n".join(lines)
            assert any(f"{at['other'][0]} web.default.other" in line for line in lines)
            assert await local.end() == 0


def both_ready(local: Command) -> bool:
    lines = local.out.splitlines()
    return bool(lines) and lines[-1].count(b'"endpoints": 1') == 2
