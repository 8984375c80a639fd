"""The pacer: at once when idle, bundled when busy, again after a failure."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from pyproxy.aio.pacer import Pacer
from pyproxy.errors import PyproxyError


@contextlib.asynccontextmanager
async def running(
    action: Callable[[], Awaitable[None]], min_interval_s: float = 0.0, retry_s: float = 0.0
) -> AsyncIterator[Pacer]:
    pacer = Pacer(action, min_interval_s=min_interval_s, retry_s=retry_s)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(pacer.run())
        yield pacer
        task.cancel()


class Runs:
    """Counts runs; the first `failures` of them raise."""

    def __init__(self, failures: int = 0) -> None:
        self.count = 0
        self._failures = failures
        self._ran = asyncio.Event()

    async def __call__(self) -> None:
        self.count += 1
        self._ran.set()
        if self.count <= self._failures:
            raise ValueError(f"run {self.count}")

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(10):
            while self.count < count:
                self._ran.clear()
                await self._ran.wait()


async def test_nothing_runs_unasked() -> None:
    runs = Runs()
    async with running(runs):
        await asyncio.sleep(0.01)
    assert runs.count == 0


async def test_requests_during_the_interval_are_one_run() -> None:
    runs = Runs()
    async with running(runs, min_interval_s=0.05) as pacer:
        pacer.request()
        await runs.wait_for(1)
        for _ in range(100):
            pacer.request()
        await runs.wait_for(2)
        await asyncio.sleep(0.2)
    assert runs.count == 2


async def test_a_failed_run_is_tried_again_unasked(caplog: pytest.LogCaptureFixture) -> None:
    runs = Runs(failures=2)
    with caplog.at_level(logging.ERROR):
        async with running(runs, retry_s=0.01) as pacer:
            pacer.request()
            await runs.wait_for(3)
    assert [r.getMessage() for r in caplog.records] == [
        "an update failed; it is tried again in 0.01 s"
    ] * 2


async def test_a_new_request_does_not_wait_for_the_retry_time() -> None:
    runs = Runs(failures=1)
    async with running(runs, retry_s=3600) as pacer:
        pacer.request()
        await runs.wait_for(1)
        pacer.request()
        await runs.wait_for(2)


async def test_a_failure_that_is_understood_is_one_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tries = asyncio.Queue[None]()

    async def refuse() -> None:
        tries.put_nowait(None)
        raise PyproxyError("the kernel refuses")

    async with running(refuse, retry_s=0.01) as pacer:
        pacer.request()
        for _ in range(2):
            async with asyncio.timeout(10):
                await tries.get()
    assert "an update failed: the kernel refuses; it is tried again in 0.01 s" in caplog.text
    assert "Traceback" not in caplog.text
