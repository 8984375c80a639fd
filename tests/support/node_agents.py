"""`pyproxy run --steer nft` on a host of the test network, as a process with its log in a file."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support import agents
from tests.support.builders import (
    make_endpoint,
    make_node,
    make_port,
    make_service,
    make_service_cidr,
    make_slice,
)
from tests.support.load import Address, Endpoint
from tests.support.netns import Cluster, Host, cluster

PATIENCE_S = 30.0
PORT, POD_PORT, NODE_PORT = 80, 8080, 30001
PLAIN: Address = ("10.96.0.1", PORT)  # TCP and UDP
STICKY: Address = ("10.96.0.2", PORT)  # with session affinity
ENDPOINTS = 3

_CONFIG = """
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clusterCIDR: 10.244.0.0/16
---
apiVersion: pyproxy.io/v1alpha1
kind: PyproxyConfiguration
steer: nft
"""


class NodeAgent:
    """An agent; `directory` holds what it reads, its control socket and its log."""

    def __init__(
        self,
        host: Host,
        directory: Path,
        *arguments: str,
        number: int = 1,
        log: Path | None = None,
    ) -> None:
        self._log = directory / f"agent-{number}.log" if log is None else log
        command = [sys.executable, "-m", "pyproxy", "run", "--workers", "2"]
        command += ["--config", str(directory / "config.yaml")]
        command += ["--manifests", str(directory / "manifests"), "--hostname-override", host.name]
        if "--control-socket" not in arguments:
            command += ["--control-socket", str(directory / "pyproxy.sock")]
        root = Path(__file__).parents[2]
        with self._log.open("w") as written:
            self.process = host.start(*command, *arguments, stderr=written, cwd=root)

    @property
    def log(self) -> str:
        """What it has logged."""
        return self._log.read_text()

    def until(self, text: str, patience_s: float = PATIENCE_S) -> None:
        """Wait until it has logged this."""
        until(lambda: text in self.log, lambda: f"no {text!r} in {self.log}", patience_s)

    def serving(self) -> "NodeAgent":
        """Wait until it serves, and give it back."""
        self.until("listening on")
        return self

    def workers(self) -> list[int]:
        """The process ids of its workers."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in found.split()]

    def terminate(self) -> None:
        """Ask it to stop."""
        self.process.terminate()

    def ended(self) -> int:
        """Wait for its end; return its status."""
        return self.process.wait(timeout=PATIENCE_S)

    def kill(self, pid: int | None = None) -> None:
        """Kill -9 it, or one of its workers."""
        os.kill(pid or self.process.pid, signal.SIGKILL)
        if pid is None:
            self.process.wait()


def until(
    holds: Callable[[], bool], told: Callable[[], str] = str, patience_s: float = PATIENCE_S
) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline, told()
        time.sleep(0.02)


@contextlib.contextmanager
def served(directory: Path) -> Iterator[Cluster]:
    """A node with one client pod and three endpoints, and what an agent there needs."""
    with cluster("routed", pods=1 + ENDPOINTS) as lab, contextlib.ExitStack() as stack:
        for pod, name in zip(lab.pods[1:], "abc", strict=True):
            stack.callback(Endpoint(pod, POD_PORT, name).close)
        (directory / "manifests").mkdir()
        (directory / "config.yaml").write_text(_CONFIG)
        write_services(lab, directory)
        yield lab


def write_services(lab: Cluster, directory: Path, endpoints: int = ENDPOINTS) -> None:
    """Two Services of the same endpoints; one has session affinity and the other a node port."""
    protocols = ("TCP", "UDP")
    documents = [
        make_node(lab.node.name, addresses=[lab.node.v4], pod_cidrs=[lab.nodes[0].pod_networks[0]]),
        make_service_cidr("10.96.0.0/16"),
    ]
    for name, address, more in (
        ("plain", PLAIN[0], {"type": "NodePort"}),
        ("sticky", STICKY[0], {"sessionAffinity": "ClientIP"}),
    ):
        node_port = NODE_PORT if name == "plain" else 0
        ports = [make_port(PORT, p.lower(), p, node_port=node_port) for p in protocols]
        numbers = [{"name": p.lower(), "protocol": p, "port": POD_PORT} for p in protocols]
        ends = [make_endpoint(pod.v4, node=lab.node.name) for pod in lab.pods[1 : 1 + endpoints]]
        documents.append(make_service(name, cluster_ip=address, ports=ports, **more))  # type: ignore[arg-type]
        documents.append(make_slice(*ends, service=name, name=name, ports=numbers))
    agents.write(directory / "manifests" / "all.yaml", *documents)


def add_addresses(host: Host, count: int) -> list[str]:
    """Give the outside host further addresses, and return them: each is another client."""
    added = [f"192.168.7.{number}" for number in range(101, 101 + count)]
    host.ip(*(f"address add {address}/24 dev eth0" for address in added))
    return added
