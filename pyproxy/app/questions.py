"""Questions about what is live: put to every worker, answered in parts, and put together here.

Nobody waits for a worker that is stuck for longer than a question's patience: what the others have
told is then the answer, and says that it is not whole.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Collection, Iterator
from typing import Literal

from pyproxy.forward.live import ROWS_IN_A_TURN, Live, LiveConnection, LiveEndpoint
from pyproxy.model.service import ServiceName

What = Literal["connections", "endpoints"]

_PATIENCE_S = 3.0


class Told:
    """An answer. total: how many there are, told or not. is_whole: whether every process told."""

    def __init__(self) -> None:
        self.connections: list[LiveConnection] = []
        self.endpoints: list[LiveEndpoint] = []
        self.total = 0
        self.is_whole = True


class _Question:
    """asked: the workers whose answer is not whole yet."""

    def __init__(self, asked: Collection[int]) -> None:
        self.told = Told()
        self.asked = set(asked)
        self.is_answered = asyncio.Event()

    def drop(self, worker: int) -> None:
        self.asked.discard(worker)
        if not self.asked:
            self.is_answered.set()


class Questions:
    """The questions that are open, each put to some workers."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._open: dict[int, _Question] = {}

    def put(self, workers: Collection[int]) -> int:
        """Open a question to these workers; return its number."""
        number = next(self._numbers)
        self._open[number] = _Question(workers)
        return number

    async def answer(self, number: int) -> Told:
        """Wait for the answer to an open question."""
        question = self._open[number]
        try:
            if question.asked:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_PATIENCE_S):
                        await question.is_answered.wait()
        finally:
            del self._open[number]
        question.told.is_whole &= not question.asked
        return question.told

    def told(
        self,
        number: int,
        worker: int,
        total: int,
        connections: list[LiveConnection],
        endpoints: list[LiveEndpoint],
        *,
        is_last: bool,
    ) -> None:
        """Take in a part of a worker's answer. Nobody may be waiting for it any more."""
        question = self._open.get(number)
        if question is None or worker not in question.asked:
            return
        question.told.connections += connections
        question.told.endpoints += endpoints
        if is_last:
            question.told.total += total
            question.drop(worker)

    def lost(self, worker: int) -> None:
        """Wait no more for a worker that has died: what it had is no more."""
        for question in self._open.values():
            question.drop(worker)


def rows_for(
    live: Live, what: What, of: ServiceName | None
) -> tuple[int, Iterator[LiveConnection | LiveEndpoint]]:
    """What a process has to tell: how many there are, and the rows."""
    return live.connections(of) if what == "connections" else live.endpoints(of)


async def tell(live: Live, what: What, of: ServiceName | None, limit: int) -> Told:
    """Answer in the process that forwards, with turns for its traffic in between."""
    told = Told()
    told.total, rows = rows_for(live, what, of)
    rows = itertools.islice(rows, limit)
    while part := list(itertools.islice(rows, ROWS_IN_A_TURN)):
        told.connections += [row for row in part if isinstance(row, LiveConnection)]
        told.endpoints += [row for row in part if isinstance(row, LiveEndpoint)]
        await asyncio.sleep(0)
    return told
