"""A small cluster of network namespaces: nodes, pods on them, and a host outside.

Everything is in namespaces that a test made: no interface, rule or sysctl of this machine is
touched. Names are unique to the process, so test runs do not meet; `cluster` removes all it made,
also when the test fails.

    with cluster("bridge") as lab:
        lab.pods[0].serve("TCP", lab.pods[0].v4, 80)
        assert lab.pods[1].ask("TCP", lab.pods[0].v4, 80) == Reply("answer", lab.pods[1].v4)

A namespace is a property of a thread (setns(2)), and a socket stays in the one it was made in. So
code under test runs on a node by `with lab.node.entered():` around it, and its threads and
processes inherit that.
"""

import contextlib
import ctypes
import dataclasses
import itertools
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple, Self

import pytest

from pyproxy.model.addresses import Family
from pyproxy.model.service import Protocol
from tests.support.netns_server import Server, new_socket

# How pods are joined to their node: each by a routed pair, or all on a bridge whose packets do or
# do not pass the node's IP hooks (net.bridge.bridge-nf-call-iptables).
Wire = Literal["routed", "bridge", "bridge-nf"]
WIRES: tuple[Wire, ...] = ("routed", "bridge", "bridge-nf")
Outcome = Literal["answer", "refused", "timeout", "unreachable"]

# Enough for any answer on a busy machine. Waiting for silence must be bounded by less: QUIET_S.
PATIENCE_S = 8.0
QUIET_S = 0.4

_CLONE_NEWNET = 0x40000000
_BRIDGE_NF = Path("/proc/sys/net/bridge")
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


def _why_not() -> str:
    if os.geteuid() != 0:
        return "needs root to make network namespaces"
    missing = [program for program in ("ip", "nft") if shutil.which(program) is None]
    if missing:
        return f"needs the command {missing[0]} for network namespaces"
    probe = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    return "this kernel or sandbox makes no network namespaces" if probe.returncode else ""


_REASON = _why_not()
needs_netns = pytest.mark.skipif(bool(_REASON), reason=_REASON)


def wires() -> list[object]:
    """Every way to join pods, as pytest parameters; without br_netfilter one is skipped."""
    missing = pytest.mark.skipif(not _BRIDGE_NF.exists(), reason="no br_netfilter in this kernel")
    return [pytest.param(w, marks=missing if w == "bridge-nf" else ()) for w in WIRES]


class Reply(NamedTuple):
    """What a client met. text: what the server said, which is the client's address as it saw it."""

    outcome: Outcome
    text: str = ""


class Host:
    """One network namespace: a node, a pod or a host outside. v4, v6: its own addresses."""

    def __init__(self, name: str, v4: str = "", v6: str = "") -> None:
        self.name = name
        self.v4 = v4
        self.v6 = v6
        self.namespace = f"pyproxy-{os.getpid()}-{next(_numbers)}-{name}"
        self._stack = contextlib.ExitStack()
        _run("ip", "netns", "add", self.namespace)
        self._stack.callback(_run, "ip", "netns", "del", self.namespace)
        # Duplicate address detection would hold back IPv6 for a second.
        self.sysctl("net.ipv6.conf.default.accept_dad", 0)
        self.sysctl("net.ipv6.conf.default.dad_transmits", 0)
        self.ip("link set lo up")

    def address(self, family: Family) -> str:
        """Its own address of a family."""
        return self.v4 if family == "IPv4" else self.v6

    @contextlib.contextmanager
    def entered(self) -> Iterator[Self]:
        """Be on this host, with this thread and what it starts."""
        with open("/proc/thread-self/ns/net") as before:
            with open(f"/run/netns/{self.namespace}") as there:
                _setns(there.fileno())
            try:
                yield self
            finally:
                _setns(before.fileno())

    def ip(self, *lines: str) -> None:
        """Run lines of ip(8) commands."""
        script = "\n".join(lines)
        _run("ip", "-n", self.namespace, "-batch", "-", stdin=script)

    def sysctl(self, name: str, value: int) -> None:
        """Set a sysctl of the namespace."""
        with self.entered():
            Path("/proc/sys", *name.split(".")).write_text(str(value))

    def run(self, *command: str, stdin: str = "") -> str:
        """Run a command on this host; return what it printed. Raises AssertionError if it fails."""
        return _run("ip", "netns", "exec", self.namespace, *command, stdin=stdin)

    def start(self, *command: str, **options: object) -> "subprocess.Popen[str]":
        """Start a process on this host. It is killed with the host."""
        with self.entered():
            process = subprocess.Popen(command, text=True, **options)  # type: ignore[call-overload]
        assert isinstance(process, subprocess.Popen)
        self._stack.callback(_end, process)
        return process

    def serve(
        self, protocol: Protocol, address: str, port: int, *, transparent: bool = False
    ) -> "Server":
        """Answer every client with its address, until stopped. transparent: at any address."""
        with self.entered():
            server = Server(protocol, address, port, transparent=transparent)
        self._stack.callback(server.stop)
        return server

    def ask(
        self,
        protocol: Protocol,
        address: str,
        port: int,
        *,
        source: str = "",
        source_port: int = 0,
        patience_s: float = PATIENCE_S,
    ) -> Reply:
        """Be a client: say what came of it. source: the client's address, of this host's."""
        with self.entered():
            sock = new_socket(protocol, address)
        with sock:
            sock.settimeout(patience_s)
            try:
                if source or source_port:
                    sock.bind((source, source_port))
                sock.connect((address, port))
                with contextlib.suppress(
                    PermissionError
                ):  # a firewall of this host; it may say more
                    sock.send(b"who am I?")
                return Reply("answer", sock.recv(200).decode())
            except TimeoutError:
                return Reply("timeout")
            except (ConnectionRefusedError, ConnectionResetError):
                return Reply("refused")
            except OSError:
                return Reply("unreachable")

    def connected(self, protocol: Protocol, address: str, port: int) -> socket.socket:
        """Return a connected socket of this host, for a test that keeps it."""
        with self.entered():
            sock = new_socket(protocol, address)
        sock.settimeout(PATIENCE_S)
        sock.connect((address, port))
        return sock

    def close(self) -> None:
        """Stop its servers and processes, and remove the namespace."""
        self._stack.close()


class Question(NamedTuple):
    """One thing for a client to ask, and how long to wait: QUIET_S where silence is expected."""

    client: Host
    protocol: Protocol
    address: str
    port: int
    patience_s: float = PATIENCE_S


def ask_all(questions: Sequence[Question]) -> list[Reply]:
    """Ask everything at the same time, so that silence costs its time only once."""
    with ThreadPoolExecutor(max_workers=max(len(questions), 1)) as threads:
        return list(
            threads.map(
                lambda q: q.client.ask(q.protocol, q.address, q.port, patience_s=q.patience_s),
                questions,
            )
        )


@dataclasses.dataclass
class Node:
    """A node of the cluster with its pods. pod_networks: their CIDRs, one of each family."""

    host: Host
    pods: list[Host]
    pod_networks: tuple[str, str]


@dataclasses.dataclass
class Cluster:
    """Nodes, and a host outside that routes everything it does not know through the first.

    node, pods: the first node and its pods.
    """

    nodes: list[Node]
    outside: Host

    @property
    def node(self) -> Host:
        """The first node."""
        return self.nodes[0].host

    @property
    def pods(self) -> list[Host]:
        """The pods of the first node."""
        return self.nodes[0].pods


@contextlib.contextmanager
def cluster(wire: Wire = "routed", *, nodes: int = 1, pods: int = 2) -> Iterator[Cluster]:
    """Make a cluster of 1 to 9 nodes with as many pods each, and remove it at the end.

    Node N is 192.168.7.N and fd00:192::N on a switch with the outside (.100, ::100); its pods are
    10.244.N.11 and fd00:244:N::11, and on. Every node routes to the pods of the others. Reverse
    path filtering is strict everywhere, as it is on many distributions. What a node knows no route
    for goes to the outside, which forwards nothing.
    """
    with contextlib.ExitStack() as stack:

        def host(name: str, v4: str = "", v6: str = "") -> Host:
            made = Host(name, v4, v6)
            stack.callback(made.close)
            return made

        switch = host("switch")
        switch.ip("link add switch type bridge", "link set switch up")
        made = []
        for n in range(1, nodes + 1):
            node = host(f"node-{n}", f"192.168.7.{n}", f"fd00:192::{n}")
            _plug(node, switch)
            node.ip("route add default via 192.168.7.100", "route add default via fd00:192::100")
            _forward(node)
            ours = [
                host(f"pod-{n}-{p}", f"10.244.{n}.{p}", f"fd00:244:{n}::{p}")
                for p in range(11, 11 + pods)
            ]
            (_join_routed if wire == "routed" else _join_bridge)(node, n, ours)
            if wire != "routed" and _BRIDGE_NF.exists():
                for family in ("ip", "ip6"):
                    is_on = int(wire == "bridge-nf")
                    node.sysctl(f"net.bridge.bridge-nf-call-{family}tables", is_on)
            made.append(Node(node, ours, (f"10.244.{n}.0/24", f"fd00:244:{n}::/64")))
        _route_to_each_other(made)
        outside = host("outside", "192.168.7.100", "fd00:192::100")
        _plug(outside, switch)
        outside.ip("route add default via 192.168.7.1", "route add default via fd00:192::1")
        yield Cluster(made, outside)


def _plug(host: Host, switch: Host) -> None:
    host.ip(
        f"link add eth0 type veth peer name {host.name} netns {switch.namespace}",
        "link set eth0 up",
        f"address add {host.v4}/24 dev eth0",
        f"address add {host.v6}/64 dev eth0 nodad",
    )
    switch.ip(f"link set {host.name} up master switch")


def _forward(node: Host) -> None:
    node.sysctl("net.ipv4.ip_forward", 1)
    node.sysctl("net.ipv6.conf.all.forwarding", 1)
    node.sysctl("net.ipv4.conf.all.rp_filter", 1)
    node.sysctl("net.ipv4.conf.default.rp_filter", 1)


def _join_routed(node: Host, number: int, pods: list[Host]) -> None:
    gateway = f"10.244.{number}.1"
    node.ip(f"address add {gateway}/32 dev lo")
    for pod in pods:
        pod.ip(
            f"link add eth0 type veth peer name {pod.name} netns {node.namespace}",
            "link set eth0 up",
            f"address add {pod.v4}/32 dev eth0",
            f"address add {pod.v6}/128 dev eth0 nodad",
            f"route add {gateway} dev eth0",
            f"route add default via {gateway}",
        )
        node.ip(
            f"link set {pod.name} up",
            # Neighbour discovery answers only for addresses of the interface that is asked.
            f"address add fe80::1/64 dev {pod.name} nodad",
            f"route add {pod.v4} dev {pod.name} src {node.v4}",
            f"route add {pod.v6} dev {pod.name} src {node.v6}",
        )
        pod.ip("route add default via fe80::1 dev eth0")


def _join_bridge(node: Host, number: int, pods: list[Host]) -> None:
    node.ip(
        "link add cbr0 type bridge",
        "link set cbr0 up",
        f"address add 10.244.{number}.1/24 dev cbr0",
        f"address add fd00:244:{number}::1/64 dev cbr0 nodad",
    )
    for pod in pods:
        pod.ip(
            f"link add eth0 type veth peer name {pod.name} netns {node.namespace}",
            "link set eth0 up",
            f"address add {pod.v4}/24 dev eth0",
            f"address add {pod.v6}/64 dev eth0 nodad",
            f"route add default via 10.244.{number}.1",
            f"route add default via fd00:244:{number}::1",
        )
        # Hairpin: a pod that asks a Service may be sent back to itself through its own port.
        node.ip(
            f"link set {pod.name} up master cbr0",
            f"link set {pod.name} type bridge_slave hairpin on",
        )


def _route_to_each_other(nodes: list[Node]) -> None:
    for here, there in itertools.permutations(nodes, 2):
        here.host.ip(
            f"route add {there.pod_networks[0]} via {there.host.v4}",
            f"route add {there.pod_networks[1]} via {there.host.v6}",
        )


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET):  # os.setns is new in Python 3.12
        raise OSError(ctypes.get_errno(), "setns")


def _run(*command: str, stdin: str = "") -> str:
    done = subprocess.run(command, input=stdin, text=True, capture_output=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}\n{stdin}"
    return done.stdout


def _end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    with process:  # waits, and closes its pipes
        pass
