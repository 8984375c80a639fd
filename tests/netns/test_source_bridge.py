"""Replies between pods on one bridge: handed to the IP layer, whatever the bridge does."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import pytest

from pyproxy.forward.source import FIRST_PORT, LAST_PORT
from pyproxy.model.addresses import FAMILIES, Family, parse_cidr
from pyproxy.steer.bridge import BridgeReplies, pod_bridges
from pyproxy.steer.nft import Nft, NftError
from tests.support.backends import receive, udp_socket, until
from tests.support.netns import Cluster, Host, Wire, cluster, needs_netns
from tests.support.sources import BRIDGES, PORT, Case, frontend, on_first_node, steered, view

pytestmark = needs_netns

PORTS = (FIRST_PORT, LAST_PORT)


class BrokenNft(Nft):
    """It refuses, for as long as it is told to."""

    is_broken = True

    async def run(self, steps: object) -> None:
        if self.is_broken:
            raise NftError("nft is broken")
        await super().run(steps)  # type: ignore[arg-type]


def replies(lab: Cluster, nft: Nft | None = None) -> BridgeReplies:
    made = BridgeReplies(nft or Nft(), PORTS)
    made.serve(tuple(map(parse_cidr, lab.nodes[0].pod_networks)))
    return made


@contextlib.contextmanager
def echo(host: Host, address: str) -> Iterator[None]:
    """Send every datagram back, from this host."""
    loop = asyncio.get_running_loop()
    with host.entered():
        sock = udp_socket(address, PORT)

    def answer() -> None:
        with contextlib.suppress(BlockingIOError):
            data, sender = sock.recvfrom(65536)
            sock.sendto(data, sender)

    loop.add_reader(sock, answer)
    try:
        yield
    finally:
        loop.remove_reader(sock)
        sock.close()


async def exchange(client: Host, family: Family, address: str, data: bytes) -> bytes:
    with client.entered():
        sock = udp_socket(client.address(family))
    with sock:
        sock.sendto(data, (address, PORT))
        return (await receive(sock))[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("wire", BRIDGES)
async def test_datagrams_in_fragments_pass_by_the_service_and_directly(
    wire: Wire, family: Family
) -> None:
    data = bytes(range(250)) * 20
    with on_first_node(wire) as lab:
        await replies(lab).apply()
        client, endpoint = lab.pods
        case = Case("", client, "ClusterIP", endpoint, client)
        front = frontend(lab, 1, case, family, "UDP")
        node = await asyncio.to_thread(view, lab, is_opaque=False)
        async with steered(node, [front]):
            with echo(endpoint, endpoint.address(family)):
                assert await exchange(client, family, front.address, data) == data
                assert await exchange(client, family, endpoint.address(family), data) == data


@contextlib.asynccontextmanager
async def following(bridge: BridgeReplies) -> AsyncIterator[list[bool]]:
    """Follow the links meanwhile; yields what was published."""
    published: list[bool] = []
    async with asyncio.TaskGroup() as group:
        task = group.create_task(bridge.follow(published.append))
        yield published
        task.cancel()


async def test_the_mac_address_of_the_bridge_is_followed() -> None:
    with on_first_node("bridge") as lab:
        bridge = replies(lab)
        async with following(bridge) as published:
            await until(lambda: published == [False])
            await asyncio.to_thread(lab.node.ip, "link set cbr0 address 02:00:00:00:00:77")
            await until(lambda: "02:00:00:00:00:77" in (bridge._applied or ""))
        listed = await asyncio.to_thread(lab.node.run, "nft", "list", "ruleset")
        assert listed.count("02:00:00:00:00:77") == 4


async def test_a_bridge_that_comes_later_is_followed_and_a_rule_that_is_refused_is_told() -> None:
    nft = BrokenNft()
    nft.is_broken = False
    with on_first_node("bridge") as lab:
        await asyncio.to_thread(lab.node.ip, "link set cbr0 down", "address flush dev cbr0")
        bridge = replies(lab, nft)
        async with following(bridge) as published:
            await until(lambda: published == [False])  # no bridge: nothing is opaque
            nft.is_broken = True
            await asyncio.to_thread(lab.node.ip, "address add 10.244.1.1/24 dev cbr0")
            await until(lambda: published == [False, True])
            nft.is_broken = False
            await asyncio.to_thread(lab.node.ip, "address add fd00:244:1::1/64 dev cbr0")
            await until(lambda: published == [False, True, False])


async def test_cleanup_leaves_nothing() -> None:
    with cluster("bridge") as lab, lab.node.entered():
        bridge = replies(lab)
        await bridge.apply()
        assert "bridge pyproxy" in await asyncio.to_thread(lab.node.run, "nft", "list", "ruleset")
        await bridge.cleanup()
        assert bridge.is_opaque
        assert await asyncio.to_thread(lab.node.run, "nft", "list", "ruleset") == ""


async def test_routed_pods_need_nothing() -> None:
    with cluster("routed") as lab, lab.node.entered():
        networks = tuple(map(parse_cidr, lab.nodes[0].pod_networks))
        assert await asyncio.to_thread(pod_bridges, networks) == ()
        bridge = replies(lab)
        await bridge.apply()
        assert not bridge.is_opaque
        assert await asyncio.to_thread(lab.node.run, "nft", "list", "ruleset") == ""


def test_without_the_rule_the_reply_would_not_be_seen() -> None:
    """What makes all this necessary: a reply to another's address goes by the host."""
    with cluster("bridge") as lab:
        client, endpoint = lab.pods
        with lab.node.entered():
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        with sock:
            endpoint.serve("TCP", endpoint.v4, PORT)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TRANSPARENT, 1)
            sock.settimeout(0.4)
            sock.bind((client.v4, FIRST_PORT))
            with pytest.raises(OSError):  # noqa: PT011  # a time-out, or the client's own refusal
                sock.connect((endpoint.v4, PORT))


@pytest.mark.parametrize("wire", ["routed", "bridge"])
async def test_without_pod_cidrs_every_bridge_may_have_pods(wire: Wire) -> None:
    with cluster(wire) as lab, lab.node.entered():
        networks = tuple(map(parse_cidr, lab.nodes[0].pod_networks))
        known = await asyncio.to_thread(pod_bridges, networks)
        assert await asyncio.to_thread(pod_bridges, ()) == known
        assert bool(known) == (wire == "bridge")
