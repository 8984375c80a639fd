"""Following the configuration file: the agent takes a change of it into use.

kube-proxy ends with an error then (PARITY 20.2), and counts on being started again. A file that
cannot be used would end it for good, so such a one is told of, and what was read before stays in
use. A ConfigMap's file changes by the swap of a symbolic link, which a look at the file sees too.
"""

import asyncio
import logging
import os
from pathlib import Path

from pyproxy.config import parse_config
from pyproxy.errors import ConfigError, PyproxyError

log = logging.getLogger(__name__)

LOOK_INTERVAL_S = 1.0


class Change:
    """A change of the file, if there was one that can be used. seen: set once there was."""

    def __init__(self) -> None:
        self.seen = asyncio.Event()
        self._path = ""

    async def follow(self, path: str, interval_s: float = LOOK_INTERVAL_S) -> None:
        """Look until cancelled. A file that is away, or is just being written, is waited for."""
        known = last = _stamp(path)
        while True:
            await asyncio.sleep(interval_s)
            found, last = last, _stamp(path)
            if last is None or last != found or last == known:
                continue
            known = last
            fault = _fault(path)
            if fault is not None:
                log.error("%s has changed, but %s; what was read before stays in use", path, fault)
            elif not self.seen.is_set():
                log.warning("%s has changed: starting anew with it", path)
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


def _fault(path: str) -> str | None:
    """Why the file cannot be used."""
    try:
        parse_config(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ConfigError) as fault:
        return str(fault)
    return None
