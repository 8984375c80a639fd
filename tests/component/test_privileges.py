"""What processes give up, and what is left to the programs that they run: read from /proc."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support import agents

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to have anything to give up")

NET_BIND_SERVICE, NET_ADMIN = 1 << 10, 1 << 12
WORKER = NET_BIND_SERVICE | NET_ADMIN
AGENT = WORKER | 1 << 1  # DAC_OVERRIDE

SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
GIVE_UP = """
import subprocess, sys
from pyproxy.app.privileges import WORKER, keep
keep(WORKER)
print(open("/proc/self/status").read())
print("--")
subprocess.run(["cat", "/proc/self/status"])
"""


def status_of(text: str) -> Mapping[str, int]:
    """The sets of capabilities, and NoNewPrivs."""
    found = re.findall(r"^(Cap\w+|NoNewPrivs):\s*([0-9a-f]+)$", text, re.MULTILINE)
    return {name: int(value, 16) for name, value in found}


@needs_root
def test_what_is_not_kept_is_gone_for_good_here_and_in_programs_that_are_run() -> None:
    done = subprocess.run(
        [sys.executable, "-c", GIVE_UP], capture_output=True, text=True, check=True
    )
    here, child = map(status_of, done.stdout.split("--"))
    assert here == {**dict.fromkeys(SETS, WORKER), "NoNewPrivs": 1}
    assert child == here


@needs_root
def test_what_is_missing_already_is_no_error_and_the_rest_is_passed_on() -> None:
    """As in a container that has no SETPCAP: the bounding set stays, and grants nothing."""
    command = ["setpriv", "--inh-caps", "-all,+net_admin", "--bounding-set", "-all,+net_admin"]
    done = subprocess.run(
        [*command, sys.executable, "-c", GIVE_UP], capture_output=True, text=True, check=True
    )
    here, child = map(status_of, done.stdout.split("--"))
    assert here == {**dict.fromkeys(SETS, NET_ADMIN), "NoNewPrivs": 1}
    assert child == here


@needs_root
def test_the_agent_and_its_workers_keep_what_they_need_and_no_more(tmp_path: Path) -> None:
    agents.write(tmp_path / "web.yaml", *agents.web("127.0.0.1", 0))
    with agents.process("--manifests", str(tmp_path), "--workers", "2") as agent:
        agent.wait_for("listening on")
        pid = agent.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        agents_own = status_of(Path(f"/proc/{pid}/status").read_text())
        workers = [status_of(Path(f"/proc/{child}/status").read_text()) for child in children]
    assert agents_own == {**dict.fromkeys(SETS, AGENT), "NoNewPrivs": 1}
    # A worker has no SETPCAP to lower its bounding set with; no_new_privs makes that one void.
    wanted = {**dict.fromkeys(SETS, WORKER), "CapBnd": AGENT, "NoNewPrivs": 1}
    assert workers == [wanted, wanted]
