"""One context of `pyproxy local`: its cluster, the watch of it, and the way to its endpoints."""

import asyncio
import difflib
import logging
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from pyproxy.app.faults import cause_of
from pyproxy.app.local_cluster import LocalCluster
from pyproxy.app.local_dial import LocalDialler, Upstream, Way
from pyproxy.core.local_service import Claimant, LocalService
from pyproxy.errors import ApiError
from pyproxy.forward.settings import ForwardSettings
from pyproxy.metrics import Metrics
from pyproxy.model.service import Protocol as IpProtocol
from pyproxy.source.apiserver import ApiServerSettings, ApiServerSource, Selection
from pyproxy.tunnel.pods import PodTunnels

if TYPE_CHECKING:
    from pyproxy.forward.dial import Dialler
    from pyproxy.forward.poller import Poller
    from pyproxy.model.events import Event

log = logging.getLogger(__name__)

# The API server, the kubelet and the container runtime have to answer before the pod can.
_CONNECT_TIMEOUT_S = 10.0
_CONNECT_DEADLINE_S = 30.0

_ALL: frozenset[IpProtocol] = frozenset({"TCP", "UDP"})
_STREAMS: frozenset[IpProtocol] = frozenset({"TCP"})


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """A context, and how its API server is reached."""

    context: str
    api: ApiServerSettings

    def __str__(self) -> str:
        return f"context {self.context}" if self.context else "the cluster"


class Served:
    """A cluster that is served. on_change: called after each change of what there is.

    To be made in a running loop.
    """

    def __init__(self, cluster: Cluster, upstream: Upstream, on_change: Callable[[], None]) -> None:
        self.context = cluster.context
        self._cluster = cluster
        self._on_change = on_change
        self._is_listed = asyncio.Event()
        self._skipped: set[str] = set()
        self._dialler: LocalDialler | None = None
        forward = ForwardSettings(
            connect_timeout_s=_CONNECT_TIMEOUT_S,
            connect_deadline_s=_CONNECT_DEADLINE_S,
            tells_taken=False,
        )
        self.cluster = LocalCluster(
            cluster.context, forward, random.random, time.monotonic, self._make_dialler
        )
        self.way = Way(upstream, str(cluster), self.cluster.ready_endpoints, on_change)
        self._source = ApiServerSource(cluster.api, self._publish, Metrics())

    async def run(self) -> None:
        """Watch and carry, until cancelled. Raises ConfigError or ApiError when it cannot."""
        assert self._dialler is not None
        selection = self._cluster.api.selection or Selection()
        where = ", ".join(selection.namespaces) or "all namespaces"
        log.info("%s: watching the Services of %s", self._cluster, where)
        try:
            async with asyncio.TaskGroup() as group, PodTunnels(self._source) as tunnels:
                group.create_task(self._dialler.serve(tunnels))
                group.create_task(self._source.run())
                await self._is_listed.wait()
                group.create_task(self.way.run())
                await self._look_for_namespaces()
                await asyncio.Event().wait()
        except BaseExceptionGroup as faults:
            cause = cause_of(faults)
            if not isinstance(cause, ApiError):
                raise
            hint = " (deploy/local has all that is needed)" if cause.status == 403 else ""
            raise ApiError(f"{self._cluster}: {cause}{hint}", status=cause.status) from cause

    @property
    def is_ready(self) -> bool:
        """Whether it is known what there is, and how it is reached."""
        return self._is_listed.is_set() and self.way.is_known

    @property
    def protocols(self) -> frozenset[IpProtocol]:
        """Which can be forwarded now."""
        return _ALL if self.way.is_direct else _STREAMS

    def left_out(self, services: list[LocalService]) -> dict[Claimant, str]:
        """Return which ports are not forwarded, by Service; each is told once."""
        notes: dict[Claimant, str] = {}
        for local in services:
            ports = [
                f"{port.port}/{port.protocol}"
                for port in local.service.ports
                if port.protocol not in self.protocols
            ]
            if ports and local.kind != "ExternalName":
                notes[local.claimant] = f"left out: {', '.join(ports)}"
                self._tell_left_out(local.claimant, ", ".join(ports))
        return notes

    def _tell_left_out(self, claimant: Claimant, ports: str) -> None:
        why = "SCTP is not supported" if self.way.is_direct else "a port-forward carries TCP only"
        text = f"{claimant}: {ports} is left out: {why}"
        if text not in self._skipped:
            self._skipped.add(text)
            log.warning("%s", text)

    async def _look_for_namespaces(self) -> None:
        """Tell of namespaces that are not there: misspelt, or yet to come."""
        selection = self._cluster.api.selection
        wanted = selection.namespaces if selection else ()
        # A user who may not list namespaces is not told.
        known = await self._source.names("/api/v1/namespaces") if wanted else None
        if known is None:
            return
        for namespace in wanted:
            if namespace not in known:
                near = difflib.get_close_matches(namespace, known, n=1)
                hint = f" (did you mean {near[0]}?)" if near else ""
                log.warning(
                    "%s has no namespace %s%s; waiting for it", self._cluster, namespace, hint
                )

    def _make_dialler(self, poller: "Poller", direct: "Dialler") -> LocalDialler:
        self._dialler = LocalDialler(poller, direct, lambda: self.way.is_direct)
        return self._dialler

    def _publish(self, event: "Event") -> None:
        self.cluster.apply(event)
        if self.cluster.is_listed:
            self._is_listed.set()
            self._on_change()
