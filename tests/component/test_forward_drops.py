"""Datagrams that cannot be passed on: each is counted once, with the reason."""

import errno
from typing import Any

import msgspec
import pytest

from pyproxy.forward.datagrams import why_lost
from pyproxy.model.addresses import parse_cidr
from pyproxy.model.reasons import DatagramDrop
from tests.support.backends import (
    VIP_PORT,
    Rig,
    at,
    backend_of,
    frontend_of,
    new_address,
    receive,
    rig,
    table_of,
    udp_socket,
    until,
)


async def dropped(it: Rig, reason: DatagramDrop, count: int = 1) -> None:
    """Wait until so many were dropped, for this reason and no other."""
    counted = it.counters("UDP").dropped
    await until(lambda: counted.total() >= count)
    assert counted == {reason: count}


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.EAGAIN, "buffer_full"),
        (errno.EMSGSIZE, "too_long"),
        (errno.ENOBUFS, "exhausted"),
        (errno.EMFILE, "exhausted"),
        (errno.EPERM, "error"),
    ],
)
def test_what_the_kernel_says_is_the_reason(code: int, reason: DatagramDrop) -> None:
    assert why_lost(code) == reason


async def test_a_client_that_no_endpoint_serves() -> None:
    vip = new_address()
    backend = backend_of([(new_address(), 53)], "UDP", internal_local=True)
    async with rig() as it:
        it.serve(frontend_of(vip, backend_of([(new_address(), 53)], "UDP")))
        it.forwarder.extend(table_of(frontend_of(vip, backend), generation=2))
        with udp_socket("127.0.0.1") as client:
            client.sendto(b"hello", (vip, VIP_PORT))
            await dropped(it, "no_endpoint")


async def test_a_client_outside_the_source_ranges() -> None:
    vip = new_address()
    backend = msgspec.structs.replace(
        backend_of([(new_address(), 53)], "UDP"),
        source_ranges=(parse_cidr("192.0.2.0/24"),),
        load_balancer_ips=(vip,),
    )
    async with rig() as it:
        it.serve(frontend_of(vip, backend, kind="LoadBalancer"))
        with udp_socket("127.0.0.1") as client:
            client.sendto(b"hello", (vip, VIP_PORT))
            await dropped(it, "not_allowed")


async def test_an_endpoint_that_no_route_leads_to() -> None:
    vip = new_address()
    async with rig() as it:
        # A class E address: connecting to it fails at once, on every host.
        it.serve(frontend_of(vip, backend_of([("255.255.255.255", 53)], "UDP")))
        with udp_socket("127.0.0.1") as client:
            client.sendto(b"hello", (vip, VIP_PORT))
            await dropped(it, "connect_failed")


async def test_a_new_client_of_an_address_that_is_served_no_more() -> None:
    vip = new_address()
    with udp_socket(new_address()) as endpoint, udp_socket("127.0.0.1") as old:
        async with rig() as it:
            counted = it.counters("UDP").dropped
            it.serve(frontend_of(vip, backend_of([at(endpoint)], "UDP")))
            old.sendto(b"hello", (vip, VIP_PORT))
            await receive(endpoint)
            it.serve()
            with udp_socket("127.0.0.1") as client:
                client.sendto(b"hello", (vip, VIP_PORT))
                await until(lambda: bool(counted))
    assert counted == {"service_gone": 1}


async def test_a_datagram_that_is_too_long_for_ipv4() -> None:
    """IPv6 takes 20 bytes more than IPv4 has room for."""
    with udp_socket(new_address()) as endpoint, udp_socket("::1") as client:
        async with rig() as it:
            port = at(endpoint)[1] ^ 1
            it.serve(frontend_of("::1", backend_of([at(endpoint)], "UDP"), port))
            client.sendto(bytes(65_527), ("::1", port))
            await dropped(it, "too_long")
            client.sendto(b"short", ("::1", port))
            assert (await receive(endpoint))[0] == b"short"
            assert it.counters("UDP").datagrams_to_endpoint == 1


class _Socket:
    """A socket that takes nothing, as one whose buffer is full."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def send(self, data: bytes) -> int:
        raise BlockingIOError(errno.EAGAIN, "full")

    def sendto(self, data: bytes, address: tuple[str, int]) -> int:
        raise BlockingIOError(errno.EAGAIN, "full")

    def sendmsg(self, *_: object) -> int:
        raise BlockingIOError(errno.EAGAIN, "full")


@pytest.mark.parametrize("is_answer", [False, True])
async def test_a_buffer_that_is_full(*, is_answer: bool) -> None:
    """The kernel's own buffer cannot be filled on loopback: a packet is there at once."""
    vip, count = new_address(), 3
    with udp_socket(new_address()) as endpoint, udp_socket("127.0.0.1") as client:
        async with rig() as it:
            it.serve(frontend_of(vip, backend_of([at(endpoint)], "UDP")))
            client.sendto(b"hello", (vip, VIP_PORT))
            _, proxy = await receive(endpoint)
            endpoint.sendto(b"hello", proxy)
            await receive(client)
            (flow,) = it.forwarder._udp.flows
            if is_answer:
                flow._frontend._sock = _Socket(flow._frontend._sock)  # type: ignore[assignment]
            else:
                flow._sock = _Socket(flow._sock)  # type: ignore[assignment]
            for _ in range(count):
                if is_answer:
                    endpoint.sendto(b"again", proxy)
                else:
                    client.sendto(b"again", (vip, VIP_PORT))
            await dropped(it, "buffer_full", count)
