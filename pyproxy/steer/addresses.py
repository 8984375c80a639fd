"""The addresses on this host's interfaces, and word of every change to them.

rtnetlink(7) tells of changes on a socket; the whole set is then read anew, since a lost notice
(ENOBUFS) must not leave a wrong picture.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable

from pyproxy.model.addresses import parse_address

log = logging.getLogger(__name__)

_RTMGRP_IPV4_IFADDR = 0x10
_RTMGRP_IPV6_IFADDR = 0x100
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
    """Publish the local addresses now and after every change, until cancelled.

    pyroute2's own asyncio socket needs a datagram transport of family AF_NETLINK, which uvloop
    does not make; so it reads in a thread, and a plain socket tells when to.
    """
    changed = asyncio.Event()
    changed.set()
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as notices:
        notices.setblocking(False)
        notices.bind((0, _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR))
        loop.add_reader(notices.fileno(), _drain, notices, changed)
        try:
            known: frozenset[str] | None = None
            while True:
                await changed.wait()
                await asyncio.sleep(SETTLE_S if known is not None else 0)
                changed.clear()
                addresses = await asyncio.to_thread(local_addresses)
                if addresses != known:
                    known = addresses
                    publish(addresses)
        finally:
            loop.remove_reader(notices.fileno())


def _drain(notices: socket.socket, changed: asyncio.Event) -> None:
    # ENOBUFS: notices were lost, which is as good as a notice. EAGAIN: all are read.
    with contextlib.suppress(OSError):
        while notices.recv(65536):
            pass
    changed.set()
