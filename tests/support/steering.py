"""A node of the test network that steers a store's table to servers, as an agent does."""

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import uvloop

from pyproxy.config import ProxyConfig
from pyproxy.core.ruleset import Planner
from pyproxy.forward.forwarder import may_forward
from pyproxy.model.addresses import parse_cidr
from pyproxy.model.events import Deleted, key_of
from pyproxy.model.table import Frontend, FrontendKey
from pyproxy.steer.addresses import local_addresses
from pyproxy.steer.nft import Nft
from pyproxy.steer.reconciler import Steering, SteerSettings
from pyproxy.steer.routes import PolicyRoute
from tests.support.builders import (
    Json,
    applied,
    decoded,
    make_endpoint,
    make_node,
    make_port,
    make_service,
    make_service_cidr,
    make_slice,
    make_store,
    resource_of,
)
from tests.support.netns import Cluster, Host

if TYPE_CHECKING:
    from tests.support.netns_server import Server

_T = TypeVar("_T")

NODE = "node-1"
CONFIG = ProxyConfig(
    node_name=NODE, cluster_cidr=(parse_cidr("10.244.0.0/16"), parse_cidr("fd00:244::/32"))
)
SERVICE_CIDRS = make_service_cidr("10.96.0.0/16", "fd00:96::/108")
SETTINGS = SteerSettings()


def dual(number: int, *, ports: list[Json] | None = None, **more: Any) -> Json:
    """A Service at 10.96.0.N and fd00:96::N, by default with port 80 of TCP and of UDP."""
    return make_service(
        f"s{number}",
        cluster_ip=f"10.96.0.{number}",
        clusterIPs=[f"10.96.0.{number}", f"fd00:96::{number}"],
        ipFamilies=["IPv4", "IPv6"],
        ports=ports or both(80),
        **more,
    )


def both(port: int, node_port: int = 0) -> list[Json]:
    """Port of TCP and of UDP."""
    return [
        make_port(port, protocol.lower(), protocol, node_port=node_port)
        for protocol in ("TCP", "UDP")
    ]


def endpoints(number: int, node: str = NODE) -> list[Json]:
    """Slices that give the Service dual(N) one endpoint of each family, on a node."""
    ports = [{"name": p.lower(), "protocol": p, "port": 80} for p in ("TCP", "UDP")]
    return [
        make_slice(
            make_endpoint(address, node=node),
            service=f"s{number}",
            name=f"s{number}-{family}",
            ports=ports,
            address_type=family,
        )
        for address, family in ((f"10.244.9.{number}", "IPv4"), (f"fd00:244:9::{number}", "IPv6"))
    ]


class SteeringNode:
    """The first node: a transparent server where the table forwards, and the real steering.

    refused: frontends that are not listened on, as after a bind fault.
    """

    def __init__(
        self,
        lab: Cluster,
        *objects: Json,
        refused: tuple[FrontendKey, ...] = (),
        settings: SteerSettings = SETTINGS,
    ) -> None:
        self._settings = settings
        self.host: Host = lab.node
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        with self.host.entered():
            addresses = local_addresses()
        node = make_node(NODE, addresses=[lab.node.v4, lab.node.v6])
        self.store = make_store(
            SERVICE_CIDRS, node, *objects, config=CONFIG, local_addresses=tuple(addresses)
        )
        self.refused = refused
        self.servers: dict[FrontendKey, Server] = {}
        self._nft = Nft()
        self.restart()

    def __enter__(self) -> Self:
        self.run(self.steering.start())
        self.update()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._runner.close()
        self._nft.close()

    def restart(self) -> None:
        """Know nothing of what was done before, as a process that has just started."""
        self.planner = Planner()
        self.steering = Steering(self._nft, new_route(), self._settings)

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine to its end, on the node."""
        with self.host.entered():
            return self._runner.run(coroutine)

    def put(self, *objects: Json) -> None:
        """Apply objects, then steer by the new table."""
        for data in objects:
            self.store.apply(applied(data))
        self.update()

    def delete(self, *objects: Json) -> None:
        """Delete objects, then steer by the new table."""
        for data in objects:
            self.store.apply(Deleted(resource_of(data), key_of(decoded(data))))
        self.update()

    def update(self) -> None:
        """Bring listeners up, apply, then close those that are not wanted (as DESIGN says)."""
        table = self.store.table()
        wanted = {key for key, frontend in table.frontends.items() if self._is_wanted(frontend)}
        for key in wanted - self.servers.keys():
            address, port, protocol = key
            self.servers[key] = self.host.serve(protocol, address, port, transparent=True)
        self.run(self.steering.apply(self.planner.plan(table, frozenset(wanted))))
        for key in self.servers.keys() - wanted:
            self.servers.pop(key).close_listener()

    def _is_wanted(self, frontend: Frontend) -> bool:
        return may_forward(frontend) and frontend.key not in self.refused

    def nft(self, *lines: str) -> None:
        """Run nft script on the node."""
        self.host.run("nft", "-f", "-", stdin="\n".join(lines))

    def state(self) -> tuple[str, ...]:
        """All that steering could leave in the kernel, as text."""
        commands = ("nft list ruleset", "ip rule", "ip -6 rule")
        tables = (f"ip route show table {SETTINGS.route_table}",)
        found = [self.host.run(*command.split()) for command in commands]
        found += [self.host.run("sh", "-c", f"{command} 2>/dev/null || true") for command in tables]
        return tuple(found)


def new_route() -> PolicyRoute:
    """The policy route of the settings."""
    return PolicyRoute(SETTINGS.mark, SETTINGS.route_table, SETTINGS.rule_priority)
