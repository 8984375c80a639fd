"""Whether to take one more client: the bound on live connections, and pauses when out of files.

Clients that are not taken stay in the kernel's accept queues; nothing is refused here, nothing
spins. Before descriptors run out they run short, and before the bound on connections is reached it
is crowded: then the Service with the most connections should get no more (`is_crowded`), as one
Service's flood must not take what the others need.
Owns the list of listeners that have stopped because of it (parked), and wakes them.
"""

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyproxy.forward.burst import Burst
from pyproxy.forward.poller import Poller, Watcher
from pyproxy.forward.settings import ForwardSettings
from pyproxy.forward.ticker import Ticker
from pyproxy.metrics import Metrics

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger(__name__)


# Above this share of the descriptors they run short; above this of the connections it is crowded.
_SHORT = 0.9
# Descriptors of the process that the forwarder does not count: the loop's, logs, HTTP ports.
_OTHERS = 64


class Admission:
    """Counts live connections and says whether one more may come.

    live: how many there are; who accepts one counts it.
    """

    def __init__(
        self,
        settings: ForwardSettings,
        poller: Poller,
        metrics: Metrics,
        clock: Callable[[], float],
        loop: "asyncio.AbstractEventLoop",
    ) -> None:
        self.live = 0
        self._max = settings.max_connections
        self._crowd = settings.max_connections * _SHORT
        limit = settings.max_descriptors
        self._many = math.inf if limit is None else limit * _SHORT - _OTHERS
        self._poller = poller
        self._metrics = metrics
        self._parked: dict[Watcher, None] = {}
        self._starved: set[Watcher] = set()
        self._is_paused = False
        self._pause = Ticker(loop, settings.accept_pause_s, self._end_pause)
        self._exhaustions = Burst(clock)
        self._full = Burst(clock)

    def may_accept(self) -> bool:
        """Whether one more connection may be accepted now."""
        return self.live < self._max and not self._is_paused and not self._starved

    def is_short(self) -> bool:
        """Whether descriptors run short. Pipes are few (`pipes.MAX_PIPES`), and not counted."""
        return self._poller.watched >= self._many

    def is_crowded(self) -> bool:
        """Whether what is left of connections, or descriptors, should go to other Services."""
        return self.live >= self._crowd or self.is_short()

    def closed(self) -> None:
        """Count its end; a listener that waits for room goes on."""
        self.live -= 1
        if self._parked:
            self.wake_one()

    def park(self, listener: Watcher) -> None:
        """Remember a listener that was told not to accept, and wake it when it may."""
        self._parked[listener] = None
        if self.live >= self._max and self._full.is_first():
            log.warning(
                "%d connections are live, the most allowed; new clients wait to be accepted",
                self.live,
            )

    def wake_one(self) -> None:
        """Let one parked listener go on. It calls this in turn when it has no client waiting."""
        if self._parked and self.may_accept():
            listener = next(iter(self._parked))
            del self._parked[listener]
            self._poller.resume(listener)

    def forget(self, listener: Watcher) -> None:
        """Wake it no more: it is closed."""
        self._parked.pop(listener, None)

    def exhausted(self, error: OSError, doing: str) -> None:
        """Pause accepting: this host is out of descriptors or memory. The live ones go on."""
        if self._exhaustions.is_first():
            log.error("%s: %s; accepting pauses until some are free again", doing, error.strerror)
        if not self._is_paused:
            self._metrics.accept_pauses += 1
            self._is_paused = True
        self._pause.wake()

    def starve(self, connection: Watcher) -> None:
        """Accept nobody until this accepted client has got the descriptor that it needs to dial.

        Otherwise new clients could take every descriptor that comes free, and none be served.
        """
        self._starved.add(connection)

    def fed(self, connection: Watcher) -> None:
        """It has got its descriptor, or has ended without."""
        if connection in self._starved:
            self._starved.remove(connection)
            self.wake_one()

    def stop(self) -> None:
        """Stop the timer."""
        self._pause.stop()

    def _end_pause(self) -> bool:
        self._is_paused = False
        self.wake_one()
        return False
