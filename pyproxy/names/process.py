"""Which process wrote something, told so that no later one of its number is taken for it."""

import os
import secrets
from pathlib import Path

from pyproxy.core.hosts_block import Author


def this_process() -> Author:
    """Return this process, with the time of its start where the kernel tells it."""
    pid = os.getpid()
    return Author(pid, _start_of(pid) or secrets.token_hex(4))


def is_alive(author: Author) -> bool:
    """Whether the process still runs. One that we may not look into does."""
    try:
        os.kill(author.pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    start = _start_of(author.pid)
    return start is None or start == author.instance


def _start_of(pid: int) -> str | None:
    """The start of a process in clock ticks since boot (proc(5), /proc/PID/stat, field 22)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return text.rpartition(b")")[2].split()[19].decode()  # its name, in (), may have spaces
