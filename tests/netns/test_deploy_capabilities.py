"""The DaemonSet's capabilities are enough for the agent, and none of them can be left out.

The agent runs as the pod has it: root without any other capability or new privileges, and with the
configuration of deploy/base. Only the Services come from a file.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.model.service import Protocol
from tests.support import agents
from tests.support.builders import make_node, make_port, make_service, make_slice
from tests.support.manifests import ROOT, config_of, of_kind, rendered
from tests.support.netns import Cluster, Reply, cluster, needs_netns

pytestmark = needs_netns

VIP, POD_PORT = "10.96.0.1", 8080
# One below 1024, as DNS and HTTP have.
PORTS: dict[Protocol, int] = {"TCP": 80, "UDP": 53}


def granted() -> list[str]:
    """The capabilities of the DaemonSet."""
    pod = of_kind(rendered("base"), "DaemonSet")["spec"]["template"]["spec"]
    added: list[str] = pod["containers"][0]["securityContext"]["capabilities"]["add"]
    return [name.lower() for name in added]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Cluster]:
    with cluster(nodes=1) as made:
        node, pod = made.node, made.pods[1]
        ports = [make_port(number, name.lower(), name) for name, number in PORTS.items()]
        numbers = [{"name": p.lower(), "protocol": p, "port": POD_PORT} for p in PORTS]
        agents.write(
            tmp_path / "services.yaml",
            make_node(node.name, addresses=[node.v4], pod_cidrs=[made.nodes[0].pod_networks[0]]),
            make_service(cluster_ip=VIP, ports=ports),
            make_slice(pod.v4, ports=numbers),
        )
        for protocol in PORTS:
            pod.serve(protocol, pod.v4, POD_PORT)
        yield made


def start(lab: Cluster, directory: Path, capabilities: list[str]) -> "subprocess.Popen[str]":
    """Start the agent on the node with these capabilities and no others."""
    only = ",".join(["-all", *(f"+{name}" for name in capabilities)])
    confined = ["setpriv", "--no-new-privs", "--inh-caps=-all", f"--bounding-set={only}"]
    (directory / "config").mkdir()
    config = config_of(rendered("base"), directory / "config")
    command = [sys.executable, "-m", "pyproxy", "run", f"--config={config}"]
    command += ["--hostname-override", lab.node.name, "--control-socket", "", "--workers", "2"]
    command += ["--manifests", str(directory / "services.yaml")]
    return lab.node.start(*confined, *command, stderr=subprocess.PIPE, cwd=ROOT)


def log_until(process: "subprocess.Popen[str]", words: str) -> str:
    """Read the log until a line has these words, or to its end."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if words in line:
            break
    return "".join(lines)


def test_the_granted_capabilities_are_enough(lab: Cluster, tmp_path: Path) -> None:
    process = start(lab, tmp_path, granted())
    assert "listening on 2 addresses" in log_until(process, "listening on")
    client = lab.pods[0]
    for protocol, port in PORTS.items():
        # The client's own address: the worker connects from an address that the node has not.
        assert client.ask(protocol, VIP, port) == Reply("answer", client.v4)
        assert lab.node.ask(protocol, VIP, port).outcome == "answer"


def test_without_net_admin_it_says_what_is_missing(lab: Cluster, tmp_path: Path) -> None:
    process = start(lab, tmp_path, [name for name in granted() if name != "net_admin"])
    assert "steering needs CAP_NET_ADMIN" in log_until(process, "NET_ADMIN")
    assert process.wait(timeout=30) == 1


def test_without_net_bind_service_ports_below_1024_cannot_be_served(
    lab: Cluster, tmp_path: Path
) -> None:
    process = start(lab, tmp_path, [name for name in granted() if name != "net_bind_service"])
    told = log_until(process, "cannot listen on")
    assert "which takes the capability NET_BIND_SERVICE" in told


def test_no_other_capability_is_granted() -> None:
    assert sorted(granted()) == ["net_admin", "net_bind_service"]
