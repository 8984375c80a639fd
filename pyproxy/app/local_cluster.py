"""One cluster of `pyproxy local`: what is known of it, and the forwarding of its Services.

The watcher, the decisions and the forwarder are those of a node. Between source and store stands
the projection, which gives each Service its place on the loopback network.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from pyproxy.config import ProxyConfig
from pyproxy.core.balancer import Balancer
from pyproxy.core.local_projection import Projection, projected
from pyproxy.core.local_service import LocalService
from pyproxy.core.loopback import Placements, Socket
from pyproxy.core.store import Store
from pyproxy.forward.binding import NOT_TO_BE_HAD
from pyproxy.forward.forwarder import Forwarder
from pyproxy.forward.settings import ForwardSettings
from pyproxy.metrics import Metrics
from pyproxy.model.endpoint import EndpointSlice
from pyproxy.model.events import Applied, Deleted, Event, Listed, Object, ObjectKey, key_of
from pyproxy.model.service import Service, ServiceName

if TYPE_CHECKING:
    from pyproxy.forward.dial import Dialler
    from pyproxy.forward.poller import Poller
    from pyproxy.model.table import FrontendKey

log = logging.getLogger(__name__)

_WATCHED = ("services", "endpointslices")


class LocalCluster:
    """The Services of one context. context: "" for the only one.

    dialler: makes what connects to endpoints, given the direct one.
    """

    def __init__(
        self,
        context: str,
        settings: ForwardSettings,
        random: Callable[[], float],
        clock: Callable[[], float],
        dialler: "Callable[[Poller, Dialler], Dialler]",
    ) -> None:
        self.context = context
        self.metrics = Metrics()
        self._objects: dict[str, dict[ObjectKey, Object]] = {name: {} for name in _WATCHED}
        self._missing = set(_WATCHED)
        self._projection = Projection()
        self._store = Store(ProxyConfig())
        for resource in ("nodes", "servicecidrs"):
            self._store.apply(Listed(resource, ()))
        self._forwarder = Forwarder(
            settings, Balancer(random), self.metrics, clock, dialler=dialler
        )

    @property
    def is_listed(self) -> bool:
        """Whether all was listed once: before that nothing may be concluded from what is not."""
        return not self._missing

    def apply(self, event: Event) -> None:
        """Take in an event of the source. What it says of nodes is of no use here."""
        objects = self._objects.get(event.resource)
        if objects is None:
            return
        match event:
            case Listed(values=values):
                self._missing.discard(event.resource)
                self._objects[event.resource] = {key_of(value): value for value in values}
            case Applied(value=value):
                objects[key_of(value)] = value
            case Deleted(key=key):
                objects.pop(key, None)

    def services(self) -> list[LocalService]:
        """Every Service with its slices, in the order of their names."""
        slices: dict[ServiceName, list[EndpointSlice]] = {}
        for value in self._objects["endpointslices"].values():
            if isinstance(value, EndpointSlice):
                slices.setdefault(value.service, []).append(value)
        return [
            LocalService(
                context=self.context,
                service=service,
                slices=tuple(sorted(slices.get(service.key, ()), key=lambda s: s.name)),
            )
            for _, service in sorted(self._objects["services"].items())
            if isinstance(service, Service)
        ]

    def ready_endpoints(self) -> Iterator[tuple[str, int]]:
        """Yield address and port of a ready TCP endpoint of each slice that has one."""
        for value in self._objects["endpointslices"].values():
            if isinstance(value, EndpointSlice) and value.address_type != "FQDN":
                ready = next((e.address for e in value.endpoints if e.ready), None)
                port = next((p.port for p in value.ports if p.protocol == "TCP"), None)
                if ready is not None and port is not None:
                    yield ready, port

    def serve(self, services: Iterable[LocalService], placements: Placements) -> None:
        """Forward what has a place."""
        touched: set[FrontendKey] = set()
        for event in self._projection.changes(projected(services, placements)):
            changes = self._store.apply(event)
            touched.update(changes.frontends)
            for note in changes.notes:
                log.warning("%s", note.text)
        self._forwarder.update(self._store.table(), touched)

    def taken(self) -> dict[Socket, str]:
        """The places that are not to be had, with the reason. Others may be."""
        return {
            Socket(*key): reason
            for key, reason in self._forwarder.bind_faults().items()
            if reason in NOT_TO_BE_HAD
        }

    async def drain(self, timeout_s: float) -> None:
        """Take no new clients; wait for the live connections."""
        await self._forwarder.drain(timeout_s)

    def close(self) -> None:
        """Reset what is live."""
        self._forwarder.close()
