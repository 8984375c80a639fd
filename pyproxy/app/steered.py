"""Forwarding and steering in step: what is steered always has a listener.

A listener is up before packets for its address are steered to it, and packets are no longer steered
before it closes; in between the kernel gets one transaction. What is refused or discarded is so in
the same transaction. Nothing is torn down at the end: a restart takes over what is there.
"""

import asyncio
import logging
from collections.abc import Callable

from pyproxy.core.ruleset import Planner
from pyproxy.errors import PyproxyError
from pyproxy.forward.forwarder import Forwarder
from pyproxy.metrics import Metrics, SteeringCounts
from pyproxy.model.table import FrontendKey, VipTable
from pyproxy.steer.reconciler import Steering

log = logging.getLogger(__name__)

# How often to look whether a port that was taken has been bound since.
LISTENING_INTERVAL_S = 2.0


class SteeredForwarder:
    """A forwarder, and the steering of its frontends."""

    def __init__(self, forwarder: Forwarder, steering: Steering, metrics: Metrics) -> None:
        self._forwarder = forwarder
        self._steering = steering
        self._counts = metrics.steering
        self._planner = Planner()
        self._listening: frozenset[FrontendKey] = frozenset()

    async def start(self) -> None:
        """See that steering is possible. Raises PyproxyError that says what is missing."""
        await self._steering.start()

    async def update(self, table: VipTable) -> None:
        """Forward and steer by this table.

        Raises PyproxyError when the kernel refuses; then nothing that is steered lost its listener.
        """
        self._forwarder.extend(table)
        self._listening = self._forwarder.listening()
        try:
            await self._steering.apply(self._planner.plan(table, self._listening))
        finally:
            self._count()
        self._forwarder.retire()

    async def follow_listeners(self, changed: Callable[[], None]) -> None:
        """Call back when a frontend was bound, or lost, without a new table; until cancelled."""
        while True:
            await asyncio.sleep(LISTENING_INTERVAL_S)
            if self._forwarder.listening() != self._listening:
                changed()

    async def keep(self, sync_period_s: float) -> None:
        """Mend now and then what others changed of ours, until cancelled."""
        while True:
            await asyncio.sleep(sync_period_s)
            try:
                await self._steering.check()
            except PyproxyError as fault:
                log.warning("steering: %s; looked at again in %g s", fault, sync_period_s)
            self._count()

    def _count(self) -> None:
        for what in SteeringCounts.__slots__:
            setattr(self._counts, what, getattr(self._steering, what))
