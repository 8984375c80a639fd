"""Addresses that are on no interface, for frontends and for sources: what the kernel lets us bind.

That clients reach them, when they are steered, is tested in namespaces (tests/netns).
"""

import contextlib
import ctypes
import socket
from collections.abc import Iterator

import pytest

from pyproxy.forward.settings import ForwardSettings
from pyproxy.forward.sockets import accept, listen_tcp
from tests.support.backends import (
    Rig,
    answer_at_end,
    ask,
    backend_of,
    frontend_of,
    new_address,
    rig,
    tcp_backend,
)

TRANSPARENT = ForwardSettings(transparent=True)
FRONTENDS = [
    frontend_of(address, backend_of([(endpoint, 9)], protocol))
    for address, endpoint in (("198.51.100.1", "127.0.0.1"), ("2001:db8::1", "::1"))
    for protocol in ("TCP", "UDP")
]

_libc = ctypes.CDLL(None, use_errno=True)
_ITSELF = (ctypes.c_uint32 * 2)(0x20080522, 0)  # capget(2): version 3, this thread


@contextlib.contextmanager
def no_capabilities() -> Iterator[None]:
    """Take effective capabilities from this thread for a while (capabilities(7))."""
    before, none = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    assert _libc.capget(_ITSELF, before) == 0
    for i in (1, 2, 4, 5):  # 0 and 3 are the two halves of the effective set
        none[i] = before[i]
    try:
        assert _libc.capset(_ITSELF, none) == 0
        yield
    finally:
        assert _libc.capset(_ITSELF, before) == 0


def has_net_admin() -> bool:
    with open("/proc/thread-self/status") as status:
        (effective,) = (line.split()[1] for line in status if line.startswith("CapEff"))
    return bool(int(effective, 16) >> 12 & 1)


async def test_without_the_capability_the_fault_says_which() -> None:
    async with rig(TRANSPARENT) as it:
        with no_capabilities():
            it.serve(*FRONTENDS)
        assert it.forwarder.listening() == frozenset()
        assert it.forwarder.bind_faults() == dict.fromkeys(
            (frontend.key for frontend in FRONTENDS),
            "addresses on no interface take the capability NET_ADMIN or NET_RAW",
        )


needs_net_admin = pytest.mark.skipif(not has_net_admin(), reason="needs CAP_NET_ADMIN")


@needs_net_admin
async def test_addresses_on_no_interface_are_listened_on() -> None:
    async with rig(TRANSPARENT) as it:
        it.serve(*FRONTENDS)
        assert it.forwarder.bind_faults() == {}
        assert it.forwarder.listening() == {frontend.key for frontend in FRONTENDS}


@needs_net_admin
def test_accepted_sockets_inherit_it() -> None:
    address = new_address()
    listener = listen_tcp(address, 8080, TRANSPARENT)
    with socket.create_connection((address, 8080)):
        accepted, _ = accept(listener)
        assert accepted.getsockopt(socket.IPPROTO_IP, socket.IP_TRANSPARENT) == 1
    accepted.close()
    listener.close()


async def test_the_nodes_address_is_used_for_its_own_clients_and_that_is_counted() -> None:
    vip = new_address()
    settings = ForwardSettings(source_address="auto")
    async with tcp_backend(new_address(), answer_at_end) as endpoint, rig(settings) as it:
        it.serve(frontend_of(vip, backend_of([endpoint])))
        assert await ask(vip, b"abc") == b"cba"
        fallbacks = it.metrics.source_address_fallbacks
        assert fallbacks == ({"client_is_node": 1} if has_net_admin() else {})


async def test_without_the_capability_sources_are_the_nodes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    vip = new_address()
    with no_capabilities():
        made = Rig(ForwardSettings(source_address="auto"))
    try:
        async with tcp_backend(new_address(), answer_at_end) as endpoint:
            made.serve(frontend_of(vip, backend_of([endpoint])))
            assert await ask(vip, b"abc") == b"cba"
    finally:
        made.forwarder.close()
    assert made.metrics.source_address_fallbacks == {}
    assert "capability NET_ADMIN or NET_RAW" in caplog.text
