"""Kill -9 of a worker, of the agent, of everything, and a reboot, under load: who loses what."""

import contextlib
import subprocess
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
)

pytestmark = needs_netns

# Connections and flows that last; each is lost once at most. Not all connections are of one worker.
KEPT, FLOWS = 16, 10


@contextlib.contextmanager
def loaded(lab: Cluster) -> Iterator[tuple[Load, Load, Load]]:
    """Clients that keep connections, that come anew to VIPs, and that come anew to a node port."""
    with Load(lab.pods[0]) as kept, Load(lab.outside) as vips, Load(lab.outside) as node_ports:
        kept.keep(PLAIN, KEPT)
        kept.flow(PLAIN, FLOWS)
        vips.stick(STICKY, *add_addresses(lab.outside, 10))
        vips.connect_again(PLAIN, pause_s=0.005)
        node_ports.connect_again((lab.node.v4, NODE_PORT), pause_s=0.005)
        kept.until("messages", 100)
        for load in (vips, node_ports):
            load.until("connected", 100)
        yield kept, vips, node_ports


def go_on(*loads: Load) -> None:
    """See that new clients are served, after all who waited for it."""
    for load in loads:
        load.all_again()


def told(name: str, *loads: Load) -> None:
    print(name, *(dict(load.tally) for load in loads))  # noqa: T201  -s shows what was measured


def test_a_killed_worker_costs_its_own_connections_only(tmp_path: Path) -> None:
    with served(tmp_path) as lab:
        agent = NodeAgent(lab.node, tmp_path).serving()
        victim, other = agent.workers()
        with loaded(lab) as (kept, vips, node_ports):
            agent.kill(victim)
            agent.until("another one is started")
            until(lambda: len(agent.workers()) == 2)
            go_on(kept, vips, node_ports)
            told("worker", kept, vips, node_ports)
        assert other in agent.workers()
        for load in (vips, node_ports):  # at most the one that each client had with that worker
            assert load.tally.bad.keys() <= {"reset", "ended early"}, agent.log
            assert sum(load.tally.bad.values()) <= 14
        assert sum(n for what, n in kept.tally.items() if what.startswith("cut: ")) < KEPT
        assert kept.tally["flow moved"] == 0
        assert sum(n for what, n in kept.tally.items() if "datagram " in what) <= FLOWS


def test_a_killed_agent_that_is_started_again_costs_nothing(tmp_path: Path) -> None:
    with served(tmp_path) as lab:
        # A third of the drain time is there for the start.
        first = NodeAgent(lab.node, tmp_path, "--drain-timeout", "180s").serving()
        workers = first.workers()
        with loaded(lab) as loads:
            first.kill()
            second = NodeAgent(lab.node, tmp_path, number=2).serving()
            go_on(*loads)
            told("agent", *loads)
            assert [load.tally.bad for load in loads] == [{}, {}, {}], first.log + second.log
        for pid in workers:
            first.kill(pid)


@pytest.mark.parametrize("is_reboot", [False, True], ids=["everything", "reboot"])
def test_after_a_kill_of_everything_a_start_serves_again(is_reboot: bool, tmp_path: Path) -> None:
    with served(tmp_path) as lab:
        first = NodeAgent(lab.node, tmp_path).serving()
        with loaded(lab) as loads:
            workers = first.workers()
            first.kill()
            for pid in workers:
                first.kill(pid)
            assert (tmp_path / "pyproxy.sock").exists()  # the stale file is in the way
            if is_reboot:
                forget(lab)
            second = NodeAgent(lab.node, tmp_path, number=2).serving()
            go_on(*loads)
            second.until("control socket at")
            told("reboot" if is_reboot else "everything", *loads)
            kept, vips, _ = loads
            assert sum(n for w, n in kept.tally.items() if w.startswith("cut: ")) == KEPT
            assert vips.tally["moved"] == kept.tally["flow moved"] == 0
            if not is_reboot:  # what is steered to nobody is not refused: its SYN is sent again
                assert vips.tally["refused"] == 0


def forget(lab: Cluster) -> None:
    """Remove what is in the kernel, as a reboot does."""
    commands = (
        "nft delete table inet pyproxy",
        "ip rule del priority 10249",
        "ip -6 rule del priority 10249",
        "ip route flush table 10249",
        "ip -6 route flush table 10249",
    )
    for command in commands:
        lab.node.run(*command.split())


def test_with_a_full_disk_it_serves_and_says_what_is_missing(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=2", "none", str(full)], check=True
    )
    try:
        (full / "filler").write_bytes(bytes(4096))
        with served(tmp_path) as lab, Load(lab.pods[0]) as load:
            place = full / "run" / "pyproxy.sock"
            agent = NodeAgent(lab.node, tmp_path, "--control-socket", str(place)).serving()
            agent.until("No space left on device")
            load.connect_again(PLAIN)
            load.until("connected", 100)
            agent.terminate()
            assert agent.ended() == 0
            # Not even its log can be written.
            mute = NodeAgent(lab.node, tmp_path, log=Path("/dev/full"), number=2)
            until((tmp_path / "pyproxy.sock").exists)
            load.until("connected", 100)
            mute.terminate()
            assert mute.ended() == 0
    finally:
        subprocess.run(["umount", str(full)], check=True)


def test_a_changed_configuration_is_taken_into_use_and_nobody_notices(tmp_path: Path) -> None:
    with served(tmp_path) as lab:
        agent = NodeAgent(lab.node, tmp_path, "--drain-timeout", "180s").serving()
        former = set(agent.workers())
        config = tmp_path / "config.yaml"
        with loaded(lab) as loads:
            config.write_text(config.read_text() + "maxUdpFlows: 5000\n")
            until(lambda: agent.log.count("listening on") == 2, lambda: agent.log)
            go_on(*loads)
            told("configuration", *loads)
            assert [load.tally.bad for load in loads] == [{}, {}, {}], agent.log
        assert len(set(agent.workers()) - former) == 2
        for pid in former:
            agent.kill(pid)
        until(lambda: not former & set(agent.workers()), lambda: agent.log)  # nor as zombies
        assert agent.process.poll() is None


def test_a_configuration_that_cannot_be_used_is_told_of_and_changes_nothing(tmp_path: Path) -> None:
    with served(tmp_path) as lab:
        agent = NodeAgent(lab.node, tmp_path).serving()
        workers = agent.workers()
        config = tmp_path / "config.yaml"
        config.write_text(config.read_text() + "maxUdpFlows: many\n")
        agent.until("what was read before stays in use")
        with loaded(lab) as loads:
            assert [load.tally.bad for load in loads] == [{}, {}, {}], agent.log
        assert agent.workers() == workers
