"""Waiting for a condition without polling: whoever changes something rings."""

import asyncio
from collections.abc import Callable


class Bell:
    """Wakes all who wait, each time it rings; they look whether their condition holds."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Event] = set()

    def ring(self) -> None:
        """Say that something has changed."""
        for event in self._waiting:
            event.set()

    async def until(self, condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
        """Wait until the condition holds. Raises TimeoutError; generous, as a failure is rare."""
        event = asyncio.Event()
        self._waiting.add(event)
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    event.clear()
                    await event.wait()
        finally:
            self._waiting.discard(event)
