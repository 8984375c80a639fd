"""Notices a server that has vanished without a word: a VPN that went down, a laptop that slept.

Silence alone proves nothing: whoever is silent is asked, and has to answer in time. But an answer
waits its turn behind what was sent before it: the server reads nothing more while a pod does not
take its data, so after a bulk of unanswered bytes a missing answer proves nothing either (then TCP
decides). And nothing can be heard while we do not listen, because a client does not take its data.
"""

import asyncio
from collections.abc import Awaitable, Callable

# More than this can wait between us and a pod that does not read, in the buffers of four sockets
# at least; with less, the server still reads what comes, and answers.
_MANY_BYTES = 64 * 1024


class Heartbeat:
    """Watches one connection. Its owner tells what it does; `run` finds that it is dead.

    ping: asks for an answer. interval_s: of silence before a ping, and for the answer to come.
    """

    def __init__(self, ping: Callable[[], Awaitable[None]], interval_s: float) -> None:
        self._ping = ping
        self._interval_s = interval_s
        self._now = asyncio.get_running_loop().time
        self._listening_since_s: float | None = None
        self._pinged_s: float | None = None
        self._unanswered_bytes = 0

    def listening(self) -> None:
        """Note that the owner begins to wait for the server."""
        self._listening_since_s = self._now()

    def heard(self) -> None:
        """Note that something came. The owner does not listen before it says so again."""
        self._listening_since_s = None
        self._pinged_s = None
        self._unanswered_bytes = 0

    def sent(self, size: int) -> None:
        """Note that bytes were sent."""
        self._unanswered_bytes += size

    async def run(self) -> None:
        """Return when the server is dead. Raises what `ping` raises."""
        while True:
            await asyncio.sleep(self._interval_s)
            now, since = self._now(), self._listening_since_s
            if since is None or now - since < self._interval_s:
                continue
            if self._pinged_s is None:
                self._pinged_s = now
                await self._ping()
            elif self._unanswered_bytes <= _MANY_BYTES:
                return
