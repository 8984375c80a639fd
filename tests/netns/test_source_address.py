"""Whose address an endpoint sees, with real packets: by client, endpoint and kind of frontend."""

import asyncio

import pytest

from pyproxy.forward.source import FIRST_PORT, LAST_PORT
from pyproxy.model.addresses import FAMILIES, parse_cidr
from pyproxy.model.service import Protocol
from pyproxy.steer.bridge import BridgeReplies
from pyproxy.steer.nft import Nft
from tests.support.netns import Cluster, Question, Reply, Wire, ask_all, needs_netns
from tests.support.sources import BRIDGES, PORT, Case, frontend, on_first_node, steered, view

pytestmark = needs_netns

PROTOCOLS: tuple[Protocol, ...] = ("TCP", "UDP")


def cases(lab: Cluster, *, is_opaque: bool) -> list[Case]:
    """Every combination in which the source differs, from the view of the first node."""
    node, outside = lab.node, lab.outside
    pod, other = lab.pods
    far = lab.nodes[1].pods[0]
    return [
        Case("pod to pod here", pod, "ClusterIP", other, node if is_opaque else pod),
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
        Case("node to node port, Local", node, "NodePort", pod, node, external_local=True),
        Case(
            "pod to node port, Local",
            pod,
            "NodePort",
            other,
            node if is_opaque else pod,
            external_local=True,
        ),
    ]


def serve_everywhere(lab: Cluster) -> None:
    for host in (lab.node, *lab.pods, lab.nodes[1].host, *lab.nodes[1].pods):
        for family in FAMILIES:
            for protocol in PROTOCOLS:
                host.serve(protocol, host.address(family), PORT)


async def check(lab: Cluster, *, is_opaque: bool) -> None:
    """Ask everything at once, and compare whose addresses were seen."""
    serve_everywhere(lab)
    wanted = [
        (case, family, protocol, frontend(lab, number, case, family, protocol))
        for number, case in enumerate(cases(lab, is_opaque=is_opaque))
        for family in FAMILIES
        for protocol in PROTOCOLS
    ]
    node = await asyncio.to_thread(view, lab, is_opaque=is_opaque)
    async with steered(node, [f for _, _, _, f in wanted]) as it:
        questions = [
            Question(case.client, protocol, front.address, front.port)
            for case, _, protocol, front in wanted
        ]
        replies = await asyncio.to_thread(ask_all, questions)
        fallbacks = it.metrics.source_address_fallbacks
    seen, expected = {}, {}
    for (case, family, protocol, _), reply in zip(wanted, replies, strict=True):
        key = f"{case.title}, {protocol} over {family}"
        seen[key] = "the node" if reply.text in node.local_addresses else reply
        is_node = case.expected is lab.node
        expected[key] = "the node" if is_node else Reply("answer", case.expected.address(family))
    assert seen == expected
    bridged = {"endpoint_on_same_bridge": 8} if is_opaque else {}
    assert fallbacks == {"endpoint_is_node": 4, **bridged}


async def test_each_endpoint_sees_the_right_address_on_routed_pods() -> None:
    with on_first_node("routed") as lab:
        await check(lab, is_opaque=False)


@pytest.mark.parametrize("wire", BRIDGES)
async def test_on_a_bridge_that_nobody_steers_pods_see_the_node(wire: Wire) -> None:
    with on_first_node(wire) as lab:
        await check(lab, is_opaque=True)


@pytest.mark.parametrize("wire", BRIDGES)
async def test_on_a_bridge_whose_replies_are_steered_pods_see_each_other(wire: Wire) -> None:
    with on_first_node(wire) as lab:
        bridge = BridgeReplies(Nft(), (FIRST_PORT, LAST_PORT))
        bridge.serve(tuple(map(parse_cidr, lab.nodes[0].pod_networks)))
        await bridge.apply()
        await check(lab, is_opaque=bridge.is_opaque)
