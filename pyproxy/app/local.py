"""`pyproxy local`: the Services of chosen namespaces on this machine's loopback network.

One `Served` for each context, and one `Loopback` that gives them all their places. A change of
anything leads to one update: place, forward, look what could not be bound and place that elsewhere,
then tell the followers. At the end nothing is left behind.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from pyproxy.aio.pacer import Pacer
from pyproxy.app.faults import cause_of
from pyproxy.app.local_dial import Upstream
from pyproxy.app.local_served import Cluster, Served
from pyproxy.app.stop import Stop
from pyproxy.core.local_service import Claimant, LocalService, wanted_of
from pyproxy.core.local_table import Row, rows_of
from pyproxy.core.loopback import Loopback, Placed, Placements, Rules, Socket
from pyproxy.errors import PyproxyError
from pyproxy.metrics import Metrics

log = logging.getLogger(__name__)

_MIN_INTERVAL_S = 0.2
_RETRY_S = 5.0
# Placing what could not be bound may meet further sockets that are taken; this ends it.
_MAX_MOVES = 100


class LocalSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What `pyproxy local` is set to. drain_timeout_s: for live connections at the end."""

    clusters: tuple[Cluster, ...]
    upstream: Upstream = "auto"
    rules: Rules = Rules()
    drain_timeout_s: float = 2.0
    min_interval_s: float = _MIN_INTERVAL_S


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What there is now, for whoever shows it or gives it names.

    ways: for each context, how its endpoints are reached: "direct" or "portforward". metrics: of
    each context, and live.
    """

    rows: tuple[Row, ...]
    services: tuple[LocalService, ...]
    placements: Placements
    ways: dict[str, str]
    metrics: dict[str, Metrics]


class Follower(Protocol):
    """Is told of each change: the table on the terminal, the hosts file, the DNS server."""

    async def follow(self, state: State) -> None:
        """Take in what there is now. Raises PyproxyError; it is then told again later."""

    async def close(self) -> None:
        """Leave the machine as it was. Raises PyproxyError."""


class Local:
    """Everything between the clusters and the followers. To be made in a running loop."""

    def __init__(self, settings: LocalSettings, followers: Sequence[Follower]) -> None:
        self._settings = settings
        self._followers = followers
        self._have_worked: set[Follower] = set()
        self._given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._loopback = Loopback(settings.rules)
        self._pacer = Pacer(self._update, min_interval_s=settings.min_interval_s, retry_s=_RETRY_S)
        self._clusters = [
            Served(cluster, settings.upstream, self._pacer.request) for cluster in settings.clusters
        ]
        self._has_looked_for_unused = False

    async def run(self, stop: Stop) -> None:
        """Serve until asked to stop.

        Raises ConfigError or ApiError when it cannot go on, PyproxyError when a follower cannot do
        at all what it is there for.
        """
        try:
            async with asyncio.TaskGroup() as group:
                updates = group.create_task(self._pacer.run())
                others = [group.create_task(served.run()) for served in self._clusters]
                others.append(group.create_task(_wait(self._given_up)))
                await stop.asked.wait()
                updates.cancel()
                await self._drain(stop)
                for task in others:
                    task.cancel()
        except BaseExceptionGroup as faults:
            raise cause_of(faults) from faults
        finally:
            for served in self._clusters:
                served.cluster.close()
            await self._close_followers()

    async def _drain(self, stop: Stop) -> None:
        """Let live connections end, until the time is over or a second signal comes."""
        async with asyncio.TaskGroup() as group:
            forced = group.create_task(stop.forced.wait())
            drains = [
                group.create_task(served.cluster.drain(self._settings.drain_timeout_s))
                for served in self._clusters
            ]
            drained = group.create_task(asyncio.wait(drains))
            await asyncio.wait((forced, drained), return_when=asyncio.FIRST_COMPLETED)
            for task in (forced, drained, *drains):
                task.cancel()

    async def _close_followers(self) -> None:
        """Close them in turn, the one that shows the log first: what goes wrong must be seen."""
        for follower in reversed(self._followers):
            try:
                await follower.close()
            except PyproxyError as fault:
                log.error("left behind: %s", fault)  # noqa: TRY400  # it says all there is to know
            except Exception:  # the others are to be closed all the same
                log.exception("left behind by %s", follower)

    async def _update(self) -> None:
        ready = [served for served in self._clusters if served.is_ready]
        if not ready:
            return
        services = {served.context: served.cluster.services() for served in ready}
        placed = self._loopback.place(
            want
            for served in ready
            for local in services[served.context]
            for want in wanted_of(local, served.protocols)
        )
        placements = self._bind(ready, services, placed)
        self._tell_unused(ready)
        everything = [local for found in services.values() for local in found]
        notes: dict[Claimant, str] = {}
        for served in ready:
            notes |= served.left_out(services[served.context])
        await self._tell_followers(
            State(
                rows=rows_of(everything, placements, notes),
                services=tuple(everything),
                placements=placements,
                ways={served.context: served.way.name for served in ready},
                metrics={served.context: served.cluster.metrics for served in ready},
            )
        )

    def _bind(
        self, ready: list[Served], services: dict[str, list[LocalService]], placed: Placed
    ) -> Placements:
        """Forward, and place elsewhere what is taken."""
        _tell(placed.notes)
        for _ in range(_MAX_MOVES):
            taken: dict[Socket, str] = {}
            for served in ready:
                served.cluster.serve(services[served.context], placed.placements)
                taken |= served.cluster.taken()
            if not taken:
                break
            for refused, reason in taken.items():
                placed = self._loopback.next(refused, reason)
                _tell(placed.notes)
        return placed.placements

    async def _tell_followers(self, state: State) -> None:
        """Tell all of them. One that never worked is given up, and with it the whole."""
        faults = []
        for follower in self._followers:
            try:
                await follower.follow(state)
            except PyproxyError as fault:
                if follower not in self._have_worked:
                    self._given_up.set_exception(fault)
                    return
                faults.append(str(fault))
            else:
                self._have_worked.add(follower)
        if faults:
            raise PyproxyError("; ".join(faults))

    def _tell_unused(self, ready: list[Served]) -> None:
        """Once all is listed: reservations that no Service is meant by are misspelt, perhaps."""
        if len(ready) == len(self._clusters) and not self._has_looked_for_unused:
            self._has_looked_for_unused = True
            for text in self._loopback.unused():
                log.warning("%s is for no Service that there is now", text)


async def _wait(future: asyncio.Future[None]) -> None:
    await future


def _tell(notes: Iterable[str]) -> None:
    for note in notes:
        log.warning("%s", note)
