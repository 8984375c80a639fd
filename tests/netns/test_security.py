"""What a hostile pod or neighbour tries at the packets' level, and what comes of it.

docs/security.md names these tests.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from pyproxy.model.addresses import FAMILIES, Family
from pyproxy.model.service import Protocol
from pyproxy.steer.permission import why_not
from tests.netns.test_agent_steered import CONFIG, POD_PORT, address_of, dual, start
from tests.support import agents
from tests.support.builders import make_node, make_port
from tests.support.netns import (
    PATIENCE_S,
    QUIET_S,
    Cluster,
    Host,
    Question,
    ask_all,
    cluster,
    needs_netns,
)
from tests.support.raw_datagrams import pings, send_as
from tests.support.steering import SETTINGS, SteeringNode, endpoints
from tests.support.steering import dual as service

pytestmark = needs_netns

PROTOCOLS: tuple[Protocol, ...] = ("TCP", "UDP")
VIPS: dict[Family, str] = {"IPv4": "10.96.0.10", "IPv6": "fd00:96::10"}
OUTSIDE_VIPS: dict[Family, str] = {"IPv4": "203.0.113.10", "IPv6": "2001:db8::10"}
OBJECTS = (
    service(10, lb_ips=list(OUTSIDE_VIPS.values()), type="LoadBalancer"),
    *endpoints(10),
)
# Who writes one of these lies; the node's own, the VIP itself and unused ones of its network too.
IMPOSSIBLE: dict[Family, tuple[str, ...]] = {
    "IPv4": ("127.0.0.1", "192.168.7.1", "10.96.0.10", "10.96.9.9", "224.0.0.1",
             "240.0.0.1", "255.255.255.255"),
    "IPv6": ("::", "::1", "fd00:192::1", "fd00:96::10", "fd00:96::9999", "ff02::1", "fe80::99"),
}  # fmt: skip
SECRET = 40_000  # the port of whom the lies are to reach


@pytest.fixture
def lab() -> Iterator[Cluster]:
    with cluster("routed") as made:
        no_filter(made.node)
        yield made


def no_filter(node: Host) -> None:
    """Let the kernel take what it would drop for its way back, as it does by default."""
    for interface in node.run("ls", "/proc/sys/net/ipv4/conf").split():
        node.sysctl(f"net.ipv4.conf.{interface}.rp_filter", 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_source_that_nobody_can_have_gets_nowhere(lab: Cluster, family: Family) -> None:
    with SteeringNode(lab, *OBJECTS) as node:
        for vip in (VIPS[family], OUTSIDE_VIPS[family]):
            server = node.servers[vip, 80, "UDP"]
            for client in (lab.pods[0], lab.outside):
                for source in IMPOSSIBLE[family]:
                    send_as(client, source, vip, 80, SECRET)
                # Packets of one client come in their order.
                assert client.ask("UDP", vip, 80).outcome == "answer"
                assert server.hits == 1
                server.hits = 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pod_cannot_send_from_another_pods_address(lab: Cluster, family: Family) -> None:
    pod, other = lab.pods
    unused = {"IPv4": "10.244.9.9", "IPv6": "fd00:244:9::9"}[family]
    with SteeringNode(lab, *OBJECTS) as node:
        server = node.servers[VIPS[family], 80, "UDP"]
        for liar, lie in (
            (pod, other.address(family)),
            (pod, unused),
            (lab.outside, other.address(family)),
        ):
            send_as(liar, lie, VIPS[family], 80)
        for client in (pod, other, lab.outside):
            assert client.ask("UDP", VIPS[family], 80).text == client.address(family)
        assert server.hits == 3


def test_the_check_of_pods_addresses_can_be_left_out(lab: Cluster) -> None:
    """Where a network plugin brings a pod's packets by an interface that leads nowhere."""
    pod, other = lab.pods
    lenient = msgspec.structs.replace(SETTINGS, checks_pods=False)
    with SteeringNode(lab, *OBJECTS, settings=lenient) as node:
        for family in FAMILIES:
            send_as(pod, other.address(family), VIPS[family], 80)
            assert pod.ask("UDP", VIPS[family], 80).outcome == "answer"
            assert node.servers[VIPS[family], 80, "UDP"].hits == 2


@pytest.mark.parametrize("kind", ["cluster IP", "balancer IP"])
def test_a_vip_opens_no_port_of_the_node(lab: Cluster, kind: str) -> None:
    """Not even one that a process listens on at every address; marked packets alone are local."""
    vips = VIPS if kind == "cluster IP" else OUTSIDE_VIPS
    servers = [lab.node.serve(protocol, "::", 2222) for protocol in PROTOCOLS]  # and 0.0.0.0
    with SteeringNode(lab, *OBJECTS):
        replies = ask_all(
            [
                Question(client, protocol, vips[family], 2222, QUIET_S)
                for client in (*lab.pods, lab.outside)
                for protocol in PROTOCOLS
                for family in FAMILIES
            ]
        )
    assert "answer" not in {reply.outcome for reply in replies}
    assert [server.hits for server in servers] == [0, 0]


def test_a_vip_answers_no_ping(lab: Cluster) -> None:
    """The node would tell by it that it is there for more than the Service's ports."""
    with SteeringNode(lab, *OBJECTS):
        for client in (lab.pods[0], lab.outside):
            assert pings(client, lab.node.v4, PATIENCE_S)
            for vip in (VIPS["IPv4"], OUTSIDE_VIPS["IPv4"]):
                assert not pings(client, vip, QUIET_S)


@pytest.mark.parametrize("route_localnet", [0, 1])
def test_the_nodes_loopback_is_closed_to_its_neighbours(lab: Cluster, route_localnet: int) -> None:
    """Also with route_localnet, which kube-proxy sets for node ports and leaves behind."""
    secret = lab.node.serve("TCP", "127.0.0.1", SECRET)
    lab.node.sysctl("net.ipv4.conf.all.route_localnet", route_localnet)
    with SteeringNode(lab, *OBJECTS):
        for client, gateway in ((lab.pods[0], "10.244.1.1"), (lab.outside, lab.node.v4)):
            client.sysctl("net.ipv4.conf.all.route_localnet", 1)
            client.ip(
                "address del 127.0.0.1/8 dev lo",
                f"route add 127.0.0.1 via {gateway} src {client.v4}",
            )
            assert client.ask("TCP", "127.0.0.1", SECRET, patience_s=QUIET_S).outcome == "timeout"
        assert secret.hits == 0
        assert lab.node.ask("TCP", "127.0.0.1", SECRET).outcome == "answer"


def test_other_programs_bits_of_the_mark_are_kept(lab: Cluster) -> None:
    """kube-proxy and kubelet have 0x4000 and 0x8000, Calico and Cilium more."""
    others = 0xFFFFFFFF & ~SETTINGS.mark
    lab.node.run(
        "nft",
        "-f",
        "-",
        stdin=f"""
        add table inet other
        add chain inet other before {{ type filter hook prerouting priority raw; }}
        add rule inet other before meta mark set {others:#x}
        add chain inet other after {{ type filter hook prerouting priority -10; }}
        add rule inet other after ip daddr {VIPS["IPv4"]} meta mark != {0xFFFFFFFF:#x} counter
        """,
    )
    with SteeringNode(lab, *OBJECTS):
        assert lab.pods[0].ask("TCP", VIPS["IPv4"], 80).outcome == "answer"
    chain = lab.node.run("nft", "list", "chain", "inet", "other", "after")
    assert "counter packets 0 " in chain


@pytest.mark.parametrize("address", ["ClusterIP", "node port"])
def test_an_answer_to_nobody_does_not_reach_the_loopback(address: str, tmp_path: Path) -> None:
    """A node port is an address of the node: what is sent to it is never looked at by nftables."""
    with cluster("routed") as lab:
        pod, other = lab.pods
        backend = other.serve("UDP", other.v6, POD_PORT)
        secret = lab.node.serve("UDP", "::1", SECRET)
        config = tmp_path / "config.yaml"
        config.write_text(CONFIG)
        manifests = tmp_path / "manifests"
        manifests.mkdir()
        node = make_node(lab.node.name, addresses=[lab.node.v4, lab.node.v6])
        agents.write(manifests / "all.yaml", node, *dual(lab, 1, other))
        start(lab.node, config, manifests)
        place = ("fd00:96::1", 80) if address == "ClusterIP" else (lab.node.v6, 30001)
        send_as(pod, "::", *place, SECRET)
        assert pod.ask("UDP", *place).outcome == "answer"
        assert backend.hits == 1
        assert secret.hits == 0


def test_src_valid_mark_would_drop_what_is_steered_and_stops_the_start(lab: Cluster) -> None:
    """As `pyproxy check` says: the kernel takes what has the mark for this host's own."""
    with SteeringNode(lab, *OBJECTS):
        lab.node.sysctl("net.ipv4.conf.all.src_valid_mark", 1)
        vip = VIPS["IPv4"]
        assert lab.pods[0].ask("TCP", vip, 80, patience_s=QUIET_S).outcome == "timeout"
        with lab.node.entered():
            assert "src_valid_mark=0" in (why_not() or "")
        lab.node.sysctl("net.ipv4.conf.all.src_valid_mark", 0)
        assert lab.pods[0].ask("TCP", vip, 80).outcome == "answer"
        with lab.node.entered():
            assert why_not() is None


def test_a_service_takes_no_port_from_a_process_of_the_node(tmp_path: Path) -> None:
    """Whoever may write Services could else take the place of its SSH server, or of its kubelet."""
    with cluster("routed") as lab:
        pod, other = lab.pods
        processes = [lab.node.serve(protocol, "0.0.0.0", 2222) for protocol in PROTOCOLS]
        other.serve("TCP", other.v4, POD_PORT)
        other.serve("UDP", other.v4, POD_PORT)
        config = tmp_path / "config.yaml"
        config.write_text(CONFIG)
        manifests = tmp_path / "manifests"
        manifests.mkdir()
        hostile, *slices = dual(lab, 1, other)
        hostile["spec"]["externalIPs"] = [lab.node.v4]
        hostile["spec"]["ports"] = [
            make_port(2222, protocol.lower(), protocol) for protocol in PROTOCOLS
        ]
        node = make_node(lab.node.name, addresses=[lab.node.v4])
        agents.write(manifests / "all.yaml", node, hostile, *slices, *dual(lab, 2, other))
        start(lab.node, config, manifests)
        assert pod.ask("TCP", *address_of(2, "cluster", "IPv4", lab)).text == pod.v4
        for client in (pod, lab.outside, lab.node):
            for protocol in PROTOCOLS:
                assert client.ask(protocol, lab.node.v4, 2222).outcome == "answer"
        assert [server.hits for server in processes] == [3, 3]
        # The price: the kernel lets nobody listen beside who listens on every address.
        for protocol in PROTOCOLS:
            assert pod.ask(protocol, "10.96.0.1", 2222).outcome == "refused"
