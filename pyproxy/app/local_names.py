"""What gives the local Services their names: the hosts file, the DNS server, the env file.

Each follows the state of `pyproxy local`, and takes back at the end what it has done.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pyproxy.core.dns_zone import zone_of
from pyproxy.core.env_file import environment_of
from pyproxy.core.hosts_block import entries_of
from pyproxy.core.local_names import Names, Scope, names_of
from pyproxy.core.local_service import Claimant
from pyproxy.core.loopback import Placements
from pyproxy.errors import PyproxyError
from pyproxy.names import replacement
from pyproxy.names.dns import DnsServer
from pyproxy.names.hosts import HostsFile

if TYPE_CHECKING:
    from pyproxy.app.local import State

log = logging.getLogger(__name__)

# By it we know our own file: nobody's .env is overwritten, and none but ours is removed.
_ENV_HEADER = b"# Written by pyproxy local, which removes it when it ends.\n"


_Causes = tuple[Placements, list[tuple[Claimant, str]]]
_Write = Callable[[], None]


def _names(state: "State", scope: Scope) -> Names:
    claimants = {local.claimant for local in state.services} | state.placements.keys()
    return names_of(claimants, scope)


def _causes(state: "State") -> _Causes:
    """What names follow from. Endpoints, which change most often, are not among it."""
    return state.placements, [(s.claimant, s.service.external_name) for s in state.services]


class _InOrder:
    """Runs what waits for the disk in a thread, one after the other.

    A thread cannot be stopped: whoever is cancelled while it writes leaves it writing. What is run
    next, which may be to take everything back, has to come after that.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)

    async def run(self, function: Callable[[], None]) -> None:
        """Run it once all before it is done. Raises what it raises."""
        await asyncio.get_running_loop().run_in_executor(self._thread, function)

    def close(self) -> None:
        """Run nothing more."""
        self._thread.shutdown(wait=False)


class FileFollower:
    """Keeps a file in step with the state; takes back at the end what it has written.

    prepare: makes from a state what there is to warn of, and what writes the file. remove: takes it
    back. Both write in a thread, and raise PyproxyError.
    """

    def __init__(
        self, prepare: Callable[["State"], tuple[list[str], _Write]], remove: _Write
    ) -> None:
        self._prepare = prepare
        self._remove = remove
        self._disk = _InOrder()
        self._done: _Causes | None = None
        self._is_touched = False
        self._told: set[str] = set()

    async def follow(self, state: "State") -> None:
        """Write the file, where it may be another one than before. Raises PyproxyError."""
        causes = _causes(state)
        if causes == self._done:
            return
        warnings, write = self._prepare(state)
        for warning in warnings:
            if warning not in self._told:
                self._told.add(warning)
                log.warning("%s", warning)
        self._is_touched = True
        await self._disk.run(write)
        self._done = causes

    async def close(self) -> None:
        """Take it back. Raises PyproxyError."""
        if self._is_touched:
            await self._disk.run(self._remove)
        self._disk.close()


def hosts_follower(path: Path, scope: Scope) -> FileFollower:
    """What keeps a block in a hosts file; out of it again at the end."""
    file = HostsFile(path)

    def prepare(state: "State") -> tuple[list[str], _Write]:
        names = _names(state, scope)
        warnings = [
            f"the name {name} is that of several Services: add the namespace"
            for name in names.contested
        ]
        return warnings, partial(file.publish, entries_of(state.placements, names))

    return FileFollower(prepare, file.remove)


def env_follower(path: Path, scope: Scope) -> FileFollower:
    """What keeps a file of environment variables, as Kubernetes gives them to pods."""

    def prepare(state: "State") -> tuple[list[str], _Write]:
        made = environment_of(state.placements, scope)
        return list(made.notes), partial(_write, path, _ENV_HEADER + made.text().encode())

    return FileFollower(prepare, partial(_remove, path))


class DnsFollower:
    """Answers for the names."""

    def __init__(self, address: str, port: int, scope: Scope) -> None:
        self._address = address
        self._port = port
        self._scope = scope
        self._server: DnsServer | None = None
        self._done: _Causes | None = None

    async def follow(self, state: "State") -> None:
        """Answer from this state on; listen, the first time. Raises PyproxyError."""
        causes = _causes(state)
        if causes == self._done:
            return
        names = _names(state, self._scope)
        zone = zone_of(state.services, state.placements, names, self._scope.domain)
        if self._server is None:
            server = DnsServer(zone)
            port = await server.start(self._address, self._port)
            self._server = server
            log.info("DNS for %s at %s port %d", self._scope.domain, self._address, port)
        self._server.publish(zone)
        self._done = causes

    async def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            await self._server.close()


def _write(path: Path, content: bytes) -> None:
    try:
        if not _is_ours(path):
            raise PyproxyError(
                f"--env-file {path}: it has content that is not pyproxy's, and stays as it is;"
                " name another file"
            )
        replacement.write(path, content)
    except OSError as fault:
        raise PyproxyError(
            f"--env-file {path} cannot be written: {fault.strerror}; name another file"
        ) from fault


def _remove(path: Path) -> None:
    try:
        if path.exists() and _is_ours(path):
            path.unlink()
    except OSError as fault:
        raise PyproxyError(f"{path} cannot be removed: {fault.strerror}") from fault


def _is_ours(path: Path) -> bool:
    """Whether there is nothing of anybody else's in it."""
    try:
        with path.open("rb") as file:
            return file.read(len(_ENV_HEADER)) in {b"", _ENV_HEADER}
    except FileNotFoundError:
        return True
