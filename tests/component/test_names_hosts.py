"""The hosts file as a file: locks, modes, mounts, and other processes. Never this machine's own."""

import contextlib
import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.core.hosts_block import Author, put
from pyproxy.errors import PyproxyError
from pyproxy.names.hosts import HostsFile, cleanup_hosts
from pyproxy.names.process import is_alive, this_process

ORIGINAL = b"127.0.0.1 localhost\r\n# \xe9t\xe9\n\n10.0.0.1 mine"
ENTRIES = ("127.5.6.7 web web.shop",)
DEAD = Author(2**22 + 1, "1")  # beyond the greatest pid_max (proc(5))
INIT = Author(1, "0")  # runs, but did not start at boot's first tick

# Publishes and removes in turn, as many pyproxies that come and go.
WRITER = """
import sys, pathlib
from pyproxy.names.hosts import HostsFile
path, number, rounds = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
hosts = HostsFile(path)
for round in range(rounds):
    entry = f"127.9.{number}.{round + 1} svc-{number}-{round}"
    hosts.publish([entry])
    assert path.read_text("latin-1").count(f" svc-{number}-") == 1
    if round % 3 == 2:
        hosts.remove()
if number != "0":
    hosts.remove()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "hosts"
    found.write_bytes(ORIGINAL)
    return found


def others(path: Path) -> list[str]:
    """What is beside the file."""
    return sorted(entry.name for entry in path.parent.iterdir() if entry != path)


def run(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def test_the_file_is_after_a_run_what_it_was_before(path: Path) -> None:
    file = HostsFile(path)
    file.publish(ENTRIES)
    assert b"127.5.6.7 web web.shop # pyproxy local " in path.read_bytes()
    assert others(path) == ["hosts.pyproxy-backup"]
    assert (path.parent / "hosts.pyproxy-backup").read_bytes() == ORIGINAL
    file.publish(("127.5.6.8 db",))
    assert b"web" not in path.read_bytes()
    file.remove()
    assert path.read_bytes() == ORIGINAL
    assert others(path) == []


def test_mode_owner_and_extended_attributes_are_kept(path: Path) -> None:
    path.chmod(0o640)
    with contextlib.suppress(OSError):  # not every file system has them
        os.setxattr(path, "user.note", b"mine")
    if os.geteuid() == 0:
        os.chown(path, 1234, 1235)
    before, names = path.stat(), os.listxattr(path)
    HostsFile(path).publish(ENTRIES)
    after = path.stat()
    assert after.st_ino != before.st_ino
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
    )
    assert os.listxattr(path) == names


def test_a_file_that_needs_no_change_is_not_written(path: Path) -> None:
    file = HostsFile(path)
    file.publish(ENTRIES)
    before = path.stat()
    file.publish(ENTRIES)
    assert path.stat() == before


def test_a_file_that_is_not_there_is_made_and_removed(tmp_path: Path) -> None:
    file = HostsFile(tmp_path / "made")
    file.publish(ENTRIES)
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o644
    assert others(tmp_path / "made") == []
    file.remove()
    assert others(tmp_path / "made") == []
    assert not (tmp_path / "made").exists()


def test_a_symbolic_link_stays_one_and_the_other_names_of_a_file_see_the_change(
    path: Path,
) -> None:
    link, twin = path.with_name("link"), path.with_name("twin")
    link.symlink_to(path.name)
    twin.hardlink_to(path)
    HostsFile(link).publish(ENTRIES)
    assert link.is_symlink()
    assert b"web.shop" in path.read_bytes()
    assert twin.read_bytes() == path.read_bytes()


def test_blocks_of_dead_processes_go_and_those_of_others_stay(path: Path) -> None:
    alive = this_process()._replace(pid=os.getppid(), instance=_instance_of(os.getppid()))
    for author in (DEAD, INIT, alive):
        path.write_bytes(put(path.read_bytes(), author, (f"127.1.1.1 of-{author.instance}",)))
    file = HostsFile(path)
    file.publish(ENTRIES)
    content = path.read_bytes()
    assert str(DEAD).encode() not in content
    assert str(INIT).encode() not in content
    file.remove()
    assert path.read_bytes() == put(ORIGINAL, alive, (f"127.1.1.1 of-{alive.instance}",))
    # Somebody may still want to go back.
    assert (path.parent / "hosts.pyproxy-backup").read_bytes() == ORIGINAL


def _instance_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def test_cleanup_takes_out_what_a_killed_process_left(path: Path) -> None:
    program = "import sys, os, pathlib; from pyproxy.names.hosts import HostsFile\n"
    program += "HostsFile(pathlib.Path(sys.argv[1])).publish(['127.5.6.7 web']); os._exit(9)"
    assert run(sys.executable, "-c", program, str(path)).returncode == 9
    assert b"127.5.6.7 web" in path.read_bytes()
    assert cleanup_hosts(path) == set()
    assert path.read_bytes() == ORIGINAL
    assert others(path) == []


def test_cleanup_leaves_who_is_running_and_says_so(path: Path) -> None:
    HostsFile(path).publish(ENTRIES)
    before = path.read_bytes()
    assert cleanup_hosts(path) == {this_process()}
    assert path.read_bytes() == before
    assert others(path) == ["hosts.pyproxy-backup"]


def test_cleanup_of_no_file_makes_none(tmp_path: Path) -> None:
    assert cleanup_hosts(tmp_path / "hosts") == set()
    assert not (tmp_path / "hosts").exists()


def test_processes_that_write_at_once_lose_nothing(path: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(number), "13"], stderr=subprocess.PIPE
        )
        for number in range(4)
    ]
    for writer in writers:
        _, errors = writer.communicate(timeout=60)
        assert writer.returncode == 0, errors.decode()
    # Writer 0 left its block behind; who wrote after it took that out too.
    assert cleanup_hosts(path) == set()
    assert path.read_bytes() == ORIGINAL
    assert others(path) == []


def test_who_waits_too_long_for_the_lock_is_told(path: Path) -> None:
    descriptor = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(PyproxyError, match="timed out"):
            HostsFile(path, lock_timeout_s=0.1).publish(ENTRIES)
    finally:
        os.close(descriptor)
    assert path.read_bytes() == ORIGINAL


@contextlib.contextmanager
def as_nobody(directory: Path) -> Iterator[None]:
    """Without the rights of root, which no mode keeps out."""
    if os.geteuid() != 0:
        yield
        return
    os.chown(directory, 65534, 65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public() -> Iterator[Path]:
    """A hosts file where everybody can come: pytest's own directories are private."""
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        directory.chmod(0o755)
        (directory / "hosts").write_bytes(ORIGINAL)
        yield directory / "hosts"


def test_a_file_that_may_not_be_written_is_one_line_with_what_to_do(public: Path) -> None:
    public.chmod(0o444)
    with as_nobody(public.parent):
        public.parent.chmod(0o555)
        with pytest.raises(PyproxyError) as caught:
            HostsFile(public).publish(ENTRIES)
        public.parent.chmod(0o755)
    assert str(caught.value) == (
        f"{public}: Permission denied: the names cannot be written there; run pyproxy with sudo,"
        " or give it another file with --hosts-path"
    )
    assert public.read_bytes() == ORIGINAL


def test_a_file_of_ours_in_a_directory_of_others_is_written_in_place_without_a_backup(
    public: Path, caplog: pytest.LogCaptureFixture
) -> None:
    public.chmod(0o666)
    inode = public.stat().st_ino
    with as_nobody(public.parent):
        public.parent.chmod(0o555)
        file = HostsFile(public)
        file.publish(ENTRIES)
        assert b"web.shop" in public.read_bytes()
        file.remove()
        public.parent.chmod(0o755)
    assert public.read_bytes() == ORIGINAL
    assert public.stat().st_ino == inode
    assert "hosts.pyproxy-backup: no backup: Permission denied" in caplog.text


def in_own_mounts(script: str, path: Path) -> "subprocess.CompletedProcess[str]":
    """Run a shell script in a mount namespace of its own, with $PYTHON and the path as $1."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount")
    if run("unshare", "--mount", "mount", "-t", "tmpfs", "none", str(path.parent)).returncode:
        pytest.skip("this kernel or sandbox makes no mounts")
    return run("unshare", "--mount", "sh", "-euc", script, sys.executable, str(path))


PUBLISH = """
"$0" -c '
import sys, pathlib
from pyproxy.names.hosts import HostsFile
path = pathlib.Path(sys.argv[1])
file = HostsFile(path)
file.publish(["127.5.6.7 web web.shop"])
sys.stdout.write(path.read_text("latin-1"))
file.remove()
' "$1"
"""


def test_a_file_that_is_a_mount_of_its_own_is_written_in_place(path: Path) -> None:
    source = path.with_name("source")
    source.write_bytes(ORIGINAL)
    inode = source.stat().st_ino
    done = in_own_mounts(f'mount --bind "{source}" "$1"; {PUBLISH}', path)
    assert done.returncode == 0, done.stderr
    assert "127.5.6.7 web web.shop # pyproxy local" in done.stdout
    assert source.read_bytes() == path.read_bytes() == ORIGINAL
    assert source.stat().st_ino == inode
    assert others(path) == ["source"]


def test_a_file_system_that_is_read_only_is_told(path: Path) -> None:
    directory = path.parent
    script = f'mount --bind "{directory}" "{directory}"; mount -o remount,bind,ro "{directory}"'
    done = in_own_mounts(f"{script}; {PUBLISH}", path)
    assert done.returncode == 1
    assert f"{path}: Read-only file system: the names cannot be written there" in done.stderr
    assert path.read_bytes() == ORIGINAL


def test_on_a_full_disk_the_file_stays_as_it_is(path: Path) -> None:
    """In place, a part of it would be lost."""
    script = """
    mount -t tmpfs -o size=4k none "$(dirname "$1")"; printf 'mine\\n' > "$1"; cd /
    """
    done = in_own_mounts(f'{script} {PUBLISH.strip()} || cat "$1"', path)
    assert done.stdout == "mine\n"
    assert "No space left on device" in done.stderr


def test_a_process_is_known_by_its_number_and_its_start() -> None:
    me = this_process()
    assert is_alive(me)
    assert not is_alive(me._replace(instance="1"))
    assert not is_alive(DEAD)
    assert not is_alive(Author(2**40, "1"))
