"""Forwarding and steering in step: what is steered always has a listener.

A listener is up before packets for its address are steered to it, and packets are no longer steered
before it closes; in between the kernel gets one transaction. What is refused or discarded is so in
the same transaction. Nothing is torn down at the end: a restart takes over what is there.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator

from pyproxy.app.forwarding import Forwarding
from pyproxy.core.ruleset import Planner, Ruleset
from pyproxy.errors import PyproxyError
from pyproxy.metrics import Metrics, SteeringCounts
from pyproxy.model.table import FrontendKey, VipTable
from pyproxy.steer.nft import NftError
from pyproxy.steer.reconciler import Steering

log = logging.getLogger(__name__)

# How often to look whether a port that was taken has been bound since.
LISTENING_INTERVAL_S = 2.0


class _Listening(Collection[FrontendKey]):
    """The frontends that are listened on, as they are now: a copy would cost with each update."""

    def __init__(self, forwarder: Forwarding) -> None:
        self._forwarder = forwarder

    def __contains__(self, key: object) -> bool:
        return self._forwarder.is_listening(key)  # type: ignore[arg-type]  # a key or not

    def __iter__(self) -> Iterator[FrontendKey]:
        return iter(self._forwarder.listening())

    def __len__(self) -> int:
        return len(self._forwarder.listening())


class SteeredForwarder:
    """A forwarder, and the steering of its frontends."""

    def __init__(self, forwarder: Forwarding, steering: Steering, metrics: Metrics) -> None:
        self._forwarder = forwarder
        self._steering = steering
        self._counts = metrics.steering
        self._time = metrics.steering_time
        self._planner = Planner()
        self._listening = _Listening(forwarder)
        self._has_route = False

    async def update(self, table: VipTable, touched: Collection[FrontendKey] | None = None) -> None:
        """Forward and steer by this table.

        touched: where it, or what is listened on, may differ from the last one; None: anywhere.
        Raises PyproxyError when the kernel refuses; then nothing that is steered lost its listener.
        """
        await self._forwarder.extend(table, touched)
        if not self._has_route:  # not before there is something to steer
            await self._steering.start()
            self._has_route = True
        try:
            with self._time.time():
                await self._steer(self._planner.plan(table, self._listening, touched))
        finally:
            self._count()
        await self._forwarder.retire()

    async def _steer(self, wanted: Ruleset) -> None:
        try:
            await self._steering.apply(wanted)
        except NftError as fault:
            if fault.not_permitted or fault.missing:
                raise
            # Somebody may have removed what is ours; the second time starts from what is there.
            log.warning("steering: %s; trying again from what the kernel holds", fault)
            await self._steering.apply(wanted)

    async def follow_listeners(self, changed: Callable[[Collection[FrontendKey]], None]) -> None:
        """Call back with the frontends that were bound, or lost, since the last look.

        Most of them by an update, and known; but a port that was taken is bound without one.
        """
        known = self._forwarder.listening()
        while True:
            await asyncio.sleep(LISTENING_INTERVAL_S)
            before, known = known, self._forwarder.listening()
            if known != before:
                changed(known ^ before)

    async def keep(self, sync_period_s: float) -> None:
        """Mend now and then what others changed of ours, until cancelled."""
        while True:
            await asyncio.sleep(sync_period_s)
            try:
                await self._steering.check()
            except PyproxyError as fault:
                log.warning("steering: %s; looked at again in %g s", fault, sync_period_s)
            self._count()

    async def mend(self) -> None:
        """Mend at once what another agent may have changed."""
        try:
            await self._steering.check()
        except PyproxyError as fault:
            log.warning("steering: %s", fault)
        self._count()

    def _count(self) -> None:
        for what in SteeringCounts.__slots__:
            setattr(self._counts, what, getattr(self._steering, what))
