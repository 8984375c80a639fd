"""How an agent leaves: it steers no more, takes no new clients, makes room, and drains."""

import asyncio
import logging

from pyproxy.app.forwarding import Forwarding
from pyproxy.app.stop import Stop
from pyproxy.app.succession import Succession
from pyproxy.app.tasks import cancelled
from pyproxy.core.health import ProxyHealth
from pyproxy.ops.shared_port import listeners

log = logging.getLogger(__name__)


class Leaving:
    """The steps, in their order. has_successor: whether another agent serves by then.

    health_port: a newer agent listens there too once it serves, and not before; None: none ever
    does.
    """

    def __init__(
        self,
        forwarding: Forwarding,
        succession: Succession,
        health: ProxyHealth,
        health_port: int | None,
    ) -> None:
        self.has_successor = False
        self._forwarding = forwarding
        self._succession = succession
        self._health = health
        self._health_port = health_port

    async def leave(self, inputs: list[asyncio.Task[None]], *, has_health_port: bool) -> None:
        """End the inputs, and with them steering; take no new clients.

        has_health_port: whether one of the listeners on that port is this agent.
        """
        self._health.is_stopping = True
        self.has_successor = self._succession.asked.is_set()
        if not self.has_successor and self._health_port is not None:
            found = await asyncio.to_thread(listeners, self._health_port)
            self.has_successor = found > has_health_port
        await cancelled(inputs)
        live = await self._forwarding.stop_listening(has_successor=self.has_successor)
        why = "for another agent serves" if self.has_successor else "as asked"
        log.info("taking no new clients, %s; %d connections are live", why, live)
        self._succession.left.set()

    async def make_room(self, ports: list[asyncio.Task[None]]) -> None:
        """Leave HTTP ports and UDP flows to a successor, if there is one by now."""
        self.has_successor = self.has_successor or self._succession.asked.is_set()
        if self.has_successor:
            await cancelled(ports)

    async def drain(self, stop: Stop, timeout_s: float) -> None:
        """Wait for live connections, but not for longer than allowed, nor after a second signal."""
        live = await self._forwarding.stop_listening(has_successor=self.has_successor)
        log.info("draining: %d connections are live, for up to %g s", live, timeout_s)
        async with asyncio.TaskGroup() as group:
            drain = group.create_task(self._forwarding.drain(timeout_s))
            forced = group.create_task(stop.forced.wait())
            await asyncio.wait((drain, forced), return_when=asyncio.FIRST_COMPLETED)
            drain.cancel()
            forced.cancel()
