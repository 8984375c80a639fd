"""Pods on one bridge: makes the replies to a client's address pass this host's IP layer.

When a pod asks another pod of this node and keeps its address, the reply is addressed to it. On
routed pod networks that passes the hook where it is steered to pyproxy's socket. A bridge carries
it straight to the client, which knows nothing of it. So one nft table of family bridge hands what
is meant for pyproxy's source ports to the bridge itself, as if it had been sent to its MAC address:

    packet in on a bridge, from pod to pod of B's network, port 61000-65535 or a fragment
      -> its destination becomes the MAC address of B, and so the IP layer gets it

What of it is not for pyproxy is routed back to the bridge, one hop longer. Fragments have no ports,
and whole datagrams are seen by the IP layer alone: so all of them go there.

A bridge takes another MAC address when ports join or leave, unless it was given one (ip-link(8)):
it is followed. Until the rule stands, the bridge is opaque (NodeView.is_bridge_opaque), and two
pods on it see the node's address.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import msgspec

from pyproxy.errors import PyproxyError
from pyproxy.model.addresses import Cidr, Family, parse_address, parse_cidr
from pyproxy.steer.notices import ADDRESSES, LINKS, notices

log = logging.getLogger(__name__)

TABLE = "bridge pyproxy"
_RT_SCOPE_UNIVERSE = 0  # rtnetlink(7)
RETRY_S = 30.0
# Links come and go in bursts; one reading serves a burst.
SETTLE_S = 0.05

_IP: dict[Family, str] = {"IPv4": "ip", "IPv6": "ip6"}
# The flag More Fragments, or an offset (RFC 791 3.1); IPv6 has a header of its own for it.
_IS_FRAGMENT: dict[Family, str] = {
    "IPv4": "ip frag-off & 0x3fff != 0",
    "IPv6": "exthdr frag exists",
}


class Bridge(msgspec.Struct, frozen=True, order=True):
    """A bridge that pods are on, as it is now. networks: those of its addresses that pods have."""

    name: str
    mac: str
    networks: tuple[Cidr, ...]


class Runner(Protocol):
    """What is needed of nft; pyproxy.steer.nft.Nft is the real one."""

    async def run(self, steps: Sequence[str]) -> None:
        """Run a script atomically. Raises PyproxyError."""


def pod_bridges(pod_cidrs: Sequence[Cidr]) -> tuple[Bridge, ...]:
    """Read the bridges with an address of these networks: pods have it as their gateway.

    Without any networks (the Node has no podCIDRs, or cannot be read) pods may be on every bridge.
    It waits for the kernel: call it in a thread.
    """
    from pyroute2 import IPRoute  # takes 70 ms to import, and only an agent needs it

    networks: dict[int, list[Cidr]] = {}
    with IPRoute() as netlink:
        for message in netlink.get_addr():
            address = parse_address(message.get_attr("IFA_ADDRESS"))
            if message["scope"] != _RT_SCOPE_UNIVERSE:
                continue  # a link-local address is nobody's gateway
            if not pod_cidrs or any(address in cidr for cidr in pod_cidrs):
                network = parse_cidr(f"{address}/{message['prefixlen']}")
                networks.setdefault(message["index"], []).append(network)
        return tuple(
            sorted(
                Bridge(
                    link.get_attr("IFLA_IFNAME"),
                    link.get_attr("IFLA_ADDRESS"),
                    tuple(sorted(networks[link["index"]])),
                )
                for link in netlink.get_links()
                if link["index"] in networks
                and link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") == "bridge"
            )
        )


def script(bridges: Iterable[Bridge], ports: tuple[int, int]) -> str:
    """Return the transaction that makes the table anew; without bridges it only removes it.

    The network stands for the bridge: `meta ibrname` is not in every kernel (nft_meta_bridge).
    """
    lines = [_REMOVE]
    rules = [rule for bridge in bridges for rule in _rules(bridge, ports)]
    if rules:
        lines += [
            f"add table {TABLE}",
            # Before br_netfilter takes the packet to the IP hooks as one that is bridged.
            f"add chain {TABLE} prerouting {{ type filter hook prerouting priority -300; }}",
            *(f"add rule {TABLE} prerouting {rule}" for rule in rules),
        ]
    return "\n".join(lines)


_REMOVE = f"add table {TABLE}\ndelete table {TABLE}"


def _rules(bridge: Bridge, ports: tuple[int, int]) -> Iterator[str]:
    first, last = ports
    hand_over = f"ether daddr set {bridge.mac} meta pkttype set host"
    for network in bridge.networks:
        ip = _IP[network.family]
        within = f"{ip} saddr {network} {ip} daddr {network}"
        yield f"{within} meta l4proto {{ tcp, udp }} th dport {first}-{last} {hand_over}"
        yield f"{within} {_IS_FRAGMENT[network.family]} {hand_over}"


class BridgeReplies:
    """Owner of the bridge table. `is_opaque`: whether pods may talk where nobody steers.

    ports: the first and the last of those that replies are sent to.
    """

    def __init__(self, runner: Runner, ports: tuple[int, int]) -> None:
        self._runner = runner
        self._ports = ports
        self._pod_cidrs: tuple[Cidr, ...] = ()
        self._applied: str | None = None  # None: not known; a former run may have left something
        self._changed = asyncio.Event()
        self.is_opaque = True

    def serve(self, pod_cidrs: tuple[Cidr, ...]) -> None:
        """Take in where the addresses of this node's pods are from."""
        if pod_cidrs != self._pod_cidrs:
            self._pod_cidrs = pod_cidrs
            self._changed.set()

    async def apply(self) -> None:
        """Make the table fit the bridges as they are. Raises PyproxyError; then it is opaque."""
        bridges = await asyncio.to_thread(pod_bridges, self._pod_cidrs)
        wanted = script(bridges, self._ports)
        if wanted != self._applied:
            self._applied, self.is_opaque = None, bool(bridges)
            await self._runner.run([wanted])
            self._applied = wanted
        self.is_opaque = False

    async def follow(self, publish: Callable[[bool], None]) -> None:
        """Apply now and after every change of the links; publish `is_opaque` when it changes.

        Until cancelled. Nothing is torn down then.
        """
        with notices(LINKS | ADDRESSES, self._changed):
            published: bool | None = None
            while True:
                self._changed.clear()
                is_done = await self._try()
                if self.is_opaque != published:
                    published = self.is_opaque
                    publish(published)
                await self._wait(None if is_done else RETRY_S)
                await asyncio.sleep(SETTLE_S)

    async def cleanup(self) -> None:
        """Remove the table, also of a former run. Raises PyproxyError."""
        self._applied, self.is_opaque = None, True
        await self._runner.run([_REMOVE])

    async def _try(self) -> bool:
        try:
            await self.apply()
        except PyproxyError as fault:
            log.warning("pods on a bridge see the node's address when they meet: %s", fault)
            return False
        return True

    async def _wait(self, timeout_s: float | None) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            pass
