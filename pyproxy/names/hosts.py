"""Our block in this machine's hosts file: kept as it should be, and gone when we are.

Any number of pyproxy may use one file: each reads, changes and writes it under a lock, and keeps to
its own block. Blocks of processes that are dead go at the next write of anybody. What is a block,
and that no other line changes, is `core.hosts_block`'s.
"""

import contextlib
import errno
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pyproxy.core.hosts_block import Author, authors_of, put, take_out
from pyproxy.errors import PyproxyError
from pyproxy.names import replacement
from pyproxy.names.process import is_alive, this_process

log = logging.getLogger(__name__)

# A write takes milliseconds; who waits for so long waits for somebody who hangs.
_LOCK_TIMEOUT_S = 10.0
_LOCK_POLL_S = 0.02


class HostsFile:
    """One block in a hosts file. Each call waits for the disk, and for others who write it."""

    def __init__(
        self,
        path: Path,
        author: Author | None = None,
        *,
        lock_timeout_s: float = _LOCK_TIMEOUT_S,
    ) -> None:
        self._path = path
        self._author = author or this_process()
        self._lock_timeout_s = lock_timeout_s
        self._is_backed_up = False
        self._is_made = False

    def publish(self, entries: Iterable[str]) -> None:
        """Make these lines the block. Raises PyproxyError that says what to do."""
        lines = tuple(entries)
        self._edit(lambda content: put(content, self._author, lines))

    def remove(self) -> None:
        """Take the block out, and the backup where no pyproxy is left. Raises PyproxyError."""
        self._edit(lambda content: take_out(content, {self._author}))

    def _edit(self, change: Callable[[bytes], bytes]) -> None:
        with _edited(self._path, self._lock_timeout_s):
            before = _read(self._path)
            after = change(take_out(before or b"", _dead(before or b"")))
            if after != (before or b""):
                self._is_made |= before is None
                self._back_up(before)
                replacement.write(self._path, after)
            if not authors_of(after):
                _drop_backup(self._path)
                if self._is_made and not after:
                    self._path.unlink(missing_ok=True)

    def _back_up(self, before: bytes | None) -> None:
        """Keep the file as it is without any pyproxy, once a run, for people to go back to."""
        if self._is_backed_up or before is None:
            return
        self._is_backed_up = True
        try:
            replacement.write(_backup_of(self._path), take_out(before, authors_of(before)))
        except OSError as fault:
            log.warning("%s: no backup: %s", _backup_of(self._path), fault.strerror)


def cleanup_hosts(path: Path) -> set[Author]:
    """Take out the blocks of pyproxies that are dead, and the backup where no other is left.

    Return the authors of the blocks that stay: they are running. Raises PyproxyError.
    """
    with _edited(path, _LOCK_TIMEOUT_S):
        before = _read(path)
        if before is None:
            return set()
        after = take_out(before, _dead(before))
        if after != before:
            replacement.write(path, after)
        alive = authors_of(after)
        if not alive:
            _drop_backup(path)
        return alive


def _dead(content: bytes) -> set[Author]:
    return {author for author in authors_of(content) if not is_alive(author)}


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _backup_of(path: Path) -> Path:
    """Beside the file itself, where that is behind a symbolic link."""
    target = path.resolve()
    return target.with_name(f"{target.name}.pyproxy-backup")


def _drop_backup(path: Path) -> None:
    with contextlib.suppress(OSError):  # where none could be made, none can be removed
        _backup_of(path).unlink()


@contextlib.contextmanager
def _edited(path: Path, timeout_s: float) -> Iterator[None]:
    """Hold the lock, and translate errors.

    The lock is on the directory: the file itself is replaced by a new one, and a lock file would
    have to stay for ever, because whoever removes it may pull it away under somebody who waits.
    """
    try:
        descriptor = os.open(path.resolve().parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _lock(descriptor, timeout_s)
            yield
        finally:
            os.close(descriptor)
    except OSError as fault:
        raise PyproxyError(
            f"{path}: {os.strerror(fault.errno or 0)}: the names cannot be written there; run"
            " pyproxy with sudo, or give it another file with --hosts-path"
        ) from fault


def _lock(descriptor: int, timeout_s: float) -> None:
    """Lock, or raise OSError after a while. flock(2) knows no time-out, so it is asked again."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise OSError(errno.ETIMEDOUT, "locked by another process") from None
            time.sleep(_LOCK_POLL_S)
        else:
            return
