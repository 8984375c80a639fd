"""The addresses on this host's interfaces, and word of every change to them."""

import asyncio
from collections.abc import Callable

from pyproxy.model.addresses import parse_address
from pyproxy.steer.notices import ADDRESSES, notices

# Addresses come in bursts (an interface comes up); one reading serves a burst.
SETTLE_S = 0.05


def local_addresses() -> frozenset[str]:
    """Read every address on an interface of this host, canonical. It waits for the kernel."""
    from pyroute2 import IPRoute  # takes 70 ms to import, and only an agent needs it

    found = set()
    with IPRoute() as netlink:
        for message in netlink.get_addr():
            # On a point-to-point interface IFA_ADDRESS is the peer, and IFA_LOCAL is ours.
            text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            if text:
                found.add(parse_address(text))
    return frozenset(found)


async def follow(publish: Callable[[frozenset[str]], None]) -> None:
    """Publish the local addresses now and after every change, until cancelled."""
    changed = asyncio.Event()
    known: frozenset[str] | None = None
    with notices(ADDRESSES, changed):
        while True:
            changed.clear()
            addresses = await asyncio.to_thread(local_addresses)
            if addresses != known:
                known = addresses
                publish(addresses)
            await changed.wait()
            await asyncio.sleep(SETTLE_S)
