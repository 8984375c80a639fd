"""How `pyproxy local` reaches endpoints: straight, or through the API server.

Whether pod addresses can be reached from here is tried, once for each cluster and again whenever
the way to it changes (a VPN comes up, another network). Where they cannot, each connection is a
port-forward of its own to the pod that was picked for it.
"""

import asyncio
import contextlib
import errno
import itertools
import logging
import os
import socket
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import TYPE_CHECKING, Literal

from pyproxy.core.portforward import V4_PROTOCOL
from pyproxy.forward.sockets import family_number
from pyproxy.tunnel.target import TunnelError

if TYPE_CHECKING:
    from pyproxy.forward.dial import Attempt, Dialler
    from pyproxy.forward.poller import Poller
    from pyproxy.forward.sockets import RawSocket
    from pyproxy.model.endpoint import Endpoint
    from pyproxy.model.node import NodeView
    from pyproxy.model.table import Frontend
    from pyproxy.tunnel.pods import PodTunnels

log = logging.getLogger(__name__)

Upstream = Literal["auto", "direct", "portforward"]
Candidates = Callable[[], Iterable[tuple[str, int]]]

# A ready pod that can be reached accepts within a round trip. A refusal says nothing: many a
# network refuses what it does not carry.
PROBE_S = 0.3
# Of different pods, one of which may be on a node that is down.
_PROBES = 3
_LOOK_S = 3.0


class Way:
    """Which way leads to a cluster's endpoints.

    candidates: addresses and ports of ready TCP endpoints, to try. on_change: called when it is
    known for the first time, and when it is another one.
    """

    def __init__(
        self,
        upstream: Upstream,
        cluster: str,
        candidates: Candidates,
        on_change: Callable[[], None],
        look_s: float = _LOOK_S,
    ) -> None:
        self.is_direct = upstream == "direct"
        self.is_known = False
        self._upstream = upstream
        self._cluster = cluster
        self._candidates = candidates
        self._on_change = on_change
        self._look_s = look_s

    @property
    def name(self) -> str:
        """As `--upstream` has it."""
        return "direct" if self.is_direct else "portforward"

    async def run(self) -> None:
        """Find out now, and after each change of the network, until cancelled."""
        if self._upstream != "auto":
            self._found("as asked for", is_direct=self.is_direct)
            return
        tried_from: object = None
        while True:
            candidates = list(itertools.islice(self._candidates(), _PROBES))
            here = _addresses_towards(candidates)
            if here != tried_from:
                tried_from = here
                await self._try(candidates)
            await asyncio.sleep(self._look_s)

    async def _try(self, candidates: Collection[tuple[str, int]]) -> None:
        if not candidates:
            self._found("no pod is ready that could be tried", is_direct=False)
        elif await _can_reach_any(candidates):
            self._found("pods answer from here", is_direct=True)
        else:
            self._found("no pod answers from here", is_direct=False)

    def _found(self, why: str, *, is_direct: bool) -> None:
        if self.is_known and is_direct == self.is_direct:
            return
        self.is_known, self.is_direct = True, is_direct
        log.info("%s: upstream is %s: %s", self._cluster, self.name, why)
        self._on_change()


async def _can_reach_any(candidates: Collection[tuple[str, int]]) -> bool:
    async with asyncio.TaskGroup() as group:
        tries = [group.create_task(_can_reach(address, port)) for address, port in candidates]
    return any(task.result() for task in tries)


async def _can_reach(address: str, port: int) -> bool:
    with socket.socket(family_number(address), socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            async with asyncio.timeout(PROBE_S):
                await asyncio.get_running_loop().sock_connect(sock, (address, port))
        except (OSError, TimeoutError):
            return False
        return True


def _addresses_towards(candidates: Iterable[tuple[str, int]]) -> frozenset[str]:
    """This machine's addresses on the way there: other ones tell of another way.

    A connected UDP socket has the address of the route, and nothing is sent (connect(2)).
    """
    found = set()
    for address, _ in candidates:
        with socket.socket(family_number(address), socket.SOCK_DGRAM) as sock:
            try:
                sock.connect((address, 9))
            except OSError as error:
                found.add(errno.errorcode.get(error.errno or 0, "?"))
            else:
                found.add(sock.getsockname()[0])
    return frozenset(found)


class LocalDialler:
    """Dials the way that leads to the cluster. It can use tunnels while `serve` runs."""

    def __init__(self, poller: "Poller", direct: "Dialler", is_direct: Callable[[], bool]) -> None:
        self._poller = poller
        self._direct = direct
        self._is_direct = is_direct
        self._tunnels: PodTunnels | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._told: set[str] = set()

    @property
    def node(self) -> "NodeView":
        """As Dialler says."""
        return self._direct.node

    @node.setter
    def node(self, node: "NodeView") -> None:
        self._direct.node = node

    async def serve(self, tunnels: "PodTunnels") -> None:
        """Carry connections through these tunnels, until cancelled."""
        self._tunnels = tunnels
        try:
            async with asyncio.TaskGroup() as self._tasks:
                await asyncio.Event().wait()
        finally:
            self._tunnels = self._tasks = None

    def stream(
        self, frontend: "Frontend", client: str, endpoint: "Endpoint", attempt: "Attempt"
    ) -> "RawSocket":
        """As Dialler says. Through a tunnel, the socket is one end of a pair."""
        if self._is_direct():
            return self._direct.stream(frontend, client, endpoint, attempt)
        if not endpoint.pod:
            name = frontend.backend.name
            where = f"{name.namespace}/{name.name}: {endpoint}"
            self._tell_once(f"{where} is no pod: only --upstream direct can reach it")
            raise OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))
        if self._tunnels is None or self._tasks is None:  # it is starting, or ending
            raise OSError(errno.ENETDOWN, os.strerror(errno.ENETDOWN))
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        namespace = frontend.backend.name.namespace
        self._tasks.create_task(
            self._carry(self._tunnels, namespace, endpoint, ours, theirs, attempt)
        )
        return ours

    def datagram(self, frontend: "Frontend", client: str, endpoint: "Endpoint") -> "RawSocket":
        """As Dialler says. There is no way for datagrams through the API server."""
        if not self._is_direct():
            raise OSError(errno.EPROTO, "no UDP through the API server")
        return self._direct.datagram(frontend, client, endpoint)

    async def _carry(
        self,
        tunnels: "PodTunnels",
        namespace: str,
        endpoint: "Endpoint",
        ours: socket.socket,
        theirs: socket.socket,
        attempt: "Attempt",
    ) -> None:
        """One connection through a tunnel. `ours` is closed by who gave the attempt up."""
        with contextlib.closing(theirs):
            try:
                tunnel = await tunnels.open(namespace, endpoint.pod, endpoint.port)
            except TunnelError as fault:
                self._tell_fault(namespace, fault)
                if ours.fileno() >= 0:
                    self._poller.guard(attempt, partial(attempt.on_attempt_failed, fault.result))
                return
            self._tell_transport(tunnels.transport)
            if ours.fileno() < 0:
                await tunnel.close()
                return
            self._poller.watch(ours.fileno(), attempt)
            await tunnel.run(theirs, lambda _: self._lose(ours, attempt))

    def _lose(self, ours: socket.socket, attempt: "Attempt") -> None:
        if ours.fileno() >= 0:
            self._poller.guard(attempt, attempt.on_endpoint_lost)

    def _tell_fault(self, namespace: str, fault: TunnelError) -> None:
        """A right that is missing is missing for each connection: it is told once."""
        if fault.result == "forbidden":
            self._tell_once(f"{fault}", key=f"forbidden in {namespace}")
        else:
            log.info("%s", fault)

    def _tell_transport(self, transport: str | None) -> None:
        if transport == V4_PROTOCOL:
            self._tell_once(
                f"port-forwards go by {transport}: the server knows no other; a client that ends"
                " its side first gets no more than what the pod says soon after",
                logging.INFO,
            )
        else:
            self._tell_once(f"port-forwards go by {transport}", logging.INFO)

    def _tell_once(self, text: str, level: int = logging.WARNING, *, key: str = "") -> None:
        if (key or text) not in self._told:
            self._told.add(key or text)
            log.log(level, "%s", text)
