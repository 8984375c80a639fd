"""The Services of the soak at the fake API server, and when the agent must have heard of them."""

import asyncio
from typing import Literal

from tests.soak.wire import ENDPOINT_PORT, PORT
from tests.support.backends import new_address
from tests.support.builders import (
    FAILED,
    LEAVING,
    Json,
    make_endpoint,
    make_port,
    make_service,
    make_slice,
)
from tests.support.fake_api import FakeApiServer

State = Literal["ready", "terminating", "failed", "gone"]

# From the moment that the API server has sent all to when the agent has surely acted upon it.
_GRACE_S = 3.0
# From an outage's end until the agent must be back: its longest pause between tries, and more.
_BACK_S = 120.0


class Service:
    """A Service with TCP and UDP ports, and the states of its endpoints as the slice has them."""

    def __init__(self, name: str, endpoints: list[str]) -> None:
        self.name = name
        self.vip = new_address()
        self.states: dict[str, State] = dict.fromkeys(endpoints, "ready")

    def service(self) -> Json:
        ports = [make_port(PORT, "tcp"), make_port(PORT, "udp", "UDP")]
        return make_service(self.name, cluster_ip=self.vip, ports=ports)

    def slice(self) -> Json:
        conditions = {"ready": {"ready": True}, "terminating": LEAVING, "failed": FAILED}
        listed = [
            make_endpoint(address, **conditions[state])
            for address, state in self.states.items()
            if state != "gone"
        ]
        ports: list[Json] = [
            {"name": name, "protocol": protocol, "port": ENDPOINT_PORT}
            for name, protocol in (("tcp", "TCP"), ("udp", "UDP"))
        ]
        return make_slice(*listed, service=self.name, ports=ports)


class Cluster:
    """Writes to the API server, and takes it away. outages: how often that was."""

    def __init__(self, api: FakeApiServer) -> None:
        self._api = api
        self.outages = 0
        self.relists = 0
        self.breaks = 0

    def create(self, service: Service) -> None:
        self._api.create("services", service.service())
        self._api.create("endpointslices", service.slice())

    def update(self, service: Service) -> None:
        self._api.update("endpointslices", service.slice())

    def delete(self, service: Service) -> None:
        self._api.delete("services", service.name, "default")
        self._api.delete("endpointslices", f"{service.name}-1", "default")

    async def go_away(self, seconds: float, *, forgets: bool) -> None:
        """Be away for a while. forgets: all watches have to begin anew then, with a list."""
        self.outages += 1
        await self._api.stop()
        try:
            await asyncio.sleep(seconds)
            if forgets:
                self.relists += 1
                self._api.store.compact()
        finally:
            await self._api.start()

    def break_watches(self) -> None:
        """Reset their connections."""
        self.breaks += 1
        self._api.break_watches()

    def expire_watches(self) -> None:
        """End them with 410 Gone: their positions are too old, a list has to tell all anew."""
        self.relists += 1
        self._api.store.compact()
        for watch in self._api.watches():
            watch.wake.set()

    async def settled(self) -> None:
        """Wait until the agent acts upon all that was written. Raises TimeoutError."""
        written = self._api.store.version
        async with asyncio.timeout(_BACK_S):
            outages = -1
            while outages != self.outages:
                while not self._is_told(written):
                    await asyncio.sleep(0.05)
                outages = self.outages
                await asyncio.sleep(_GRACE_S)

    def _is_told(self, version: int) -> bool:
        return all(
            any(watch.position >= version for watch in self._api.watches(resource))
            for resource in ("services", "endpointslices")
        )
