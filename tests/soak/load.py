"""A process of clients: python -m tests.soak.load, a child.

Its crews are clients of one kind that visit one Service, each again and again with little pauses:
so the load is what the machine can take.
"""

import asyncio
import contextlib
import random
import time
from typing import TYPE_CHECKING

from tests.soak.child import obey, run
from tests.soak.client import VISITS
from tests.soak.stream import BrokenStreamError, EndedEarlyError
from tests.soak.tally import Failure, Tally
from tests.soak.wire import PORT
from tests.support.backends import connect

if TYPE_CHECKING:
    import socket

_THINK_S = 0.05
# So that a Service that fails at once is not asked a thousand times a second.
_AFTER_FAILURE_S = 0.2
_POLL_S = 0.02
# Until a new Service is served. Between two tries the agent pauses for up to half a minute, while
# the API server keeps failing.
_SERVED_S = 180.0


class Crews:
    """The clients of this process, by the Service they visit."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._crews: dict[str, tuple[asyncio.Event, list[asyncio.Task[None]]]] = {}
        self._silent: list[socket.socket] = []
        self.tally = Tally()

    def start(self, vip: str, kinds: dict[str, int], seed: int) -> None:
        """Send so many clients of each kind."""
        leave, members = self._crews.setdefault(vip, (asyncio.Event(), []))
        for kind, count in kinds.items():
            for number in range(count):
                rng = random.Random(f"{seed} {vip} {kind} {number}")
                members.append(self._group.create_task(self._visit(vip, kind, rng, leave)))

    async def leave(self, vip: str) -> None:
        """Let the clients of a Service end what they are doing, and come no more."""
        leave, members = self._crews.pop(vip)
        leave.set()
        await asyncio.wait(members)

    async def be_silent(self, vip: str, count: int) -> None:
        """Connect so many clients more that say nothing."""
        for _ in range(count):
            self._silent.append(await connect(vip, PORT))

    def end_silence(self) -> int:
        """Let the silent clients go; return how many of them were still connected."""
        connected = 0
        while self._silent:
            with self._silent.pop() as sock:
                try:
                    sock.recv(1)
                except BlockingIOError:
                    connected += 1
                except OSError:
                    continue
        return connected

    async def _visit(self, vip: str, kind: str, rng: random.Random, leave: asyncio.Event) -> None:
        while not leave.is_set():
            began_s = time.monotonic()
            reason = await self._try(vip, kind, rng)
            if reason is not None:
                self.tally.failures.append(Failure(kind, reason, began_s, time.monotonic()))
                await asyncio.sleep(_AFTER_FAILURE_S)
            await asyncio.sleep(rng.random() * _THINK_S)

    async def _try(self, vip: str, kind: str, rng: random.Random) -> str | None:
        """Visit once; return why a request failed, or None."""
        reason = None
        try:
            await VISITS[kind](vip, rng, self.tally)
        except* (OSError, EndedEarlyError, BrokenStreamError) as faults:
            reason = _reason(faults.exceptions[0])
        return reason


def _reason(fault: BaseException) -> str:
    match fault:
        case BaseExceptionGroup():  # both directions at once failed
            return _reason(fault.exceptions[0])
        case TimeoutError():
            return "timed out"
        case EndedEarlyError():
            return "ended early"
        case BrokenStreamError():
            return f"broken: {fault}"
        case OSError(strerror=text) if text:
            return text
        case _:
            return repr(fault)


async def is_served(vip: str, *, wanted: bool) -> bool:
    """Wait until a Service takes clients, or refuses them; False when that does not come."""
    end_s = time.monotonic() + _SERVED_S
    while time.monotonic() < end_s:
        found = False
        with contextlib.suppress(ConnectionRefusedError, ConnectionResetError):
            (await connect(vip, PORT)).close()
            found = True
        if found is wanted:
            return True
        await asyncio.sleep(_POLL_S)
    return False


async def main() -> None:
    async with asyncio.TaskGroup() as group:
        crews = Crews(group)
        ordered = group.create_task(
            obey(
                {
                    "start": crews.start,
                    "leave": crews.leave,
                    "tally": crews.tally.take,
                    "be_silent": crews.be_silent,
                    "end_silence": crews.end_silence,
                    "is_served": is_served,
                }
            )
        )
        await asyncio.wait([ordered])
        ordered.result()
        raise asyncio.CancelledError  # the driver has gone: so do the clients


if __name__ == "__main__":
    run(main)
