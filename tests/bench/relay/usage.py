"""What processes have used: CPU time and memory, over a process and all that it started."""

import os
from pathlib import Path

_PROC = Path("/proc")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def family(root: int) -> list[int]:
    """The process and its descendants."""
    parents: dict[int, int] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                # After the command's name, which may hold anything: state, parent, ... (proc(5)).
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended
            parents[int(entry.name)] = int(fields[1])
    found = [root]
    for pid in found:  # grows while it is walked through
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def cpu_s(root: int) -> float:
    """User and system time of all their threads, so far.

    From schedstat, in nanoseconds: /proc/PID/stat counts in 10 ms, 2 % of half a busy second.
    """
    tasks = (task for pid in family(root) for task in (_PROC / str(pid) / "task").iterdir())
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def resident_bytes(root: int) -> int:
    """Resident memory; what they share is counted for each, which a difference takes out again."""
    pages = (int((_PROC / str(pid) / "statm").read_text().split()[1]) for pid in family(root))
    return sum(pages) * _PAGE_BYTES
