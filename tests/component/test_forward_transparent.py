"""Addresses that are on no interface, for frontends and for sources: what the kernel lets us bind.

That clients reach them, when they are steered, is tested in namespaces (tests/netns).
"""

import asyncio
import contextlib
import ctypes
import socket
from collections.abc import Iterator

import pytest

from pyproxy.forward.binding import TAKEN
from pyproxy.forward.settings import ForwardSettings
from pyproxy.forward.sockets import accept, listen_tcp
from pyproxy.model.table import Frontend
from tests.support.backends import (
    VIP_PORT,
    Rig,
    answer_at_end,
    ask,
    backend_of,
    frontend_of,
    new_address,
    rig,
    tcp_backend,
    until,
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


# A port that somebody of this host has, on every address


def holder_of(port: int, address: str = "0.0.0.0") -> socket.socket:
    """A daemon of the node."""
    return socket.create_server((address, port))


def at_port(port: int, vip: str = "198.51.100.7") -> Frontend:
    return frontend_of(vip, backend_of([("127.0.0.1", 9)], service=vip), port=port)


@needs_net_admin
async def test_a_daemon_that_is_restarted_gets_its_port_back_before_a_virtual_ip_has_it() -> None:
    retry_s = 0.02
    async with rig(ForwardSettings(transparent=True, bind_retry_s=retry_s)) as it:
        with holder_of(0) as daemon:
            port = daemon.getsockname()[1]
            first = at_port(port)
            it.serve(first)
            assert it.forwarder.bind_faults() == {first.key: TAKEN}
        await asyncio.sleep(10 * retry_s)
        # Nor does who asks for the port of another Service meanwhile get it.
        others = at_port(port, "198.51.100.8")
        it.serve(first, others)
        assert it.forwarder.bind_faults() == {first.key: TAKEN, others.key: TAKEN}
        with holder_of(port):
            pass


@needs_net_admin
async def test_a_port_that_was_seen_free_twice_is_taken_after_all() -> None:
    settings = ForwardSettings(transparent=True, bind_retry_s=0.02, contested_s=0.05)
    async with rig(settings) as it:
        with holder_of(0) as daemon:
            port = daemon.getsockname()[1]
            both = [at_port(port), at_port(port, "198.51.100.8")]
            it.serve(*both)
            await asyncio.sleep(0.2)
            assert it.forwarder.listening() == frozenset()
        await until(lambda: it.forwarder.listening() == {frontend.key for frontend in both})
        assert it.forwarder.bind_faults() == {}


@needs_net_admin
async def test_a_listener_on_one_address_is_in_the_way_of_that_address_only() -> None:
    async with rig(TRANSPARENT) as it:
        with holder_of(0, "127.0.0.1") as daemon:
            port = daemon.getsockname()[1]
            taken, free = at_port(port, "127.0.0.1"), at_port(port)
            it.serve(taken, free)
            assert it.forwarder.bind_faults() == {taken.key: TAKEN}
            assert it.forwarder.listening() == {free.key}


@needs_net_admin
async def test_what_is_listened_on_already_changes_although_its_port_is_contested() -> None:
    address, vip = new_address(), at_port(VIP_PORT)
    async with tcp_backend(new_address(), answer_at_end) as endpoint, rig(TRANSPARENT) as it:
        it.serve(frontend_of(address, backend_of([("127.0.0.1", 9)])))
        stranger = listen_tcp(vip.address, vip.port, TRANSPARENT)
        it.serve(frontend_of(address, backend_of([("127.0.0.1", 9)])), vip)
        assert it.forwarder.bind_faults() == {vip.key: TAKEN}
        it.serve(frontend_of(address, backend_of([endpoint])), vip)
        assert await ask(address, b"abc") == b"cba"
        stranger.close()
