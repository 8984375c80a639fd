"""Lines into files that are renamed, removed, full, or read by nobody."""

import logging
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyproxy.ops import line_file
from pyproxy.ops.line_file import LineFile

LINES = [b"one\n", b"two\n"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


@pytest.fixture
def file(path: Path) -> Iterator[LineFile]:
    made = LineFile(str(path), time.monotonic)
    made.start()
    yield made
    made.close()


# Where the disk of `nearly_full` begins to end: no other file of this process, as the one that the
# tests' output goes to, is so long.
HOLE = 1 << 32


@pytest.fixture
def nearly_full() -> Iterator[Callable[[int], None]]:
    """Let so many bytes be written behind the hole: then writing fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda most: resource.setrlimit(resource.RLIMIT_FSIZE, (HOLE + most, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


def behind_the_hole(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(HOLE)
        return file.read()


def until(holds: Callable[[], bool]) -> None:
    while not holds():  # a thread's work has no event; ended by the test's time-out only
        time.sleep(0.002)


def test_lines_are_appended_to_what_is_there(file: LineFile, path: Path) -> None:
    until(path.exists)
    path.write_bytes(b"zero\n")
    file.write(LINES)
    until(lambda: file.tally == (2, 0))
    assert path.read_bytes() == b"zero\none\ntwo\n"


def test_what_waits_at_the_end_is_written(path: Path) -> None:
    file = LineFile(str(path), time.monotonic)
    file.start()
    file.write(LINES * 1000)
    file.close()
    assert path.read_bytes() == b"one\ntwo\n" * 1000


@pytest.mark.parametrize("is_removed", [False, True])
def test_a_file_that_was_renamed_or_removed_is_made_anew(
    file: LineFile, path: Path, *, is_removed: bool
) -> None:
    file.write(LINES)
    until(lambda: file.tally.written == 2)
    old = path.rename(path.with_suffix(".1"))
    if is_removed:
        old.unlink()
    file.write([b"three\n"])
    until(lambda: file.tally.written == 3)
    assert path.read_bytes() == b"three\n"
    assert is_removed or old.read_bytes() == b"one\ntwo\n"


def test_a_directory_that_is_missing_is_told_at_once_and_used_when_it_is_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "later" / "access.log"
    file = LineFile(str(path), time.monotonic)
    file.start()
    until(lambda: f"write the access log to {path}: No such file or directory" in caplog.text)
    file.write(LINES)
    until(lambda: file.tally == (0, 2))
    path.parent.mkdir()
    file.write([b"three\n"])
    until(lambda: file.tally == (1, 2))
    file.close()
    assert path.read_bytes() == b"three\n"
    assert [r.levelname for r in caplog.records] == ["ERROR", "INFO"]


def test_a_full_disk_loses_lines_that_are_counted_and_tears_none(
    path: Path,
    file: LineFile,
    nearly_full: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    until(path.exists)
    os.truncate(path, HOLE)
    nearly_full(10)
    for expected in (3, 6):
        file.write([b"one\n", b"two\n", b"three\n"])
        until(lambda expected=expected: sum(file.tally) == expected)  # type: ignore[misc]
    assert file.tally == (2, 4)
    assert behind_the_hole(path) == b"one\ntwo\nth"
    nearly_full(1000)
    file.write([b"four\n"])
    until(lambda: file.tally == (3, 4))
    assert behind_the_hole(path) == b"one\ntwo\nth\nfour\n"
    assert [r.levelname for r in caplog.records if "access log" in r.message].count("ERROR") == 1


def test_a_pipe_that_nobody_reads_holds_up_nobody(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_file, "_FAREWELL_S", 0.01)
    os.mkfifo(path)
    file = LineFile(str(path), time.monotonic)
    file.start()  # waits for who reads
    line = b"x" * 1023 + b"\n"
    for _ in range(10):
        file.write([line] * 1000)
    assert file.tally.lost == 10_000 - line_file._MOST_WAITING_BYTES // 1024
    file.close()
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # lets the thread go on, and end
    os.close(reader)
    file._thread.join()


def test_standard_output_is_written_where_no_path_is_given(
    capfd: pytest.CaptureFixture[str],
) -> None:
    file = LineFile(None, time.monotonic)
    file.start()
    file.write(LINES)
    file.close()
    assert capfd.readouterr().out == "one\ntwo\n"
