"""An ApiServerSource that runs against some API server, and what it has said so far."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from pyproxy.metrics import Metrics
from pyproxy.model.events import (
    Applied,
    Deleted,
    Event,
    Listed,
    Object,
    ObjectKey,
    Resource,
    key_of,
)
from pyproxy.source.apiserver import ApiServerSettings, ApiServerSource
from tests.support.fake_api_bell import Bell

Json = dict[str, Any]

# Waits of milliseconds; a limit that a test does not want to meet is far away.
FAST = ApiServerSettings(
    backoff_base_s=0.01,
    backoff_cap_s=0.02,
    steady_after_s=0.02,
    watch_timeout_s=1000.0,
    watch_margin_s=1000.0,
    bookmark_silence_s=1000.0,
    stream_silence_s=1000.0,
    answer_timeout_s=1000.0,
    absent_retry_s=0.02,
    token_refresh_s=1000.0,
)


class RecordedSource:
    """What a source has published, as events and as the objects that there are after them."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.events: list[Event] = []
        self.objects: dict[Resource, dict[ObjectKey, Object]] = {}
        self._bell = Bell()

    def publish(self, event: Event) -> None:
        self.events.append(event)
        match event:
            case Listed(resource, values):
                self.objects[resource] = {key_of(value): value for value in values}
            case Applied(resource, value):
                self.objects[resource][key_of(value)] = value
            case Deleted(resource, key):
                self.objects[resource].pop(key, None)
        self._bell.ring()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on what was published holds."""
        await self._bell.until(condition)

    async def until_listed(self, *resources: Resource) -> None:
        """Wait for the first list of each resource; of all that have objects here, by default."""
        await self.until(lambda: all(self.lists(resource) for resource in resources))

    def names(self, resource: Resource) -> set[str]:
        """The names of the objects that there are."""
        return {key[1] for key in self.objects.get(resource, {})}

    def lists(self, resource: Resource) -> int:
        """How many lists of a resource were published."""
        return sum(isinstance(one, Listed) and one.resource == resource for one in self.events)

    def restarts(self, resource: Resource) -> dict[str, int]:
        """How often each reason has ended a request of the resource."""
        return {
            why: n for (what, why), n in self.metrics.watch_restarts.items() if what == resource
        }

    async def until_restarted(self, resource: Resource, reason: str, times: int) -> None:
        """Wait for failures that nobody rings for. They come by themselves: the loop has to run."""
        async with asyncio.timeout(30):
            while self.restarts(resource).get(reason, 0) < times:
                await asyncio.sleep(0.001)


@asynccontextmanager
async def running_source(
    kubeconfig: Path, settings: ApiServerSettings = FAST
) -> AsyncIterator[RecordedSource]:
    """Run a source for as long as the context is open."""
    recorded = RecordedSource()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(_source(kubeconfig, settings, recorded).run())
        try:
            yield recorded
        finally:
            task.cancel()


async def run_source(kubeconfig: Path, settings: ApiServerSettings = FAST) -> None:
    """Run a source that is to fail, until it does; the error is raised as its caller sees it."""
    async with asyncio.timeout(30):
        await _source(kubeconfig, settings, RecordedSource()).run()


def _source(
    kubeconfig: Path, settings: ApiServerSettings, recorded: RecordedSource
) -> ApiServerSource:
    settings = msgspec.structs.replace(settings, kubeconfig=str(kubeconfig))
    return ApiServerSource(settings, recorded.publish, recorded.metrics)


def service(name: str, *, namespace: str = "default", **spec: Any) -> Json:
    """A Service with one port."""
    ports = [{"name": "http", "port": 80, "protocol": "TCP"}]
    metadata = {"name": name, "namespace": namespace}
    return {"metadata": metadata, "spec": {"type": "ClusterIP", "ports": ports} | spec}


def endpoint_slice(name: str, *addresses: str, namespace: str = "default") -> Json:
    """An IPv4 EndpointSlice of the Service of the same name."""
    labels = {"kubernetes.io/service-name": name}
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [one], "conditions": {"ready": True}} for one in addresses],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }


def node(name: str, zone: str = "zone-a") -> Json:
    """A Node."""
    labels = {"topology.kubernetes.io/zone": zone}
    addresses = [{"type": "InternalIP", "address": "192.168.0.2"}]
    return {"metadata": {"name": name, "labels": labels}, "status": {"addresses": addresses}}


def service_cidr(name: str, *cidrs: str) -> Json:
    """A ServiceCIDR."""
    return {"metadata": {"name": name}, "spec": {"cidrs": list(cidrs)}}
