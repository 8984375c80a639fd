"""Services with one endpoint each, on the first node of a test network, forwarded and steered."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

from pyproxy.core.ruleset import ruleset
from pyproxy.forward.settings import ForwardSettings
from pyproxy.model.addresses import Family, parse_cidr
from pyproxy.model.endpoint import Endpoint
from pyproxy.model.node import NodeView
from pyproxy.model.service import Protocol, ServicePortName
from pyproxy.model.table import Backend, Frontend, FrontendKind
from pyproxy.steer.addresses import local_addresses
from pyproxy.steer.nft import Nft
from pyproxy.steer.reconciler import Steering, SteerSettings
from pyproxy.steer.routes import PolicyRoute
from tests.support.backends import Rig, rig, table_of
from tests.support.netns import Cluster, Host, Wire, cluster, wires

SETTINGS = ForwardSettings(transparent=True, source_address="auto", connect_timeout_s=5.0)
STEER = SteerSettings()
PORT = 80
BRIDGES = wires()[1:]


class Case(NamedTuple):
    """A client that asks a Service with one endpoint. expected: the host whose address it sees."""

    title: str
    client: Host
    kind: FrontendKind
    endpoint: Host
    expected: Host
    external_local: bool = False


def frontend(lab: Cluster, number: int, case: Case, family: Family, protocol: Protocol) -> Frontend:
    here = [lab.node, *lab.pods]
    endpoint = Endpoint(case.endpoint.address(family), PORT, is_local=case.endpoint in here)
    name = ServicePortName("default", f"case-{number}", "main", protocol)
    backend = Backend(
        name=name,
        family=family,
        cluster=(endpoint,),
        local=(endpoint,) if endpoint.is_local else (),
        has_any=True,
        serving=frozenset({(endpoint.address, PORT)}),
        external_local=case.external_local,
    )
    if case.kind == "NodePort":
        return Frontend(lab.node.address(family), 30_000 + number, protocol, "NodePort", backend)
    vip = f"10.96.0.{number + 1}" if family == "IPv4" else f"fd00:96::{number + 1}"
    return Frontend(vip, PORT, protocol, case.kind, backend)


def view(lab: Cluster, *, is_opaque: bool) -> NodeView:
    """What the first node knows of itself. To be called on it."""
    return NodeView(
        name="node-1",
        local_addresses=local_addresses(),
        pod_networks=(parse_cidr("10.244.0.0/16"), parse_cidr("fd00:244::/32")),
        pod_cidrs=tuple(map(parse_cidr, lab.nodes[0].pod_networks)),
        is_bridge_opaque=is_opaque,
    )


@contextlib.contextmanager
def on_first_node(wire: Wire) -> Iterator[Cluster]:
    """A cluster of two nodes, and this thread on the first: what it makes is there."""
    with cluster(wire, nodes=2) as lab, lab.node.entered():
        yield lab


@contextlib.asynccontextmanager
async def steered(node: NodeView, frontends: list[Frontend]) -> AsyncIterator[Rig]:
    """A forwarder of these frontends, and their addresses steered to it."""
    routes = PolicyRoute(STEER.mark, STEER.route_table, STEER.rule_priority)
    steering = Steering(Nft(), routes, STEER)
    async with rig(SETTINGS) as it:
        table = table_of(*frontends, node=node)
        it.forwarder.extend(table)
        assert it.forwarder.bind_faults() == {}
        await steering.start()
        await steering.apply(ruleset(table, it.forwarder.listening()))
        it.forwarder.retire()
        yield it
