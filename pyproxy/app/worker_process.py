"""One worker as the agent sees it, from its start to its end."""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

import msgspec

from pyproxy.app.worker_channel import Channel
from pyproxy.app.worker_wire import Done, Hello, Stop, ToAgent, frame, read_by_agent

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyproxy.model.table import FrontendKey

log = logging.getLogger(__name__)

# It starts by importing, and takes the whole table at once.
_START_PATIENCE = 3
# From closing its end of the channel to the end of the process.
_EXIT_S = 5.0
# From being told to end at once.
_STOP_S = 2.0


class WorkerProcess:
    """A process and the channel to it. What it listens on and cannot bind is as it last said.

    number: from 0 on; a worker in place of a dead one has the same. patience_s: how long it may
    take to answer an order before it counts as stuck and is killed.
    acknowledged: the number of the last order that it has carried out.
    """

    def __init__(
        self,
        number: int,
        receive: "Callable[[WorkerProcess, ToAgent], None]",
        patience_s: float,
    ) -> None:
        self.number = number
        self.acknowledged = 0
        self.listening: set[FrontendKey] = set()
        self.faults: dict[FrontendKey, str] = {}
        self.live_connections = 0
        self.started_s = time.monotonic()
        self._deliver = receive
        self._channel = Channel(self._receive)
        self._process: asyncio.subprocess.Process | None = None
        self._patience_s = patience_s
        self._asked = 0
        self._watchdog: asyncio.TimerHandle | None = None

    def __str__(self) -> str:
        return f"worker {self.number} (pid {self.pid})"

    @property
    def pid(self) -> int:
        """The process's number; 0 before its start."""
        return 0 if self._process is None else self._process.pid

    async def start(self, hello: Hello) -> None:
        """Start the process and say hello. Raises OSError when the system starts none."""
        ours, theirs = socket.socketpair()
        with theirs:
            await self._channel.open(ours)
            # A new program, no fork of this one: a running loop, its threads and the garbage that
            # the table makes have no place in a worker.
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "pyproxy.app.worker"),
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(), hello.counts_fd),
                stdin=asyncio.subprocess.DEVNULL,
            )
        self._channel.send(frame(hello))

    def order(self, data: bytes, number: int, *, is_first: bool = False) -> None:
        """Send an order that is framed already; the worker is killed when it does not answer."""
        self._channel.send(data)
        self._asked = number
        if self._watchdog is None:
            patience_s = self._patience_s * (_START_PATIENCE if is_first else 1)
            loop = asyncio.get_running_loop()
            self._watchdog = loop.call_later(patience_s, self._bite, patience_s)

    def send(self, data: bytes) -> None:
        """Send a frame."""
        self._channel.send(data)

    def offer(self, data: bytes) -> bool:
        """Send a frame that may be left out; False when it was, as the worker does not keep up."""
        if not self._channel.has_room:
            return False
        self._channel.send(data)
        return True

    async def ended(self) -> int:
        """Wait for its end, with all that it has said received. Return the status as wait(2)."""
        await self._channel.lost.wait()
        assert self._process is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_S):
                return await self._process.wait()
        self._kill()
        return await self._process.wait()

    async def end(self) -> None:
        """End it at once, if it has not ended; kill it when it does not obey."""
        self._stand_down()
        if self._process is not None:
            self._channel.send(frame(Stop()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STOP_S):
                    await self._process.wait()
            self._kill()
            await self._process.wait()
        self._channel.abort()

    def _receive(self, payload: bytes) -> None:
        try:
            message = read_by_agent(payload)
        except msgspec.DecodeError:  # it cannot be trusted with anything
            log.exception("%s talks nonsense; killing it", self)
            self._kill()
            return
        if isinstance(message, Done):
            self.acknowledged = message.order
            if message.order == self._asked:
                self._stand_down()
        self._deliver(self, message)

    def _bite(self, waited_s: float) -> None:
        log.error("%s has not answered for %g s; killing it", self, waited_s)
        self._kill()

    def _stand_down(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def _kill(self) -> None:
        self._stand_down()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()


def cause_of_death(status: int) -> str:
    """Say how a process ended, from its status as asyncio gives it."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:  # a real-time signal has no name
        return f"signal {-status}"
