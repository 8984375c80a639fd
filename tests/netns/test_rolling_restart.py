"""A newer agent takes over from an older one on the same node, under load: nobody notices."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.load import Load
from tests.support.netns import Cluster, needs_netns
from tests.support.node_agents import (
    NODE_PORT,
    PLAIN,
    STICKY,
    NodeAgent,
    add_addresses,
    served,
    until,
    write_services,
)

pytestmark = needs_netns

DRAIN = ("--drain-timeout", "60s")


@contextlib.contextmanager
def loaded(lab: Cluster) -> Iterator[tuple[Load, Load]]:
    """Clients of all kinds, in a pod and outside, that are at it already."""
    with Load(lab.pods[0]) as pod, Load(lab.outside) as outside:
        pod.keep(PLAIN)
        outside.stick(STICKY, *add_addresses(lab.outside, 10))
        pod.connect_again(PLAIN, pause_s=0.005)
        outside.connect_again((lab.node.v4, NODE_PORT), pause_s=0.005)
        pod.flow(PLAIN)
        outside.flow((lab.node.v4, NODE_PORT), flows=5)
        pod.fresh(PLAIN)
        for load in (pod, outside):
            load.until("connected", 100)
        yield pod, outside


def test_clients_stay_where_they_stick_also_where_they_would_not_begin(tmp_path: Path) -> None:
    with served(tmp_path) as lab:
        write_services(lab, tmp_path, endpoints=1)
        old = NodeAgent(lab.node, tmp_path, number=1).serving()
        with Load(lab.outside) as sticky, Load(lab.pods[0]) as others:
            sticky.stick(STICKY, *add_addresses(lab.outside, 20))
            sticky.all_again()
            assert sticky.names == {"a"}
            write_services(lab, tmp_path)
            others.connect_again(PLAIN)
            until(lambda: others.names == {"a", "b", "c"})  # a new client may begin anywhere
            new = NodeAgent(lab.node, tmp_path, number=2).serving()
            new.until("took over")
            old.until("draining")
            for load in (sticky, others):
                load.all_again()
                assert load.tally.bad == {}
            assert sticky.names == {"a"}


def test_an_agent_that_drains_already_makes_room_for_one_that_comes(tmp_path: Path) -> None:
    with served(tmp_path) as lab:
        old = NodeAgent(lab.node, tmp_path, *DRAIN, number=1).serving()
        with Load(lab.pods[0]) as kept, Load(lab.pods[0]) as anew:
            kept.keep(PLAIN)
            kept.all_again()
            old.terminate()
            old.until("draining: 10 connections are live")
            new = NodeAgent(lab.node, tmp_path, *DRAIN, number=2).serving()
            new.until("control socket at")
            new.until("health on")
            anew.connect_again(PLAIN)
            anew.fresh(PLAIN)
            for load in (kept, anew):
                load.all_again()
                assert load.tally.bad == {}
        assert "keeps its control socket" not in new.log
        assert old.ended() == 0


def test_an_agent_that_has_left_ends_when_its_successor_is_gone(tmp_path: Path) -> None:
    with served(tmp_path) as lab:
        old = NodeAgent(lab.node, tmp_path, number=1).serving()
        new = NodeAgent(lab.node, tmp_path, number=2).serving()
        new.until("took over")
        old.until("draining")
        assert old.process.poll() is None  # a supervisor would start it again
        workers = new.workers()
        new.kill()
        assert old.ended() == 1
        assert "the agent that took over is gone" in old.log
        for pid in workers:
            new.kill(pid)


@pytest.mark.parametrize(
    ("way", "migrates", "workers"),
    [
        ("hand-over", True, 2),
        ("hand-over", False, 2),
        ("SIGTERM", True, 2),
        ("SIGTERM", False, 2),
        ("hand-over", True, 0),
    ],
)
def test_a_rolling_restart_loses_nothing(
    way: str, migrates: bool, workers: int, tmp_path: Path
) -> None:
    options = [*DRAIN, "--workers", str(workers)]
    if way == "SIGTERM":
        options += ["--control-socket", ""]
    with served(tmp_path) as lab:
        old = NodeAgent(lab.node, tmp_path, *options, number=1).serving()
        lab.node.sysctl("net.ipv4.tcp_migrate_req", int(migrates))
        with loaded(lab) as loads:
            new = NodeAgent(lab.node, tmp_path, *options, number=2).serving()
            if not migrates:
                lab.node.sysctl("net.ipv4.tcp_migrate_req", 0)
            if way == "SIGTERM":
                new.until("health on")
                old.terminate()
            old.until("for another agent serves")
            for load in loads:
                load.all_again()
                load.until("connected", 100)
            tallies = [load.tally for load in loads]
        print(way, migrates, workers, *map(dict, tallies))  # noqa: T201  -s shows what was measured
        assert [tally.bad for tally in tallies] == [{}, {}], old.log + new.log
        if way == "hand-over":
            old.until("draining")
            old.terminate()
        assert old.ended() == 0
        new.until("health on")
