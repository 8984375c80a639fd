"""Being asked to stop: the first signal asks kindly, the second means at once."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Collection, Iterator

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Two events: `asked` after the first signal (SIGTERM, SIGINT), `forced` after the second."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.forced = asyncio.Event()

    @contextlib.contextmanager
    def on_signals(self, signals: Collection[signal.Signals] = SIGNALS) -> Iterator["Stop"]:
        """Listen for the signals while the block runs."""
        loop = asyncio.get_running_loop()
        for number in signals:
            loop.add_signal_handler(number, self._caught, number)
        try:
            yield self
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    def _caught(self, number: signal.Signals) -> None:
        name = signal.Signals(number).name
        if self.asked.is_set():
            log.warning("%s again: stopping at once", name)
            self.forced.set()
        else:
            log.info("%s: stopping; a second one stops at once", name)
            self.asked.set()
