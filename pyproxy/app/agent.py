"""The agent: one process that puts sources, the pipeline of changes and the HTTP ports together.

Stopping goes the other way round than starting: not ready any more, no new clients, live
connections until the drain time is over, then the rest.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pyproxy.app import control, privileges, ui
from pyproxy.app.access_log import AccessLog
from pyproxy.app.agent_settings import AgentSettings
from pyproxy.app.anew import begin_anew, reap_former_workers
from pyproxy.app.config_file import Change
from pyproxy.app.control_parts import Parts
from pyproxy.app.data_plane import data_plane
from pyproxy.app.descriptors import raise_descriptor_limit
from pyproxy.app.faults import cause_of
from pyproxy.app.leaving import Leaving
from pyproxy.app.loops import loop_factory
from pyproxy.app.pipeline import Pipeline
from pyproxy.app.recent_errors import RecentErrors
from pyproxy.app.steered import SteeredForwarder
from pyproxy.app.steering import route_of
from pyproxy.app.stop import Stop
from pyproxy.app.succession import Role, Succession
from pyproxy.app.tasks import Tasks, first, start
from pyproxy.app.vitals import keep_vitals
from pyproxy.config import HostPort
from pyproxy.core.health import ProxyHealth
from pyproxy.core.store import Store
from pyproxy.forward.source import FIRST_PORT, LAST_PORT
from pyproxy.metrics import Exposition, Metrics
from pyproxy.model.events import Event
from pyproxy.ops import control as control_socket
from pyproxy.ops import web
from pyproxy.ops.events import ApiSink, EventPublisher, EventSink, LogSink, started
from pyproxy.source.apiserver import ApiServerSource
from pyproxy.source.manifests import ManifestSource
from pyproxy.steer import addresses
from pyproxy.steer.bridge import BridgeReplies
from pyproxy.steer.migration import keep_waiting_clients
from pyproxy.steer.nft import Nft
from pyproxy.steer.reconciler import Steering

log = logging.getLogger(__name__)


class Agent:
    """One process that serves Services.

    ready: set once the first table is served. urls: of the `metrics` and the `health` port, and the
    path of the `control` socket, once they listen.
    """

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self.metrics = Metrics()
        self.store = Store(settings.proxy)
        self.health = ProxyHealth(2 * settings.sync_period_s, time.monotonic)
        self.ready = asyncio.Event()
        self.urls: dict[str, str] = {}
        self._draining = asyncio.Event()
        self._errors = RecentErrors(self.metrics, _unix_s)
        self._access_log = AccessLog(settings.access_log, self.store, self.metrics, _unix_s)
        self._forwarder = data_plane(settings, self.metrics, self._access_log)
        # Two agents that steer on one node are an older and a newer one.
        self._is_shared = settings.steer is not None
        places = settings.control_sockets if self._is_shared else ()
        self._succession = Succession(self._role(), places, self._forwarder)
        health_port = settings.health.port if self._is_shared else None
        self._leaving = Leaving(self._forwarder, self._succession, self.health, health_port)
        self._change = Change()
        self._steered = self._bridge = None
        self._nft = Nft()
        if settings.steer is not None:
            steering = Steering(self._nft, route_of(settings.steer), settings.steer)
            self._steered = SteeredForwarder(self._forwarder, steering, self.metrics)
            if settings.forward.source_address == "auto":
                self._bridge = BridgeReplies(self._nft, (FIRST_PORT, LAST_PORT))
        self._source = self._make_source()
        self._events = EventPublisher(self._make_sink(), time.monotonic)
        self._pipeline = Pipeline(
            self.store,
            self._forwarder,
            self._steered,
            self.health,
            self.metrics,
            self._events,
            self.ready.set,
        )
        if self._bridge is not None:
            self._pipeline.await_bridge()

    async def run(self, stop: Stop) -> None:
        """Serve until asked to stop, then drain. Raises PyproxyError when it cannot go on."""
        raise_descriptor_limit()
        if self._steered is not None:
            keep_waiting_clients()
        try:
            async with asyncio.TaskGroup() as group:
                await self._succession.look()
                ports = start(group, self._http_ports())
                lasting = start(group, self._lasting())
                inputs = start(group, self._inputs())
                asked, change = stop.asked, self._change
                await first(asked, self._draining, self._succession.asked, change.seen)
                if change.seen.is_set() and self._settings.workers:
                    self._access_log.close()
                    begin_anew([worker["pid"] for worker in self._forwarder.detail()])
                await self._leaving.leave(inputs, has_health_port="health" in self.urls)
                if not (asked.is_set() or change.seen.is_set()):
                    await first(asked, self._succession.asked)
                room = group.create_task(self._make_room(ports))
                await self._leaving.drain(stop, self._settings.drain_timeout_s)
                if self._succession.asked.is_set():
                    await self._leaving.stand_by(stop)
                for task in (room, *ports, *lasting):
                    task.cancel()
            change.check()
        except BaseExceptionGroup as faults:
            raise cause_of(faults) from faults
        finally:
            self._forwarder.close()
            self._access_log.close()
            self._nft.close()
            await self._pipeline.close()

    async def _make_room(self, ports: list[asyncio.Task[None]]) -> None:
        await self._leaving.make_room(ports)
        await self._pipeline.close()

    def _role(self) -> Role:
        settings = self._settings
        return Role(
            node=settings.proxy.node_name,
            proxy_name=settings.proxy.proxy_name or "",
            source="manifests" if settings.manifests else "api",
            steering="none" if settings.steer is None else "nft",
        )

    def _make_source(self) -> ManifestSource | ApiServerSource:
        if self._settings.manifests:
            return ManifestSource(self._settings.manifests, self._publish, self.metrics)
        self.health.is_node_eligible = False  # until the API server knows the node (12.14)
        return ApiServerSource(self._settings.api, self._publish, self.metrics)

    def _make_sink(self) -> EventSink:
        return ApiSink(self._source) if isinstance(self._source, ApiServerSource) else LogSink()

    def _http_ports(self) -> Tasks:
        metrics, health = self._settings.metrics, self._settings.health
        shown = Exposition(self.metrics, with_kubeproxy=self._settings.kubeproxy_metrics)
        metrics_routes = web.metrics_routes(shown, self._settings.configz)
        health_routes = web.health_routes(self.health, self.metrics, self.detail)
        ports = {
            "the metrics port": self._serve("metrics", metrics, metrics_routes),
            "the health port": self._serve("health", health, health_routes),
        }
        parts = self._control_parts()
        ports |= ui.tasks(parts, self._settings, self.urls)
        if self._settings.control_sockets:
            ports["the control socket"] = self._serve_control(control.routes(parts))
        return ports

    async def _serve_control(self, routes: dict[tuple[str, str], control_socket.Handler]) -> None:
        await self._succession.is_sole.wait()  # until then it is the older agent's
        await control_socket.serve(
            self._settings.control_sockets,
            routes,
            on_bound=partial(self.urls.__setitem__, "control"),
            retry_s=self._settings.http_retry_s,
        )

    def _lasting(self) -> Tasks:
        """What goes on while it drains, and after another agent took over."""
        return {
            "the data plane": self._forwarder.run(),
            "the access log": self._access_log.run(),
            "the look at this process": keep_vitals(self.metrics, self._forwarder.count_ejected),
            "the follower of errors": self._errors.follow(),
            "the end of former workers": reap_former_workers(),
        }

    def _control_parts(self) -> Parts:
        settings = self._settings
        return Parts(
            store=self.store,
            forwarding=self._forwarder,
            metrics=self.metrics,
            health=self.health,
            errors=self._errors,
            source="manifests" if settings.manifests else "api",
            steering="none" if settings.steer is None else "nft",
            workers=settings.workers,
            started_s=_unix_s(),
            is_serving=self.ready.is_set,
            drain=self._draining.set,
            succession=self._succession,
        )

    def _serve(
        self, name: str, at: HostPort, routes: dict[str, web.Handler]
    ) -> Coroutine[Any, Any, None]:
        bound = partial(self.urls.__setitem__, name)
        retry_s = self._settings.http_retry_s
        may_share = self.ready if self._is_shared else None
        return web.serve(name, *at, routes, on_bound=bound, retry_s=retry_s, may_share=may_share)

    def _inputs(self) -> Tasks:
        settings, pipeline = self._settings, self._pipeline
        pacer = pipeline.pacer(
            min_interval_s=settings.min_sync_period_s, retry_s=settings.sync_period_s
        )
        inputs = {
            "the source": self._source.run(),
            "the pacer": pacer.run(),
            "the publisher of events": self._events.run(),
            "the follower of local addresses": addresses.follow(pipeline.set_addresses),
        }
        mend = _nothing if self._steered is None else self._steered.mend
        inputs["the succession"] = self._succession.take_over(self.ready, mend)
        if self._steered is not None:
            inputs["the keeper of steering"] = self._steered.keep(settings.sync_period_s)
            inputs["the follower of listeners"] = self._steered.follow_listeners(
                pipeline.listening_changed
            )
        if self._bridge is not None:
            inputs["the follower of bridges"] = self._bridge.follow(pipeline.set_bridge_opaque)
        if settings.config_file is not None:
            inputs["the follower of the configuration"] = self._change.follow(settings.config_file)
        self._events.publish(started(settings.proxy.node_name))
        return inputs

    def _publish(self, event: Event) -> None:
        self._pipeline.publish(event)
        if event.resource == "nodes":
            self._look_at_node()

    def _look_at_node(self) -> None:
        node = self.store.node
        if node is not None:
            self.health.is_node_eligible = node.is_eligible
            if self._bridge is not None:
                self._bridge.serve(node.pod_cidrs)
        elif not self._settings.manifests:
            self.health.is_node_eligible = False
            log.warning(
                "the API server knows no Node %s: until it does, /healthz answers 503, no endpoint"
                " counts as local, and no zone is known; --hostname-override sets the name",
                self._settings.proxy.node_name,
            )

    def detail(self) -> dict[str, Any]:
        """What the health port tells beside yes or no."""
        faults = self._forwarder.bind_faults()
        return {
            "synced": self.store.is_synced,
            "generation": self.metrics.table_generation,
            "frontends": self.metrics.frontends,
            "watches": dict(self.metrics.watch_states),
            "workers": self._forwarder.detail(),
            "unbound": [
                {"address": address, "port": port, "protocol": protocol, "reason": reason}
                for (address, port, protocol), reason in sorted(faults.items())
            ],
        }


def _unix_s() -> float:
    return datetime.now(UTC).timestamp()


async def _nothing() -> None:
    """Mend nothing: nothing is steered."""


def run(settings: AgentSettings, loop: str) -> bool:
    """Run an agent on a new event loop, `uvloop` or `asyncio`, until it is asked to stop.

    Return whether it could drain in peace: whether no second signal came.
    """

    async def main() -> bool:
        stop = Stop()
        with stop.on_signals():
            await Agent(settings).run(stop)
        return not stop.forced.is_set()

    privileges.keep(privileges.AGENT)
    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        return runner.run(main())
