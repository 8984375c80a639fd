"""Processes of the soak that the driver gives orders to: JSON lines in, one answer each out.

A child ends when its standard input does: so none outlives the driver, however that ends.
"""

import asyncio
import contextlib
import inspect
import json
import resource
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any

import uvloop

_LINE_BYTES = 64 << 20
_END_S = 10.0


class Child:
    """The driver's end."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._turn = asyncio.Lock()

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ask(self, order: str, **arguments: Any) -> Any:
        """Give an order and return the answer. Raises RuntimeError when the child has ended."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        async with self._turn:
            process.stdin.write(json.dumps([order, arguments]).encode() + b"\n")
            line = await process.stdout.readline()
        if not line:
            raise RuntimeError(f"a child has ended instead of answering {order!r}")
        return json.loads(line)


@contextlib.asynccontextmanager
async def child(module: str) -> AsyncIterator[Child]:
    """A module run as a process, which ends with the context."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE_BYTES,
        start_new_session=True,  # ctrl-C is for the driver, which ends them
    )
    assert process.stdin is not None
    try:
        yield Child(process)
    finally:
        process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a child's main, until it has ended or has cancelled itself."""
    with (
        contextlib.suppress(asyncio.CancelledError),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(main())


async def obey(orders: Mapping[str, Callable[..., Any]]) -> None:
    """The child's end: carry out orders until there are no more."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    reader = asyncio.StreamReader(limit=_LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        order, arguments = json.loads(line)
        answer = orders[order](**arguments)
        if inspect.isawaitable(answer):
            answer = await answer
        print(json.dumps(answer), flush=True)
