"""Say it once: a fault that comes a thousand times a second is one line in the log."""

from collections.abc import Callable

QUIET_S = 10.0  # a burst is over after this long without the fault


class Burst:
    """Tells the first of a burst of like events from those that follow it."""

    def __init__(self, clock: Callable[[], float], quiet_s: float = QUIET_S) -> None:
        self._clock = clock
        self._quiet_s = quiet_s
        self._last_s = float("-inf")

    def is_first(self) -> bool:
        """Note one more event; return whether it starts a burst."""
        now_s = self._clock()
        starts = now_s - self._last_s >= self._quiet_s
        self._last_s = now_s
        return starts
