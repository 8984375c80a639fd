"""Writing a file as a whole: readers see it as it was, or as it shall be.

A new file is renamed over the old one, with its mode, owner and extended attributes (SELinux's
label is one). Where that cannot be done, the old one is written in place: a file that is mounted by
itself, as a container's /etc/hosts is, cannot be renamed over (rename(2), EBUSY), and in a
directory that is not ours nothing can be made.
"""

import contextlib
import errno
import os
import stat
import tempfile
from pathlib import Path

# Why a file cannot be put in another one's place, although that one may be writable.
_NOT_REPLACEABLE = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EBUSY,
    errno.EXDEV,
    errno.ENOTSUP,
}


def write(path: Path, content: bytes) -> None:
    """Write a file, through symbolic links. A new one gets mode 0644. Raises OSError."""
    target = path.resolve()
    try:
        before = target.stat()
    except FileNotFoundError:
        _replace(target, content, None)
        return
    if before.st_nlink > 1:  # the other names of the file would keep the old content
        _write_in_place(target, content)
        return
    try:
        _replace(target, content, before)
    except OSError as fault:
        if fault.errno not in _NOT_REPLACEABLE:
            raise
        _write_in_place(target, content)


def _replace(target: Path, content: bytes, before: os.stat_result | None) -> None:
    descriptor, made = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            _take_over(target, before, descriptor)
            file.flush()
            os.fsync(descriptor)
        os.rename(made, target)
    except OSError:
        Path(made).unlink()
        raise
    _sync_directory(target.parent)


def _take_over(target: Path, before: os.stat_result | None, descriptor: int) -> None:
    """Give the new file what the old one has. Raises OSError where we may not."""
    if before is None:
        os.fchmod(descriptor, 0o644)
        return
    now = os.fstat(descriptor)
    if (now.st_uid, now.st_gid) != (before.st_uid, before.st_gid):
        os.fchown(descriptor, before.st_uid, before.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
    if hasattr(os, "listxattr"):  # Linux
        for name in os.listxattr(target):
            os.setxattr(descriptor, name, os.getxattr(target, name))


def _sync_directory(directory: Path) -> None:
    """Make the rename last (fsync(2), NOTES); some file systems sync no directories."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_in_place(target: Path, content: bytes) -> None:
    """Never cut the file before the new content is in it: what they share is never missing."""
    with target.open("r+b") as file:
        file.write(content)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
