"""How an agent leaves: it steers no more, takes no new clients, makes room, and drains."""

import asyncio
import contextlib
import logging

from pyproxy.app.forwarding import Forwarding
from pyproxy.app.stop import Stop
from pyproxy.app.succession import Succession
from pyproxy.app.tasks import cancelled
from pyproxy.core.health import ProxyHealth
from pyproxy.errors import PyproxyError
from pyproxy.ops.shared_port import listeners

log = logging.getLogger(__name__)

# How often to look for a successor; it is gone when it was not there so many times in a row.
_LOOK_S = 1.0
_MISSES = 3


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
        self.has_successor = self._succession.asked.is_set()
        if not self.has_successor and self._health_port is not None:
            found = await asyncio.to_thread(listeners, self._health_port)
            self.has_successor = found > has_health_port
        # Not a word of stopping where a load balancer may ask either: the successor is well.
        self._health.is_stopping = not self.has_successor
        await cancelled(inputs)
        live = await self._forwarding.stop_listening(has_successor=self.has_successor)
        why = "for another agent serves" if self.has_successor else "as asked"
        log.info("taking no new clients, %s; %d connections are live", why, live)
        self._succession.left.set()

    async def make_room(self, ports: list[asyncio.Task[None]]) -> None:
        """Leave HTTP ports and UDP flows to a successor, once there is one."""
        if not self.has_successor:
            await self._succession.asked.wait()
            self.has_successor = True
            await self._forwarding.stop_listening(has_successor=True)
        await cancelled(ports)

    async def stand_by(self, stop: Stop) -> None:
        """Wait, after another agent took over, until asked to stop.

        A supervisor would start again what ends by itself, and then this one would take over.
        Raises PyproxyError when that agent is gone: now it should be started again.
        """
        misses = 0
        while misses < _MISSES:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await stop.asked.wait()
                    return
            port = self._health_port
            found = 1 if port is None else await asyncio.to_thread(listeners, port)
            misses = 0 if found else misses + 1
        raise PyproxyError("the agent that took over is gone: ending, to be started again")

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
