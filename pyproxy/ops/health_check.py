"""Health-check node ports as HTTP servers, opened, moved and closed as Services come and go.

What they answer is `core.health_check`'s. A port that cannot be listened on is told in an event on
the Service, and tried again at each later update (PARITY 12.9).
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping

from aiohttp import web

from pyproxy.core.health import ProxyHealth
from pyproxy.core.health_check import HealthCheck
from pyproxy.model.addresses import family_of, join_host_port
from pyproxy.ops.bounded import BoundedServerRunner
from pyproxy.ops.events import Occurrence, Regarding

log = logging.getLogger(__name__)


class HealthCheckServers:
    """All health-check node ports of this node. Updates wait for each other."""

    def __init__(
        self,
        publish_event: Callable[[Occurrence], None],
        health: ProxyHealth,
        node_name: str,
    ) -> None:
        self._publish_event = publish_event
        self._health = health
        self._node_name = node_name
        self._servers: dict[int, _Server] = {}
        self._updating = asyncio.Lock()

    async def update(self, wanted: Mapping[int, HealthCheck], addresses: Iterable[str]) -> None:
        """Serve these ports at these addresses; each port in the families of its Service only."""
        async with self._updating:
            listed = tuple(addresses)
            for port in self._servers.keys() - wanted.keys():
                await self._servers.pop(port).close()
            for port, check in wanted.items():
                await self._serve(port, check, {a for a in listed if family_of(a) in check.counts})

    async def close(self) -> None:
        """Close them all."""
        await self.update({}, ())

    def listening(self) -> set[tuple[str, int]]:
        """Every address and port that is listened on."""
        return {(at, port) for port, server in self._servers.items() for at in server.addresses}

    async def _serve(self, port: int, check: HealthCheck, addresses: set[str]) -> None:
        server = self._servers.get(port)
        if server is None:
            server = self._servers[port] = _Server(check, self._is_healthy)
            await server.start()
        server.check = check
        try:
            await server.listen(addresses)
        except OSError as fault:
            await self._servers.pop(port).close()
            self._tell(check, fault)

    def _is_healthy(self) -> bool:
        return self._health.is_healthy()  # not whether the node is eligible (12.20)

    def _tell(self, check: HealthCheck, fault: OSError) -> None:
        why = os.strerror(fault.errno or 0)
        note = (
            f"node {self._node_name} failed to start healthcheck {str(check.service)!r}"
            f" on port {check.port}: {why}"
        )
        log.warning("%s; it is tried again at the next change", note)
        service = check.service
        self._publish_event(
            Occurrence(
                "Warning",
                "FailedToStartServiceHealthcheck",
                "Listen",
                Regarding("Service", service.name, service.namespace, check.uid),
                note,
            )
        )


class _Server:
    """One port, on some addresses. `check` may be replaced while it runs."""

    def __init__(self, check: HealthCheck, is_healthy: Callable[[], bool]) -> None:
        self.check = check
        self._is_healthy = is_healthy
        self._runner = BoundedServerRunner(
            web.Server(self._answer, access_log=None), handle_signals=False, shutdown_timeout=1.0
        )
        self._sites: dict[str, web.SockSite] = {}

    @property
    def addresses(self) -> Iterable[str]:
        return self._sites.keys()

    async def start(self) -> None:
        await self._runner.setup()

    async def listen(self, addresses: set[str]) -> None:
        """Listen on these addresses, and no others. Raises OSError at the first that is taken."""
        # First away with the old: a wildcard and an address of its family exclude each other.
        for address in self._sites.keys() - addresses:
            await self._sites.pop(address).stop()
        for address in sorted(addresses - self._sites.keys()):
            self._sites[address] = await self._open(address)
            log.info(
                "health-check node port of %s on %s",
                self.check.service,
                join_host_port(address, self.check.port),
            )

    async def _open(self, address: str) -> web.SockSite:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        # A newer agent on this node answers beside an older one until that leaves.
        sock = socket.create_server((address, self.check.port), family=family, reuse_port=True)
        try:
            site = web.SockSite(self._runner, sock)
            await site.start()
        except BaseException:  # being cancelled, mostly: the loop does not own the socket yet
            sock.close()
            raise
        return site

    async def close(self) -> None:
        """Stop listening, and end what is open."""
        await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        """Answer whatever path and method is asked for (12.5)."""
        address = request.get_extra_info("sockname", ("0.0.0.0",))[0]  # noqa: S104  gone already
        status, headers, body = self.check.answer(family_of(address), is_healthy=self._is_healthy())
        return web.Response(status=status, headers=headers, body=body.encode())
