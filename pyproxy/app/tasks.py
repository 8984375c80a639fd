"""The tasks of a process that must go on for as long as it does."""

import asyncio
from collections.abc import Coroutine
from typing import Any

Tasks = dict[str, Coroutine[Any, Any, None]]  # by what to call them


async def cancelled(tasks: list[asyncio.Task[None]]) -> None:
    """End tasks, and wait until they have."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def first(*events: asyncio.Event) -> None:
    """Wait until one of them is set."""
    async with asyncio.TaskGroup() as group:
        waits = [group.create_task(event.wait()) for event in events]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()


def start(group: asyncio.TaskGroup, tasks: Tasks) -> list[asyncio.Task[None]]:
    """Start tasks, none of which may end by itself: that ends the group with an error."""
    return [group.create_task(_forever(name, task)) for name, task in tasks.items()]


async def _forever(name: str, task: Coroutine[Any, Any, None]) -> None:
    """Await a task that must not end: when one does, the process is no longer whole."""
    await task
    raise RuntimeError(f"{name} has finished unexpectedly")
