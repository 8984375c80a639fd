"""The agent: sources, store, forwarder and HTTP ports put together in one process.

The flow of a change: a source publishes an event; the store says what it changed; the pacer bundles
changes; the forwarder gets the new table. Stopping goes the other way round: not ready any more, no
new clients, live connections until the drain time is over, then the rest.
"""

import asyncio
import gc
import logging
import random
import resource
import time
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import msgspec

from pyproxy.aio.pacer import Pacer
from pyproxy.app import config_file
from pyproxy.app.steered import SteeredForwarder
from pyproxy.app.stop import Stop
from pyproxy.config import HostPort, ProxyConfig
from pyproxy.config.own import Steering as SteeringConfig
from pyproxy.core.balancer import Balancer
from pyproxy.core.health import ProxyHealth
from pyproxy.core.store import Changes, Store
from pyproxy.errors import PyproxyError
from pyproxy.forward.forwarder import Forwarder
from pyproxy.forward.settings import ForwardSettings
from pyproxy.metrics import Metrics, registry
from pyproxy.model.events import Event
from pyproxy.ops import web
from pyproxy.source.apiserver import ApiServerSettings, ApiServerSource
from pyproxy.source.manifests import ManifestSource
from pyproxy.steer import addresses
from pyproxy.steer.nft import Nft
from pyproxy.steer.reconciler import Steering, SteerSettings
from pyproxy.steer.routes import PolicyRoute

log = logging.getLogger(__name__)

# Of the notes of one event; the first list of a large cluster must not fill the log.
MAX_NOTES = 20


_Tasks = dict[str, Coroutine[Any, Any, None]]  # by what to call them


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent is set to. Times are seconds.

    config_file: a change of it ends the agent (20.2).
    manifests: files and directories to read; empty: the API server is watched, as `api` says.
    steer: how packets for addresses that this host does not have are brought here; None: not at
    all.
    metrics, health: where their HTTP ports listen; http_retry_s: until one that is taken is tried
    again.
    min_sync_period_s: between two updates of the forwarder. sync_period_s: until a failed one is
    tried again, and half the time after which a waiting one makes the proxy unhealthy.
    """

    proxy: ProxyConfig
    config_file: str | None = None
    manifests: tuple[str, ...] = ()
    api: ApiServerSettings = ApiServerSettings()
    forward: ForwardSettings = ForwardSettings()
    steer: SteerSettings | None = None
    metrics: HostPort = HostPort("127.0.0.1", 10249)
    health: HostPort = HostPort("0.0.0.0", 10256)  # noqa: S104  probes and load balancers ask it
    http_retry_s: float = web.BIND_RETRY_S
    drain_timeout_s: float = 30.0
    min_sync_period_s: float = 0.05
    sync_period_s: float = 30.0


class Agent:
    """One process that serves Services.

    ready: set once the first table is served. urls: of the `metrics` and the `health` port, once
    they listen.
    """

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self.metrics = Metrics()
        self.store = Store(settings.proxy)
        self.health = ProxyHealth(timedelta(seconds=2 * settings.sync_period_s))
        self.ready = asyncio.Event()
        self.urls: dict[str, str] = {}
        self._knows_addresses = False
        self._forwarder = Forwarder(
            settings.forward,
            Balancer(random.random),
            self.metrics,
            time.monotonic,
        )
        self._steered = (
            SteeredForwarder(self._forwarder, steering(settings.steer)) if settings.steer else None
        )
        self._pacer = Pacer(
            self._update,
            min_interval_s=settings.min_sync_period_s,
            retry_s=settings.sync_period_s,
        )

    async def run(self, stop: Stop) -> None:
        """Serve until asked to stop, then drain. Raises PyproxyError when it cannot go on."""
        _raise_descriptor_limit()
        if self._steered is not None:
            await self._steered.start()
        try:
            async with asyncio.TaskGroup() as group:
                ports = _start(group, self._http_ports())
                inputs = _start(group, self._inputs())
                await stop.asked.wait()
                self.health.is_stopping = True
                for task in inputs:
                    task.cancel()
                await self._drain(stop)
                for task in ports:
                    task.cancel()
        except BaseExceptionGroup as faults:
            raise _cause(faults) from faults
        finally:
            self._forwarder.close()

    def _http_ports(self) -> _Tasks:
        metrics, health = self._settings.metrics, self._settings.health
        metrics_routes = web.metrics_routes(registry(self.metrics))
        health_routes = web.health_routes(self.health, self.metrics, self.detail)
        return {
            "the metrics port": self._serve("metrics", metrics, metrics_routes),
            "the health port": self._serve("health", health, health_routes),
        }

    def _serve(
        self, name: str, at: HostPort, routes: dict[str, web.Handler]
    ) -> Coroutine[Any, Any, None]:
        bound = partial(self.urls.__setitem__, name)
        retry_s = self._settings.http_retry_s
        return web.serve(name, *at, routes, on_bound=bound, retry_s=retry_s)

    def _inputs(self) -> _Tasks:
        source: ManifestSource | ApiServerSource
        if self._settings.manifests:
            source = ManifestSource(self._settings.manifests, self._publish, self.metrics)
        else:
            self.health.is_node_eligible = False  # until the API server knows the node (12.14)
            source = ApiServerSource(self._settings.api, self._publish, self.metrics)
        inputs = {
            "the source": source.run(),
            "the pacer": self._pacer.run(),
            "the follower of local addresses": addresses.follow(self._set_addresses),
        }
        if self._steered is not None:
            inputs["the keeper of steering"] = self._steered.keep(self._settings.sync_period_s)
            inputs["the follower of listeners"] = self._steered.follow_listeners(self._request)
        if self._settings.config_file is not None:
            inputs["the follower of the configuration"] = config_file.follow(
                self._settings.config_file
            )
        return inputs

    def _publish(self, event: Event) -> None:
        changes = self.store.apply(event)
        if event.resource == "nodes":
            self._look_at_node()
        self._changed(changes)

    def _set_addresses(self, found: frozenset[str]) -> None:
        self._knows_addresses = True
        self._changed(self.store.set_local_addresses(found))

    def _look_at_node(self) -> None:
        node = self.store.node
        if node is not None:
            self.health.is_node_eligible = node.is_eligible
        elif not self._settings.manifests:
            self.health.is_node_eligible = False

    def _changed(self, changes: Changes) -> None:
        for note in changes.notes[:MAX_NOTES]:
            log.warning("%s", note)
        if len(changes.notes) > MAX_NOTES:
            log.warning("and %d more notes of this kind", len(changes.notes) - MAX_NOTES)
        # A partial table would refuse clients of what is yet to come (17.1).
        is_whole = self.store.is_synced and self._knows_addresses
        if is_whole and (changes.is_visible or not self.ready.is_set()):
            self._request()

    def _request(self) -> None:
        self.health.queued(datetime.now(UTC))
        self._pacer.request()

    async def _update(self) -> None:
        table = self.store.table()
        if self._steered is not None:
            await self._steered.update(table)
        else:
            self._forwarder.update(table)
        self.health.updated(datetime.now(UTC))
        if not self.ready.is_set():
            log.info("listening on %d addresses and ports", len(self._forwarder.listening()))
            # The table stays for good: a full collection over 100,000 endpoints would hold up
            # traffic for a tenth of a second, and find nothing.
            gc.collect()
            gc.freeze()
            self.ready.set()

    def detail(self) -> dict[str, Any]:
        """What the health port tells beside yes or no."""
        faults = self._forwarder.bind_faults()
        return {
            "synced": self.store.is_synced,
            "generation": self.metrics.table_generation,
            "frontends": self.metrics.frontends,
            "watches": dict(self.metrics.watch_states),
            "unbound": [
                {"address": address, "port": port, "protocol": protocol, "reason": reason}
                for (address, port, protocol), reason in sorted(faults.items())
            ],
        }

    async def _drain(self, stop: Stop) -> None:
        """Wait for live connections, but not for longer than allowed, nor after a second signal."""
        timeout_s = self._settings.drain_timeout_s
        async with asyncio.TaskGroup() as group:
            drain = group.create_task(self._forwarder.drain(timeout_s))
            forced = group.create_task(stop.forced.wait())
            await asyncio.sleep(0)  # let it stop listening
            live = self._forwarder.live_connections
            log.info("draining: %d connections are live, for up to %g s", live, timeout_s)
            await asyncio.wait((drain, forced), return_when=asyncio.FIRST_COMPLETED)
            drain.cancel()
            forced.cancel()


def steer_settings(numbers: SteeringConfig) -> SteerSettings:
    """The numbers that the configuration gives to steering."""
    return SteerSettings(
        mark=numbers.mark, route_table=numbers.route_table, rule_priority=numbers.rule_priority
    )


def steering(settings: SteerSettings) -> Steering:
    """Put the parts together that steer."""
    route = PolicyRoute(settings.mark, settings.route_table, settings.rule_priority)
    return Steering(Nft(), route, settings)


def _start(group: asyncio.TaskGroup, tasks: _Tasks) -> list[asyncio.Task[None]]:
    return [group.create_task(_forever(name, task)) for name, task in tasks.items()]


async def _forever(name: str, task: Coroutine[Any, Any, None]) -> None:
    """Await a task that must not end: when one does, the process is no longer whole."""
    await task
    raise RuntimeError(f"{name} has finished unexpectedly")


def _cause(faults: BaseException) -> BaseException:
    """The first error of ours in a group of them, for a person to read; else the group."""
    found: BaseException | None = faults
    if isinstance(faults, BaseExceptionGroup):
        found = faults.subgroup(PyproxyError)
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found or faults


def _raise_descriptor_limit() -> None:
    """Allow as many descriptors as the system does: each connection takes two."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(settings: AgentSettings, loop: str) -> bool:
    """Run an agent on a new event loop, `uvloop` or `asyncio`, until it is asked to stop.

    Return whether it could drain in peace: whether no second signal came.
    """

    async def main() -> bool:
        stop = Stop()
        with stop.on_signals():
            await Agent(settings).run(stop)
        return not stop.forced.is_set()

    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        return runner.run(main())


def loop_factory(name: str) -> Any:
    """Return what makes an event loop of the name."""
    if name == "asyncio":
        return asyncio.new_event_loop
    import uvloop

    return uvloop.new_event_loop
