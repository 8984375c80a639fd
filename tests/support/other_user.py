"""Running pyproxy as a user that is not root, with capabilities of a test's choice."""

import os
import shutil
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pytest

USER = 65534  # nobody
_REPOSITORY = Path(__file__).parents[2]
_PATH = f"PYTHONPATH={sysconfig.get_path('purelib')}:{_REPOSITORY}"
_BITS = {"net_bind_service": 10, "net_admin": 12}


def python() -> str:
    """A Python like this one that everybody may run; the test is skipped where there is none."""
    here = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/{here}", f"/usr/local/bin/{here}"):
        found = [*as_user(()), candidate, "-c", "import pyproxy.app.agent"]
        if subprocess.run(found, capture_output=True, check=False).returncode == 0:
            return candidate
    pytest.skip("no Python that another user may run: this one is in a home directory")


def as_user(capabilities: Sequence[str]) -> list[str]:
    """The beginning of a command: whose, with these ambient capabilities, and no way to more."""
    listed = ",".join(["-all", *(f"+{name}" for name in capabilities)])
    command = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    command += [f"--inh-caps={listed}", f"--ambient-caps={listed}"]
    # Of coverage it could write no data.
    return [*command, "env", "--unset=COVERAGE_PROCESS_CONFIG", _PATH]


def python_with(directory: Path, capabilities: Sequence[str]) -> str:
    """A copy of that Python that has these as file capabilities (capabilities(7))."""
    copy = directory / "python3"
    shutil.copyfile(python(), copy)
    copy.chmod(0o755)
    mask = sum(1 << _BITS[name] for name in capabilities)
    revision_2, effective = 0x02000000, 1  # linux/capability.h, struct vfs_cap_data
    data = struct.pack("<5I", revision_2 | effective, mask, 0, 0, 0)
    os.setxattr(copy, "security.capability", data)
    return str(copy)
