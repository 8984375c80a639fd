"""`pyproxy run --steer nft` as it runs on a cluster: on every node, with real packets.

Two nodes with two pods each and a host outside. Every front end is asked from every position, TCP
and UDP, IPv4 and IPv6, and the endpoint tells whose address it saw.
"""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pyproxy.model.addresses import FAMILIES, Family
from pyproxy.model.service import Protocol
from tests.support import agents
from tests.support.builders import (
    Json,
    make_endpoint,
    make_node,
    make_port,
    make_service,
    make_service_cidr,
    make_slice,
)
from tests.support.netns import (
    QUIET_S,
    Cluster,
    Host,
    Question,
    Reply,
    Wire,
    ask_all,
    cluster,
    needs_netns,
    wires,
)

pytestmark = needs_netns

PROTOCOLS: tuple[Protocol, ...] = ("TCP", "UDP")
PORT, POD_PORT = 80, 8080
CONFIG = """
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clusterCIDR: 10.244.0.0/16,fd00:244::/32
---
apiVersion: pyproxy.io/v1alpha1
kind: PyproxyConfiguration
steer: nft
"""


class Ask(NamedTuple):
    """A client that asks a Service; `sees` is the host whose address the endpoint is told."""

    title: str
    client: Host
    service: int
    address: str  # "cluster", "external", "balancer", or a node port's "node"
    outcome: str = "answer"
    sees: Host | None = None


def address_of(service: int, kind: str, family: Family, lab: Cluster) -> tuple[str, int]:
    if kind == "node":
        return lab.node.address(family), 30000 + service
    network = {"cluster": "10.96.0", "external": "192.0.2", "balancer": "203.0.113"}[kind]
    wide = {"cluster": "fd00:96", "external": "fd00:97", "balancer": "fd00:98"}[kind]
    return (f"{network}.{service}" if family == "IPv4" else f"{wide}::{service}"), PORT


def dual(lab: Cluster, number: int, *endpoints: Host, **spec: object) -> list[Json]:
    """Service N on all kinds of addresses, and the slices of its endpoints, of both families."""
    both = {
        kind: [address_of(number, kind, family, lab)[0] for family in FAMILIES]
        for kind in ("cluster", "external", "balancer")
    }
    ports = [make_port(PORT, p.lower(), p, node_port=30000 + number) for p in PROTOCOLS]
    service = make_service(
        f"s{number}",
        cluster_ip=both["cluster"][0],
        clusterIPs=both["cluster"],
        ipFamilies=["IPv4", "IPv6"],
        type="LoadBalancer",
        ports=ports,
        externalIPs=both["external"],
        lb_ips=both["balancer"],
        **spec,  # type: ignore[arg-type]
    )
    numbers = [{"name": p.lower(), "protocol": p, "port": POD_PORT} for p in PROTOCOLS]
    slices = [
        make_slice(
            *(make_endpoint(e.address(family), node=node_of(lab, e)) for e in endpoints),
            service=f"s{number}",
            name=f"s{number}-{family}",
            ports=numbers,
            address_type=family,
        )
        for family in FAMILIES
    ]
    return [service, *slices]


def node_of(lab: Cluster, host: Host) -> str:
    return next(n.host.name for n in lab.nodes if host is n.host or host in n.pods)


def objects(lab: Cluster) -> list[Json]:
    pod, other = lab.pods
    far = lab.nodes[1].pods[0]
    local = {"externalTrafficPolicy": "Local"}
    nodes = [
        make_node(n.host.name, addresses=[n.host.v4, n.host.v6], pod_cidrs=list(n.pod_networks))
        for n in lab.nodes
    ]
    return [
        *nodes,
        make_service_cidr("10.96.0.0/16", "fd00:96::/108"),
        *dual(lab, 1, other),
        *dual(lab, 2, far),
        *dual(lab, 3),
        *dual(lab, 4, other, **local),
        *dual(lab, 5, far, **local),
        *dual(lab, 6, far, internalTrafficPolicy="Local"),
        *dual(lab, 7, pod),
        *dual(lab, 8, lab.node),
        *dual(lab, 9, other, loadBalancerSourceRanges=["192.0.2.0/24", "fd00:97::/64"]),
    ]


def asks(lab: Cluster) -> list[Ask]:
    pod = lab.pods[0]
    node, outside = lab.node, lab.outside
    far, far_node = lab.nodes[1].pods[0], lab.nodes[1].host
    found = [
        Ask("pod to pod here", pod, 1, "cluster", sees=pod),
        Ask("pod to pod elsewhere", pod, 2, "cluster", sees=pod),
        Ask("far pod to pod here", far, 1, "cluster", sees=far),
        Ask("node to pod here", node, 1, "cluster", sees=node),
        Ask("node to pod elsewhere", node, 2, "cluster", sees=node),
        Ask("far node to pod here", far_node, 1, "cluster", sees=far_node),
        Ask("outside to ClusterIP", outside, 1, "cluster", sees=node),
        Ask("pod to itself", pod, 7, "cluster", sees=node),
        Ask("pod to a host-network pod here", pod, 8, "cluster", sees=node),
        Ask("pod without endpoint", pod, 3, "cluster", "refused"),
        Ask("node without endpoint", node, 3, "cluster", "refused"),
        Ask("outside without endpoint", outside, 3, "node", "refused"),
        Ask("pod, internal policy Local", pod, 6, "cluster", "timeout"),
        Ask("node, internal policy Local", node, 6, "cluster", "timeout"),
        Ask("outside, policy Local, none here, node port", outside, 5, "node", "timeout"),
        Ask("outside, policy Local, none here, balancer", outside, 5, "balancer", "timeout"),
        Ask("node, policy Local, none here", node, 5, "balancer", sees=node),
        Ask("pod, policy Local, none here", pod, 5, "balancer", sees=pod),
        Ask("outside, source ranges", outside, 9, "balancer", "timeout"),
        Ask("pod, source ranges", pod, 9, "balancer", "timeout"),
        Ask("outside, source ranges do not guard node ports", outside, 9, "node", sees=node),
    ]
    for kind in ("external", "balancer", "node"):
        found += [
            Ask(f"outside to {kind}", outside, 1, kind, sees=node),
            Ask(f"outside to {kind}, elsewhere", outside, 2, kind, sees=node),
            Ask(f"outside to {kind}, Local", outside, 4, kind, sees=outside),
            Ask(f"pod to {kind}", pod, 1, kind, sees=node),
            Ask(f"node to {kind}", node, 1, kind, sees=node),
        ]
    return found


@contextlib.contextmanager
def proxied(wire: Wire, directory: Path, workers: int) -> Iterator[Cluster]:
    """A cluster whose nodes each run pyproxy, and serve what is in the directory."""
    (directory / "config").mkdir()
    config = directory / "config" / "config.yaml"
    config.write_text(CONFIG)
    manifests = directory / "manifests"
    manifests.mkdir()
    with cluster(wire, nodes=2) as lab:
        agents.write(manifests / "all.yaml", *objects(lab))
        for host in [lab.node, *lab.pods, *lab.nodes[1].pods]:
            for family in FAMILIES:
                for protocol in PROTOCOLS:
                    host.serve(protocol, host.address(family), POD_PORT)
        for node in lab.nodes:
            start(node.host, config, manifests, workers)
        yield lab


def start(host: Host, config: Path, manifests: Path, workers: int = 2) -> "subprocess.Popen[str]":
    """Start pyproxy on a node, and wait until it serves."""
    command = [sys.executable, "-m", "pyproxy", "run", "--config", str(config)]
    command += ["--manifests", str(manifests), "--hostname-override", host.name]
    command += ["--workers", str(workers), "--control-socket", ""]
    process = host.start(*command, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert process.stderr is not None
    log = []
    for line in process.stderr:
        log.append(line)
        if "listening on" in line:
            return process
    raise AssertionError("".join(["pyproxy has ended\n", *log]))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("wire", wires())
def test_every_front_end_from_every_position(wire: Wire, workers: int, tmp_path: Path) -> None:
    with proxied(wire, tmp_path, workers) as lab:
        wanted = [(a, f, p) for a in asks(lab) for f in FAMILIES for p in PROTOCOLS]
        questions = [
            Question(
                a.client,
                p,
                *address_of(a.service, a.address, f, lab),
                patience_s=QUIET_S if a.outcome == "timeout" else 8.0,
            )
            for a, f, p in wanted
        ]
        replies = ask_all(questions)
        own = {host.name: addresses_of(host) for host in (n.host for n in lab.nodes)}
    seen, expected = {}, {}
    for (ask, family, protocol), reply in zip(wanted, replies, strict=True):
        key = f"{ask.title}, {protocol} over {family}"
        seen[key] = told(reply, own)
        sees = ask.sees
        expected[key] = ask.outcome
        if sees is not None:
            expected[key] = sees.name if sees.name in own else sees.address(family)
    assert seen == expected


def told(reply: Reply, own: dict[str, set[str]]) -> str:
    """The outcome, or the address that the endpoint saw; the name for any address of a node."""
    if reply.outcome != "answer":
        return reply.outcome
    return next((name for name, known in own.items() if reply.text in known), reply.text)


def addresses_of(host: Host) -> set[str]:
    lines = host.run("ip", "-o", "address").splitlines()
    return {line.split()[3].partition("/")[0] for line in lines}


def kernel_state(host: Host) -> str:
    """Everything that pyproxy could have changed in the kernel of a node."""
    routes = "ip route show table all; ip -6 route show table all"
    return host.run("sh", "-c", f"nft list ruleset; ip rule; ip -6 rule; {routes}")


def test_after_kill_9_a_restart_takes_over_and_cleanup_leaves_nothing(tmp_path: Path) -> None:
    with cluster("routed") as lab:
        pod, other = lab.pods
        other.serve("TCP", other.v4, POD_PORT)
        manifests = tmp_path / "manifests"
        manifests.mkdir()
        config = tmp_path / "config.yaml"
        config.write_text(CONFIG)
        write_single(manifests, lab)
        foreign = "table inet other { chain c { type filter hook input priority 0; accept; }; }"
        lab.node.run("nft", "-f", "-", stdin=foreign)
        before = kernel_state(lab.node)
        vip = address_of(1, "cluster", "IPv4", lab)
        first = start(lab.node, config, manifests)
        assert pod.ask("TCP", *vip) == Reply("answer", pod.v4)
        steered = lab.node.run("nft", "-a", "list", "table", "inet", "pyproxy")
        first.kill()
        first.wait()
        second = start(lab.node, config, manifests)
        assert pod.ask("TCP", *vip) == Reply("answer", pod.v4)
        # The same table and map, not like ones: their handles are those of the first run. (Rules
        # are written anew, in one transaction.)
        again = lab.node.run("nft", "-a", "list", "table", "inet", "pyproxy")
        assert objects_of(again) == objects_of(steered)
        second.terminate()
        assert second.wait(timeout=30) == 0
        command = [sys.executable, "-m", "pyproxy", "cleanup", "--config", str(config)]
        lab.node.run(*command)
        assert kernel_state(lab.node) == before


def write_single(manifests: Path, lab: Cluster) -> None:
    node = make_node(lab.node.name, addresses=[lab.node.v4], pod_cidrs=["10.244.1.0/24"])
    agents.write(manifests / "all.yaml", node, *dual(lab, 1, lab.pods[1]))


def objects_of(listing: str) -> list[str]:
    """The lines of a listing that begin a table, set, map or chain, with their handles."""
    return [line for line in listing.splitlines() if "{ # handle" in line]


def test_a_change_of_the_configuration_file_ends_an_agent_without_workers(tmp_path: Path) -> None:
    with cluster("routed") as lab:
        manifests = tmp_path / "manifests"
        manifests.mkdir()
        config = tmp_path / "config.yaml"
        config.write_text(CONFIG)
        write_single(manifests, lab)
        running = start(lab.node, config, manifests, workers=0)
        config.write_text(CONFIG + "drainTimeout: 1s\n")
        assert running.wait(timeout=30) == 1
        assert running.stderr is not None
        assert f"{config} has changed" in running.stderr.read()


def test_without_the_capability_it_says_what_is_missing(tmp_path: Path) -> None:
    with cluster("routed") as lab:
        command = ["setpriv", "--bounding-set", "-net_admin,-net_raw", "--inh-caps", "-all"]
        command += [sys.executable, "-m", "pyproxy", "run", "--steer", "nft"]
        command += ["--manifests", str(tmp_path), "--control-socket", ""]
        process = lab.node.start(*command, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2])
        assert process.wait(timeout=60) == 1
        assert process.stderr is not None
        said = process.stderr.read()
        assert "steering needs CAP_NET_ADMIN" in said
        assert "--steer none" in said
        assert "Traceback" not in said


def test_a_network_policy_that_admits_one_pod_admits_it_through_the_cluster_ip(
    tmp_path: Path,
) -> None:
    with cluster("routed", pods=3) as lab:
        friend, stranger, guarded = lab.pods
        for family in FAMILIES:
            for protocol in PROTOCOLS:
                guarded.serve(protocol, guarded.address(family), POD_PORT)
        # What a network plugin enforces: packets to the pod, from that client alone.
        guarded.run(
            "nft",
            "-f",
            "-",
            stdin=f"""table inet guard {{ chain c {{ type filter hook input priority 0;
                ip saddr != {friend.v4} drop
                ip6 saddr != {friend.v6} meta l4proto {{ tcp, udp }} drop
            }}; }}""",
        )
        manifests = tmp_path / "manifests"
        manifests.mkdir()
        config = tmp_path / "config.yaml"
        config.write_text(CONFIG)
        networks = list(lab.nodes[0].pod_networks)
        node = make_node(lab.node.name, addresses=[lab.node.v4, lab.node.v6], pod_cidrs=networks)
        agents.write(manifests / "all.yaml", node, *dual(lab, 1, guarded))
        start(lab.node, config, manifests)
        vips = [address_of(1, "cluster", family, lab) for family in FAMILIES]
        asked = [
            Question(pod, p, *vip, patience_s=8.0 if pod is friend else QUIET_S)
            for pod in (friend, stranger)
            for p in PROTOCOLS
            for vip in vips
        ]
        outcomes = [reply.outcome for reply in ask_all(asked)]
        assert outcomes[:4] == ["answer"] * 4
        # TCP may be told that no endpoint could be connected; what matters is that none answered.
        assert "answer" not in outcomes[4:]


def test_beside_another_proxy_only_labelled_services_are_touched(tmp_path: Path) -> None:
    with cluster("routed") as lab:
        pod, other = lab.pods
        for protocol in PROTOCOLS:
            other.serve(protocol, other.v4, POD_PORT)
        ours, *our_slices = dual(lab, 1, other)
        theirs, *their_slices = dual(lab, 2, other)
        label = "service.kubernetes.io/service-proxy-name"
        ours["metadata"]["labels"] = {label: "mine"}
        node = make_node(lab.node.name, addresses=[lab.node.v4], pod_cidrs=["10.244.1.0/24"])
        cidrs = make_service_cidr("10.96.0.0/16")
        manifests = tmp_path / "manifests"
        manifests.mkdir()
        config = tmp_path / "config.yaml"
        config.write_text(CONFIG + "serviceProxyName: mine\n")
        agents.write(manifests / "all.yaml", node, cidrs, ours, *our_slices, theirs, *their_slices)
        # The other proxy: a rule of its own that answers for the Service that is not ours.
        theirs_at = address_of(2, "cluster", "IPv4", lab)[0]
        lab.node.run(
            "nft",
            "-f",
            "-",
            stdin=f"""table ip other {{ chain c {{ type nat hook prerouting priority -100;
                ip daddr {theirs_at} tcp dport {PORT} dnat to {other.v4}:{POD_PORT}
            }}; }}""",
        )
        before = lab.node.run("nft", "list", "table", "ip", "other")
        start(lab.node, config, manifests)
        assert pod.ask("TCP", *address_of(1, "cluster", "IPv4", lab)).outcome == "answer"
        assert pod.ask("TCP", theirs_at, PORT).outcome == "answer"
        assert lab.node.run("nft", "list", "table", "ip", "other") == before


@pytest.mark.parametrize("wire", wires())
def test_without_pod_cidrs_pods_of_one_node_still_reach_each_other_as_themselves(
    wire: Wire, tmp_path: Path
) -> None:
    with cluster(wire) as lab:
        pod, other = lab.pods
        other.serve("TCP", other.v4, POD_PORT)
        manifests = tmp_path / "manifests"
        manifests.mkdir()
        config = tmp_path / "config.yaml"
        config.write_text(CONFIG)
        node = make_node(lab.node.name, addresses=[lab.node.v4])
        agents.write(manifests / "all.yaml", node, *dual(lab, 1, other))
        start(lab.node, config, manifests)
        vip = address_of(1, "cluster", "IPv4", lab)
        assert pod.ask("TCP", *vip) == Reply("answer", pod.v4)


def test_a_table_that_somebody_removed_is_back_with_the_next_change(tmp_path: Path) -> None:
    with cluster("routed") as lab:
        pod, other = lab.pods
        other.serve("TCP", other.v4, POD_PORT)
        manifests = tmp_path / "manifests"
        manifests.mkdir()
        config = tmp_path / "config.yaml"
        config.write_text(CONFIG)
        write_single(manifests, lab)
        start(lab.node, config, manifests)
        first, second = (address_of(n, "cluster", "IPv4", lab) for n in (1, 2))
        assert pod.ask("TCP", *first).outcome == "answer"
        lab.node.run("nft", "delete", "table", "inet", "pyproxy")
        node = make_node(lab.node.name, addresses=[lab.node.v4], pod_cidrs=["10.244.1.0/24"])
        both = [*dual(lab, 1, other), *dual(lab, 2, other)]
        agents.write(manifests / "all.yaml", node, *both)
        # A SYN that goes nowhere meanwhile is sent again by the kernel, after a second.
        assert pod.ask("TCP", *second).outcome == "answer"
        assert pod.ask("TCP", *first).outcome == "answer"


def test_services_on_the_loopback_network_work_while_steering() -> None:
    host = Host("alone")
    try:
        examples = Path(__file__).parents[2] / "deploy" / "examples"
        for number in (1, 2, 3):
            host.serve("TCP", f"127.97.0.{number}", 9080)
            host.serve("UDP", f"127.97.0.{number}", 9007)
        command = [sys.executable, "-m", "pyproxy", "run", "--manifests", str(examples)]
        command += ["--control-socket", ""]
        process = host.start(*command, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2])
        assert process.stderr is not None
        assert any("listening on 3 addresses" in line for line in process.stderr)
        assert "inet pyproxy" in host.run("nft", "list", "tables")
        for _ in range(4):
            assert host.ask("TCP", "127.96.0.10", 8080).outcome == "answer"
            assert host.ask("TCP", "127.0.0.1", 30080).outcome == "answer"
            assert host.ask("UDP", "127.96.0.11", 7007).outcome == "answer"
    finally:
        host.close()
