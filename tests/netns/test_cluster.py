"""The test network itself: everybody reaches everybody, and nothing of it is left."""

import os
import subprocess

import pytest

from tests.support.netns import Cluster, Question, Wire, ask_all, cluster, needs_netns, wires

pytestmark = needs_netns


@pytest.mark.parametrize("wire", wires())
def test_everybody_reaches_everybody(wire: Wire) -> None:
    with cluster(wire, nodes=2) as lab:
        hosts = [*(h for n in lab.nodes for h in (n.host, *n.pods)), lab.outside]
        questions = []
        for host in hosts:
            for address in (host.v4, host.v6):
                host.serve("TCP", address, 80)
                host.serve("UDP", address, 80)
                for client in hosts:
                    questions.append(Question(client, "TCP", address, 80))
                    questions.append(Question(client, "UDP", address, 80))
        replies = ask_all(questions)
    for question, reply in zip(questions, replies, strict=True):
        assert reply.outcome == "answer", question
        if question.client not in [node.host for node in lab.nodes]:
            assert reply.text in {question.client.v4, question.client.v6}


def test_refusals_and_silence_are_told_apart() -> None:
    with cluster() as lab:
        assert lab.pods[0].ask("TCP", lab.pods[1].v4, 81).outcome == "refused"
        assert lab.pods[0].ask("UDP", lab.pods[1].v6, 81).outcome == "refused"
        lab.node.ip("route add blackhole 10.9.9.9")
        assert lab.pods[0].ask("TCP", "10.9.9.9", 80, patience_s=0.1).outcome == "timeout"


def namespaces() -> set[str]:
    """Those of this process: other test runs have their own."""
    listed = subprocess.run(["ip", "netns"], capture_output=True, check=True, text=True).stdout
    return {name for name in listed.split() if name.startswith(f"pyproxy-{os.getpid()}-")}


def fail_on(lab: Cluster) -> None:
    lab.pods[0].start("sleep", "1000")
    lab.pods[0].serve("TCP", lab.pods[0].v4, 80)
    raise ZeroDivisionError


def test_nothing_is_left_also_after_a_failure() -> None:
    before = namespaces()
    with pytest.raises(ZeroDivisionError), cluster() as lab:
        fail_on(lab)
    assert namespaces() == before
