"""Two pods of one node while the DaemonSet is updated: when the new one counts as ready.

Each agent is in a PID namespace of its own, as in a pod; they share the node's network and the
directory of the control socket. The probe runs in its agent's namespace, as the kubelet has it.
"""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.netns.test_deploy_capabilities import PORTS, VIP, lab
from tests.support.manifests import ROOT, config_of, rendered
from tests.support.netns import Cluster, Reply, needs_netns

__all__ = ["lab"]
pytestmark = [needs_netns, pytest.mark.timeout(300)]

PATIENCE_S = 120.0


class Pod:
    """An agent in a PID namespace."""

    def __init__(self, lab: Cluster, directory: Path, name: str) -> None:
        self._socket = directory / "control.sock"
        self._log = directory / f"{name}.log"
        own = directory / name  # an agent whose configuration is written anew ends
        own.mkdir()
        command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command += [sys.executable, "-m", "pyproxy", "run"]
        command += [f"--config={config_of(rendered('base'), own)}", "--workers", "1"]
        command += ["--hostname-override", lab.node.name, "--control-socket", str(self._socket)]
        command += ["--manifests", str(directory / "services.yaml")]
        with self._log.open("w") as log:
            self._outer = lab.node.start(*command, stderr=log, cwd=ROOT)
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children")
        while not children.read_text():
            time.sleep(0.01)
        self._pid = children.read_text().split()[0]

    def probe(self) -> int:
        """The exit status of the startup probe."""
        inside = ["nsenter", "--target", self._pid, "--pid", "--", sys.executable, "-m", "pyproxy"]
        command = [*inside, "status", "--serving", "--control-socket", str(self._socket)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode

    def until_started(self) -> None:
        """Probe until it succeeds."""
        deadline = time.monotonic() + PATIENCE_S
        while self.probe() != 0:
            assert time.monotonic() < deadline, self.log()

    def log(self) -> str:
        return self._log.read_text()


def test_the_new_agent_is_started_only_once_it_has_taken_over(lab: Cluster, tmp_path: Path) -> None:
    old = Pod(lab, tmp_path, "old")
    old.until_started()
    new = Pod(lab, tmp_path, "new")
    new.until_started()  # the first probes meet the old agent, which is well
    assert "took over from an older agent" in new.log()
    assert "taking no new clients, for another agent serves" in old.log()
    assert old.probe() != 0
    client = lab.pods[0]
    for protocol, port in PORTS.items():
        assert client.ask(protocol, VIP, port) == Reply("answer", client.v4)
