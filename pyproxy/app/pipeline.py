"""The flow of a change: from a source's event to what is served, and to who is told.

An event goes to the store and to everybody who follows events; the pacer bundles what follows from
them into updates. One update is, in kube-proxy's order (v1.36 `syncProxyRules`): forward and steer,
then say that it is done (health, latency), then the health-check node ports.
"""

import gc
import logging
from collections.abc import Callable, Collection
from datetime import UTC, datetime

from pyproxy.aio.pacer import Pacer
from pyproxy.app.forwarding import Forwarding
from pyproxy.app.steered import SteeredForwarder
from pyproxy.core.health import ProxyHealth
from pyproxy.core.health_check import HealthChecks, listen_addresses
from pyproxy.core.programming_latency import ProgrammingLatency
from pyproxy.core.store import Changes, Store
from pyproxy.forward.binding import TAKEN
from pyproxy.metrics import Metrics
from pyproxy.model.events import Applied, Deleted, Event, Listed
from pyproxy.model.service import ServiceName
from pyproxy.model.table import FrontendKey, VipTable
from pyproxy.ops.events import EventPublisher, Occurrence, invalid_annotation, not_listening
from pyproxy.ops.health_check import HealthCheckServers

log = logging.getLogger(__name__)

# Of the notes of one event; the first list of a large cluster must not fill the log.
MAX_NOTES = 20


class Pipeline:
    """Takes events in; keeps forwarder, steering and health-check node ports up to date.

    on_ready: called once, after the first update.
    """

    def __init__(
        self,
        store: Store,
        forwarder: Forwarding,
        steered: SteeredForwarder | None,
        health: ProxyHealth,
        metrics: Metrics,
        events: EventPublisher,
        on_ready: Callable[[], None],
    ) -> None:
        self._store = store
        self._forwarder = forwarder
        self._steered = steered
        self._health = health
        self._metrics = metrics
        self._events = events
        self._on_ready = on_ready
        self._checks = HealthChecks(store)
        self._check_servers = HealthCheckServers(events.publish, health, store.config.node_name)
        self._latency = ProgrammingLatency(datetime.now(UTC))
        # What must be known before the first update, beside the source's lists.
        self._awaited = {"addresses"}
        self._has_served = False
        # Where the store's table may differ from the one that is served; None: anywhere.
        self._touched: set[FrontendKey] | None = None
        self._request: Callable[[], None] = lambda: None

    def pacer(self, *, min_interval_s: float, retry_s: float) -> Pacer:
        """Make what runs the updates."""
        pacer = Pacer(self.update, min_interval_s=min_interval_s, retry_s=retry_s)
        self._request = pacer.request
        return pacer

    def publish(self, event: Event) -> None:
        """Take in an event of the source."""
        changes = self._store.apply(event)
        self._count(event, changes)
        self._latency.apply(event)
        needs_check = self._checks.apply(event)
        self._changed(changes, needs_update=needs_check)

    def set_addresses(self, found: frozenset[str]) -> None:
        """Take in the addresses of this host."""
        self._awaited.discard("addresses")
        self._changed(self._store.set_local_addresses(found))

    def await_bridge(self) -> None:
        """Hold the first update back until it is known whether bridges are opaque."""
        self._awaited.add("bridge")
        self._store.set_bridge_opaque(is_opaque=True)

    def set_bridge_opaque(self, is_opaque: bool) -> None:
        """Take in whether pods on one bridge could answer each other past this host."""
        self._awaited.discard("bridge")
        self._changed(self._store.set_bridge_opaque(is_opaque=is_opaque))

    def listening_changed(self, keys: Collection[FrontendKey]) -> None:
        """Take in that other frontends are listened on than before."""
        if self._touched is not None:
            self._touched.update(keys)
        self.request()

    def request(self) -> None:
        """Ask for an update, if the table is whole."""
        # A partial table would refuse clients of what is yet to come (17.1).
        if self._store.is_synced and not self._awaited:
            self._health.queued()
            self._metrics.last_queued_s = datetime.now(UTC).timestamp()
            self._request()

    async def update(self) -> None:
        """Serve the newest table. Raises PyproxyError when it could not be done."""
        metrics = self._metrics
        metrics.pending_changes.clear()
        is_full = self._touched is None
        kind_of_time = metrics.full_update_time if is_full else metrics.partial_update_time
        with metrics.update_time.time(), kind_of_time.time():
            table = await self._serve()
        now = datetime.now(UTC)
        for seconds in self._latency.programmed(now):
            self._metrics.programming_latency.observe(seconds)
        self._health.updated(now)
        self._metrics.last_update_s = now.timestamp()
        if not self._has_served:
            self._first_update()
        self._tell_taken_ports()
        await self._check_servers.update(self._checks.wanted(), listen_addresses(table.node))

    async def close(self) -> None:
        """Close the health-check node ports."""
        await self._check_servers.close()

    def _changed(self, changes: Changes, *, needs_update: bool = False) -> None:
        for note in changes.notes[:MAX_NOTES]:
            log.warning("%s", note.text)
        if len(changes.notes) > MAX_NOTES:
            log.warning("and %d more notes of this kind", len(changes.notes) - MAX_NOTES)
        for note in changes.notes:
            if note.annotated is not None:
                self._events.publish(self._misread(note.annotated, note.text))
        if self._touched is not None:
            self._touched.update(changes.frontends)
        if changes.is_visible or needs_update or not self._has_served:
            self.request()

    async def _serve(self) -> VipTable:
        """Forward and steer by the newest table, and return it."""
        table, touched = self._store.table(), self._touched
        self._touched = set()
        try:
            if self._steered is not None:
                await self._steered.update(table, touched)
            else:
                await self._forwarder.extend(table, touched)
                await self._forwarder.retire()
        except Exception:
            self._touched = None  # not sure what was done: the next update looks everywhere
            raise
        self._metrics.table = table.frontends
        return table

    def _count(self, event: Event, changes: Changes) -> None:
        self._metrics.pending_changes[event.resource] += changes.is_visible
        match event:
            case Listed(resource, values):
                self._metrics.event_counts[resource] += len(values)
            case Applied(resource) | Deleted(resource):
                self._metrics.event_counts[resource] += 1

    def _first_update(self) -> None:
        self._has_served = True
        log.info("listening on %d addresses and ports", len(self._forwarder.listening()))
        # The table stays for good: a full collection over 100,000 endpoints would hold up traffic
        # for a tenth of a second, and find nothing.
        gc.collect()
        gc.freeze()
        self._on_ready()

    def _tell_taken_ports(self) -> None:
        """An event on each Service whose port another process has; said again, it is dropped."""
        frontends = self._store.table().frontends
        for key, reason in self._forwarder.bind_faults().items():
            if reason == TAKEN and key in frontends:
                self._events.publish(self._taken(key))

    def _taken(self, key: FrontendKey) -> Occurrence:
        frontend = self._store.table().frontends[key]
        name = frontend.backend.name.service
        return not_listening(name, self._uid(name), str(frontend), TAKEN)

    def _misread(self, name: ServiceName, note: str) -> Occurrence:
        return invalid_annotation(name, self._uid(name), note.removeprefix(f"Service {name}: "))

    def _uid(self, name: ServiceName) -> str:
        service = self._store.services().get(name)
        return service.uid if service else ""
