"""What a pod, the node and the outside meet at each kind of frontend, in a real kernel."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from pyproxy.model.service import Protocol
from tests.support.netns import (
    QUIET_S,
    Cluster,
    Host,
    Outcome,
    Question,
    Wire,
    ask_all,
    cluster,
    needs_netns,
    wires,
)
from tests.support.steering import SteeringNode, both, dual, endpoints

pytestmark = needs_netns

PROTOCOLS: tuple[Protocol, ...] = ("TCP", "UDP")

OBJECTS = [
    dual(10),
    *endpoints(10),
    dual(11),  # nothing behind it
    dual(12, internalTrafficPolicy="Local"),
    *endpoints(12, "node-2"),
    dual(13, externalIPs=["203.0.113.13", "2001:db8::13"], externalTrafficPolicy="Local"),
    *endpoints(13, "node-2"),
    dual(14, lb_ips=["203.0.113.14", "2001:db8::14"], type="LoadBalancer",
         loadBalancerSourceRanges=["10.244.0.0/16", "fd00:244::/32"]),
    *endpoints(14),
    dual(15, lb_ips=["203.0.113.15", "2001:db8::15"], type="LoadBalancer",
         loadBalancerSourceRanges=["192.168.7.100/32", "fd00:192::100/128"]),
    dual(16, lb_ips=["203.0.113.16", "2001:db8::16"], type="LoadBalancer",
         externalTrafficPolicy="Local",
         loadBalancerSourceRanges=["192.168.7.0/24", "fd00:192::/64"]),
    *endpoints(16, "node-2"),
    dual(17),
    *endpoints(17),
    dual(18, type="NodePort", ports=both(80, 30018)),
    *endpoints(18),
    dual(19, type="NodePort", ports=both(80, 30019), externalTrafficPolicy="Local"),
    *endpoints(19, "node-2"),
    dual(20, type="NodePort", ports=both(80, 30020)),
]  # fmt: skip
BIND_FAULTS = tuple(
    (address, 80, protocol) for address in ("10.96.0.17", "fd00:96::17") for protocol in PROTOCOLS
)
NODE_ADDRESS = ("192.168.7.1", "fd00:192::1")


class Case(NamedTuple):
    name: str
    addresses: tuple[str, str]
    port: int
    pod: Outcome
    node: Outcome
    outside: Outcome


CASES = [
    Case("a ClusterIP", ("10.96.0.10", "fd00:96::10"), 80, "answer", "answer", "answer"),
    Case("without endpoints", ("10.96.0.11", "fd00:96::11"), 80, "refused", "refused", "refused"),
    Case("internal policy Local, no local endpoint", ("10.96.0.12", "fd00:96::12"), 80,
         "timeout", "timeout", "timeout"),
    Case("another port of a ClusterIP", ("10.96.0.10", "fd00:96::10"), 81,
         "refused", "refused", "refused"),
    Case("no ClusterIP, in a ServiceCIDR", ("10.96.9.9", "fd00:96::9999"), 80,
         "timeout", "timeout", "timeout"),
    Case("an external IP, policy Local, no local endpoint", ("203.0.113.13", "2001:db8::13"), 80,
         "answer", "answer", "timeout"),
    Case("source ranges for pods", ("203.0.113.14", "2001:db8::14"), 80,
         "answer", "timeout", "timeout"),
    Case("source ranges for the outside, no endpoints", ("203.0.113.15", "2001:db8::15"), 80,
         "timeout", "timeout", "refused"),
    Case("source ranges for the node's network, policy Local, no local endpoint",
         ("203.0.113.16", "2001:db8::16"), 80, "timeout", "answer", "timeout"),
    Case("a port that could not be bound", ("10.96.0.17", "fd00:96::17"), 80,
         "refused", "refused", "refused"),
    Case("a node port", NODE_ADDRESS, 30018, "answer", "answer", "answer"),
    Case("a node port, policy Local, no local endpoint", NODE_ADDRESS, 30019,
         "answer", "answer", "timeout"),
    Case("a node port without endpoints", NODE_ADDRESS, 30020, "refused", "refused", "refused"),
    Case("a port of the node that is no node port", NODE_ADDRESS, 30021,
         "refused", "refused", "refused"),
]  # fmt: skip


@pytest.fixture(scope="module", params=wires())
def lab(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    wire: Wire = request.param
    with cluster(wire) as made, SteeringNode(made, *OBJECTS, refused=BIND_FAULTS):
        yield made


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_verdict(lab: Cluster, case: Case) -> None:
    questions, expected = [], []
    outcomes: list[tuple[Host, Outcome]] = [
        (lab.pods[0], case.pod),
        (lab.node, case.node),
        (lab.outside, case.outside),
    ]
    for client, outcome in outcomes:
        for address in case.addresses:
            for protocol in PROTOCOLS:
                patience = {"patience_s": QUIET_S} if outcome == "timeout" else {}
                questions.append(Question(client, protocol, address, case.port, **patience))
                expected.append(outcome)
    replies = ask_all(questions)
    for question, reply, outcome in zip(questions, replies, expected, strict=True):
        asked = (question.client.name, *question[1:4])
        assert (*asked, reply.outcome) == (*asked, outcome)
        if outcome == "answer" and question.client is not lab.node:
            # The listener saw who asked.
            assert reply.text in {question.client.v4, question.client.v6}


@pytest.mark.parametrize("address", ["203.0.113.13", "2001:db8::13"])
def test_another_port_of_an_external_ip_is_left_alone(lab: Cluster, address: str) -> None:
    """Somebody else may serve it: here, the outside (PARITY 5.8)."""
    lab.outside.ip(f"address replace {address} dev lo")
    lab.outside.serve("TCP", address, 81)
    lab.outside.serve("UDP", address, 81)
    for protocol in PROTOCOLS:
        assert lab.pods[0].ask(protocol, address, 81).outcome == "answer"
        assert lab.node.ask(protocol, address, 81).outcome == "answer"


@pytest.mark.parametrize("size", [1400, 9000, 65507])
@pytest.mark.parametrize("client", ["pod", "node", "outside"])
def test_large_datagrams_are_whole(lab: Cluster, client: str, size: int) -> None:
    host = {"pod": lab.pods[0], "node": lab.node, "outside": lab.outside}[client]
    for address in ("10.96.0.10", "fd00:96::10"):
        with host.connected("UDP", address, 80) as sock:
            sock.send(b"x" * size)  # in fragments, and only the first of them has a port
            assert sock.recv(100).decode() in {host.v4, host.v6, *NODE_ADDRESS}
