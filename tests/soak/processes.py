"""What a process holds, as /proc tells it."""

import contextlib
import os
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

_PAGE_BYTES = os.sysconf("SC_PAGESIZE")


class Holdings(NamedTuple):
    """files: open descriptors by kind: socket, pipe, eventpoll and so on."""

    files: Counter[str]
    rss_bytes: int
    threads: int


def holdings(pid: int) -> Holdings | None:
    """What a process holds now; None when it has ended."""
    files: Counter[str] = Counter()
    directory = Path(f"/proc/{pid}")
    try:
        for entry in (directory / "fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                files[_kind(entry.readlink())] += 1
        rss_bytes = int((directory / "statm").read_text().split()[1]) * _PAGE_BYTES
        threads = len(list((directory / "task").iterdir()))
    except OSError:
        return None
    return Holdings(files, rss_bytes, threads)


def _kind(target: Path) -> str:
    """`socket:[123]` is a socket, `anon_inode:[eventpoll]` an eventpoll, `/dev/null` a file."""
    text = str(target)
    found = re.fullmatch(r"anon_inode:\[?(\w+)\]?|(\w+):\[\d+\]", text)
    return (found[1] or found[2]) if found else "file"


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for yet does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"
