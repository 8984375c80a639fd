"""Whose address an endpoint sees, with real packets: by client, endpoint and kind of frontend."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

import pytest

from pyproxy.core.ruleset import ruleset
from pyproxy.forward.settings import ForwardSettings
from pyproxy.model.addresses import FAMILIES, Family, parse_cidr
from pyproxy.model.endpoint import Endpoint
from pyproxy.model.node import NodeView
from pyproxy.model.service import Protocol, ServicePortName
from pyproxy.model.table import Backend, Frontend, FrontendKind
from pyproxy.steer.addresses import local_addresses
from pyproxy.steer.nft import Nft
from pyproxy.steer.reconciler import Steering, SteerSettings
from pyproxy.steer.routes import PolicyRoute
from tests.support.backends import Rig, rig, table_of
from tests.support.netns import Cluster, Host, Question, Wire, ask_all, cluster, needs_netns, wires

pytestmark = needs_netns

SETTINGS = ForwardSettings(transparent=True, source_address="auto", connect_timeout_s=5.0)
STEER = SteerSettings()
PROTOCOLS: tuple[Protocol, ...] = ("TCP", "UDP")
PORT = 80


class Case(NamedTuple):
    """A client that asks a Service with one endpoint. expected: the host whose address it sees."""

    title: str
    client: Host
    kind: FrontendKind
    endpoint: Host
    expected: Host
    external_local: bool = False


def cases(lab: Cluster, wire: Wire) -> list[Case]:
    """Every combination in which the source differs, from the view of the first node."""
    node, outside = lab.node, lab.outside
    pod, other = lab.pods
    far = lab.nodes[1].pods[0]
    return [
        Case("pod to pod here", pod, "ClusterIP", other, pod if wire == "routed" else node),
        Case("pod to pod elsewhere", pod, "ClusterIP", far, pod),
        Case("pod to itself", pod, "ClusterIP", pod, node),
        Case("pod to hostNetwork pod here", pod, "ClusterIP", node, node),
        Case("pod to hostNetwork pod elsewhere", pod, "ClusterIP", lab.nodes[1].host, pod),
        Case("node to pod here", node, "ClusterIP", pod, node),
        Case("node to pod elsewhere", node, "ClusterIP", far, node),
        Case("outside to ClusterIP", outside, "ClusterIP", pod, node),
        Case("outside, policy Cluster", outside, "LoadBalancer", pod, node),
        Case("outside, policy Cluster, elsewhere", outside, "LoadBalancer", far, node),
        Case("outside, policy Local", outside, "LoadBalancer", pod, outside, external_local=True),
        Case("outside to node port, Local", outside, "NodePort", pod, outside, external_local=True),
        Case("far pod to node port, Local", far, "NodePort", pod, far, external_local=True),
        Case("pod to node port, Local", pod, "NodePort", other, pod, external_local=True)
        if wire == "routed"
        else Case("node to node port, Local", node, "NodePort", pod, node, external_local=True),
    ]


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


def view(lab: Cluster, wire: Wire) -> NodeView:
    """What the first node knows of itself. To be called on it."""
    return NodeView(
        name="node-1",
        local_addresses=local_addresses(),
        pod_networks=(parse_cidr("10.244.0.0/16"), parse_cidr("fd00:244::/32")),
        pod_cidrs=tuple(map(parse_cidr, lab.nodes[0].pod_networks)),
        is_bridge_opaque=wire != "routed",
    )


def serve_everywhere(lab: Cluster) -> None:
    for host in (lab.node, *lab.pods, lab.nodes[1].host, *lab.nodes[1].pods):
        for family in FAMILIES:
            for protocol in PROTOCOLS:
                host.serve(protocol, host.address(family), PORT)


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


@pytest.mark.parametrize("wire", wires())
async def test_each_endpoint_sees_the_right_address(wire: Wire) -> None:
    with on_first_node(wire) as lab:
        serve_everywhere(lab)
        wanted = [
            (case, family, protocol, frontend(lab, number, case, family, protocol))
            for number, case in enumerate(cases(lab, wire))
            for family in FAMILIES
            for protocol in PROTOCOLS
        ]
        async with steered(
            await asyncio.to_thread(view, lab, wire), [f for _, _, _, f in wanted]
        ) as it:
            questions = [
                Question(case.client, protocol, front.address, front.port)
                for case, _, protocol, front in wanted
            ]
            replies = await asyncio.to_thread(ask_all, questions)
            fallbacks = it.metrics.source_address_fallbacks
            own = it.forwarder._dialler.node.local_addresses
    seen, expected = {}, {}
    for (case, family, protocol, _), reply in zip(wanted, replies, strict=True):
        key = f"{case.title}, {protocol} over {family}"
        seen[key] = "the node" if reply.text in own else reply.text or reply.outcome
        is_node = case.expected is lab.node
        expected[key] = "the node" if is_node else case.expected.address(family)
    assert seen == expected
    bridged = {} if wire == "routed" else {"endpoint_on_same_bridge": 4}
    assert fallbacks == {"endpoint_is_node": 4, **bridged}
