"""Steering without root: with capabilities of the process, or of the program's file."""

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pyproxy.model.addresses import FAMILIES
from tests.netns.test_agent_steered import CONFIG, POD_PORT, PROTOCOLS, address_of, dual
from tests.support import agents
from tests.support.builders import make_node
from tests.support.netns import Cluster, Host, cluster, needs_netns
from tests.support.other_user import USER, as_user, python, python_with

pytestmark = needs_netns

NEEDED = ("net_admin", "net_bind_service")


@pytest.fixture
def directory() -> Iterator[Path]:
    """Of that user, where it may go: pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(prefix="pyproxy-") as name:
        Path(name).chmod(0o755)
        os.chown(name, USER, USER)
        yield Path(name)


@pytest.fixture
def lab(directory: Path) -> Iterator[Cluster]:
    """A Service of both families whose endpoint is the second pod."""
    with cluster("routed") as made:
        other = made.pods[1]
        for family in FAMILIES:
            for protocol in PROTOCOLS:
                other.serve(protocol, other.address(family), POD_PORT)
        (directory / "config.yaml").write_text(CONFIG)
        (directory / "manifests").mkdir()
        networks = list(made.nodes[0].pod_networks)
        addresses = [made.node.v4, made.node.v6]
        node = make_node(made.node.name, addresses=addresses, pod_cidrs=networks)
        agents.write(directory / "manifests" / "all.yaml", node, *dual(made, 1, other))
        yield made


def run(host: Host, directory: Path, command: Sequence[str]) -> list[str]:
    """Start it with two workers; return its log until it listens."""
    arguments = ["-m", "pyproxy", "run", "--config", f"{directory}/config.yaml", "--workers", "2"]
    arguments += ["--manifests", f"{directory}/manifests", "--hostname-override", host.name]
    arguments += ["--control-socket", f"{directory}/control.sock"]
    process = host.start(*command, *arguments, stderr=subprocess.PIPE, cwd=directory)
    assert process.stderr is not None
    log = []
    for line in process.stderr:
        log.append(line)
        if "listening on" in line:
            return log
    raise AssertionError("".join(["pyproxy has ended\n", *log]))


@pytest.mark.parametrize("kind", ["ambient", "file"])
def test_with_two_capabilities_another_user_does_all_that_root_does(
    lab: Cluster, directory: Path, kind: str
) -> None:
    if kind == "ambient":
        command = [*as_user(NEEDED), python()]
    else:
        command = [*as_user(()), python_with(directory, NEEDED)]
    log = run(lab.node, directory, command)
    assert not [line for line in log if "WARNING" in line or "ERROR" in line]
    pod = lab.pods[0]
    for family in FAMILIES:
        for protocol in PROTOCOLS:
            reply = pod.ask(protocol, *address_of(1, "cluster", family, lab))
            assert reply.text == pod.address(family)
    ask = [*as_user(()), python(), "-m", "pyproxy", "status"]
    answer = lab.node.run(*ask, "--control-socket", f"{directory}/control.sock")
    assert "2 serve" in answer


def test_without_the_capability_for_low_ports_one_line_says_so(
    lab: Cluster, directory: Path
) -> None:
    log = run(lab.node, directory, [*as_user(["net_admin"]), python()])
    (warning,) = [line for line in log if "WARNING" in line]
    assert "takes the capability NET_BIND_SERVICE" in warning
    # What is on a high port works, and low ones are refused, not left hanging.
    pod = lab.pods[0]
    assert pod.ask("TCP", *address_of(1, "node", "IPv4", lab)).outcome == "answer"
    assert pod.ask("TCP", *address_of(1, "cluster", "IPv4", lab)).outcome == "refused"
