"""Following the configuration file: when it changes, the agent drains and ends with an error.

kube-proxy does so (PARITY 20.2), and a supervisor starts both. A ConfigMap's file changes by the
swap of a symbolic link, which a look at the file itself sees too.
"""

import asyncio
import logging
import os

from pyproxy.errors import PyproxyError

log = logging.getLogger(__name__)

LOOK_INTERVAL_S = 1.0


class Change:
    """A change of the file, if there was one. seen: set once there was."""

    def __init__(self) -> None:
        self.seen = asyncio.Event()
        self._path = ""

    async def follow(self, path: str, interval_s: float = LOOK_INTERVAL_S) -> None:
        """Look until cancelled. A file that is away is waited for."""
        known = _stamp(path)
        while True:
            await asyncio.sleep(interval_s)
            found = _stamp(path)
            if found is not None and found != known and not self.seen.is_set():
                log.warning("%s has changed: draining, to be started again with it", path)
                self._path = path
                self.seen.set()

    def check(self) -> None:
        """Raise PyproxyError if there was one: the process shall not end as if it were asked to."""
        if self.seen.is_set():
            raise PyproxyError(f"{self._path} has changed: ending, to be started again with it")


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino)
