"""Lines into a file or to standard output, by a thread: whoever has lines never waits for a disk.

Lines that cannot be written are dropped and counted; the log tells so once, and again when writing
works. A file that was renamed or removed is opened anew before the next lines are written, so
logrotate(8) needs neither a signal nor copytruncate.
"""

import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

log = logging.getLogger(__name__)

# Of lines that wait for a slow disk or pipe.
_MOST_WAITING_BYTES = 4 << 20
# Who ends the agent does not wait for longer for what is left to be written.
_FAREWELL_S = 1.0
# A disk that is full now and then is told of this often at most.
_TOLD_AGAIN_S = 60.0
_STANDARD_OUTPUT = 1


class Tally(NamedTuple):
    """How many lines were written, and how many could not be."""

    written: int
    lost: int


class LineFile:
    """path: a file, made when it is not there; None: standard output. clock: monotonic.

    `write` is for one thread; the file belongs to the thread in here.
    """

    def __init__(self, path: str | None, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._fd: int | None = None if path is not None else _STANDARD_OUTPUT
        self._is_torn = False  # whether the last line in the file is not whole
        self._is_failing = False
        self._told_s = float("-inf")
        self._changed = threading.Condition()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._is_closing = False
        self._refused = 0
        self._written = 0
        self._lost = 0
        self._thread = threading.Thread(target=self._work, name="access log", daemon=True)

    @property
    def tally(self) -> Tally:
        """What has become of all lines so far, but of those that wait."""
        return Tally(self._written, self._refused + self._lost)

    def start(self) -> None:
        """Open the file and write from now on."""
        self._thread.start()

    def write(self, lines: Sequence[bytes]) -> None:
        """Have whole lines written soon; drop those that there is no room for."""
        with self._changed:
            for line in lines:
                if self._waiting_bytes + len(line) > _MOST_WAITING_BYTES:
                    self._refused += 1
                else:
                    self._waiting.append(line)
                    self._waiting_bytes += len(line)
            self._changed.notify()

    def close(self) -> None:
        """Write what waits, if that can be done soon, and close. May be called twice."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread.is_alive():
            # A pipe that nobody reads keeps the thread; it ends with the process.
            self._thread.join(_FAREWELL_S)

    def _work(self) -> None:
        self._attempt([])  # a path that is wrong is told of now, not with the first fault
        while lines := self._next():
            self._attempt(lines)
        if self._path is not None and self._fd is not None:
            os.close(self._fd)

    def _next(self) -> list[bytes]:
        """Wait for lines; none: it is over."""
        with self._changed:
            while not self._waiting and not self._is_closing:
                self._changed.wait()
            lines, self._waiting, self._waiting_bytes = self._waiting, [], 0
            return lines

    def _attempt(self, lines: list[bytes]) -> None:
        data = memoryview(b"".join(lines))
        start = 0
        try:
            fd = self._open()
            if self._is_torn and lines:
                os.write(fd, b"\n")
                self._is_torn = False
            while start < len(data):
                start += os.write(fd, data[start:])
        except OSError as fault:
            written = bytes(data[:start])
            self._is_torn |= bool(written) and not written.endswith(b"\n")
            whole = written.count(b"\n")
            self._written += whole
            self._lost += len(lines) - whole
            self._tell(fault)
            return
        self._written += len(lines)
        if self._is_failing:
            self._is_failing = False
            log.info("the access log is written again to %s", self._name)

    def _open(self) -> int:
        """Return the descriptor, of a new file where the old one is no longer at the path."""
        if self._path is None:
            return _STANDARD_OUTPUT
        if self._fd is not None and not self._is_moved(self._fd, self._path):
            return self._fd
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
            self._is_torn = False
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o640)
        return self._fd

    @staticmethod
    def _is_moved(fd: int, path: str) -> bool:
        try:
            there = os.stat(path)
        except FileNotFoundError:
            return True
        return not os.path.samestat(there, os.fstat(fd))

    @property
    def _name(self) -> str:
        return "standard output" if self._path is None else self._path

    def _tell(self, fault: OSError) -> None:
        now_s = self._clock()
        if not self._is_failing and now_s - self._told_s >= _TOLD_AGAIN_S:
            self._told_s = now_s
            log.error(
                "write the access log to %s: %s; records are dropped and counted in"
                " pyproxy_access_log_records_total until it can be written",
                self._name,
                fault.strerror,
            )
        self._is_failing = True
