"""Following the configuration file: when it changes, the process ends to be started again with it.

kube-proxy does so (PARITY 20.2), and a supervisor starts both. A ConfigMap's file changes by the
swap of a symbolic link, which a look at the file itself sees too.
"""

import asyncio
import os

from pyproxy.errors import PyproxyError

LOOK_INTERVAL_S = 1.0


async def follow(path: str, interval_s: float = LOOK_INTERVAL_S) -> None:
    """Wait for a change of the file; then raise PyproxyError. A file that is away is waited for."""
    known = _stamp(path)
    while True:
        await asyncio.sleep(interval_s)
        found = _stamp(path)
        if found is not None and found != known:
            raise PyproxyError(f"{path} has changed: ending, to be started again with it")


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino)
