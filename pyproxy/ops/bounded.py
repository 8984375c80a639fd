"""HTTP servers that hold a bounded number of connections, whoever opens how many.

The health port and the health-check node ports can be reached from everywhere. A client that opens
connections and says nothing, or reads nothing, would take one descriptor after the other; a limit
that turned newcomers away would let it lock out the kubelet. So who comes is let in, and who has
been there for longest is cut off: a question takes milliseconds, and is over long before its turn.
"""

import asyncio
from typing import cast

from aiohttp import web

from pyproxy.ops import http_log

# For each port. A kubelet, a load balancer's probes and some Prometheus servers hold a dozen.
MOST_CONNECTIONS = 100


class _Bounded:
    """Makes the handlers of new connections, as a web.Server does."""

    def __init__(self, server: web.Server, most: int) -> None:
        self._server = server
        self._most = most

    def __call__(self) -> asyncio.BaseProtocol:
        handlers = self._server.connections  # in the order in which they came
        transports = [t for t in (h.transport for h in handlers) if t and not t.is_closing()]
        for transport in transports[: max(0, len(transports) + 1 - self._most)]:
            cast(asyncio.WriteTransport, transport).abort()  # a slow reader would not let it close
        return self._server()


class BoundedAppRunner(web.AppRunner):
    """Serves an application, to at most so many at a time; signals and the log are the agent's."""

    def __init__(self, application: web.Application, *, most: int = MOST_CONNECTIONS) -> None:
        super().__init__(
            application,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=1.0,
            logger=http_log.log,
        )
        self._most = most

    @property
    def server(self) -> web.Server | None:
        """What makes the handlers."""
        return _bounded(super().server, self._most)


class BoundedServerRunner(web.ServerRunner):
    """Serves one handler, likewise."""

    @property
    def server(self) -> web.Server | None:
        """What makes the handlers."""
        return _bounded(super().server, MOST_CONNECTIONS)


def _bounded(server: web.Server | None, most: int) -> "web.Server | None":
    if server is None:
        return None
    return cast("web.Server", _Bounded(server, most))  # a site only calls it
