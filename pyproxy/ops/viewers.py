"""Those who follow the page's events (server-sent events): few, and none that is slow for long.

Each has a short queue of messages that all of them share. One whose queue is full is cut off: its
browser connects again, and gets everything anew. So a viewer never costs more than a full queue.
"""

import asyncio
from collections.abc import AsyncIterator, Callable

from aiohttp import web

from pyproxy.ops.control import ControlError

MOST_VIEWERS = 100
# A minute of messages: a full state of thousands of Services over a slow line takes a while.
WAITING = 60
# What a browser may leave unread in the kernel and here, and be thought alive.
_WRITE_S = 60.0


class Viewers:
    """The viewers of one agent. on_first: is called when somebody comes, and nobody was there.

    most: how many there may be. waiting: messages that one may leave unread.
    """

    def __init__(
        self,
        on_first: Callable[[], None] = lambda: None,
        most: int = MOST_VIEWERS,
        waiting: int = WAITING,
    ) -> None:
        self._on_first = on_first
        self._most = most
        self._waiting = waiting
        self._queues: dict[asyncio.Queue[bytes | None], None] = {}

    def __len__(self) -> int:
        return len(self._queues)

    def send(self, message: bytes) -> None:
        """Put a message to every viewer."""
        for queue in list(self._queues):
            if queue.qsize() >= self._waiting:
                del self._queues[queue]
                while not queue.empty():
                    queue.get_nowait()
                queue.put_nowait(None)
            else:
                queue.put_nowait(message)

    async def follow(self, request: web.Request, begin: AsyncIterator[bytes]) -> web.StreamResponse:
        """Answer a request with `begin`, and then with every message that is sent.

        Raises ControlError when there are too many viewers.
        """
        if len(self._queues) >= self._most:
            raise ControlError(
                503,
                f"{self._most} viewers follow this page already, and no more may;"
                " close some, or ask pyproxy status",
            )
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        if not self._queues:
            self._on_first()
        self._queues[queue] = None
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        try:
            await response.prepare(request)
            async for message in begin:
                await _write(response, message)
            while (following := await queue.get()) is not None:
                await _write(response, following)
        except (TimeoutError, ConnectionError):
            pass  # it is gone, or as good as gone
        finally:
            self._queues.pop(queue, None)
        if request.transport is not None and not request.transport.is_closing():
            request.transport.abort()  # what it has not read is not waited for
        return response


async def _write(response: web.StreamResponse, message: bytes) -> None:
    async with asyncio.timeout(_WRITE_S):
        await response.write(message)


def event(name: str, data: bytes) -> bytes:
    """A server-sent event. data: JSON, and so without a line end."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)
