"""Finding an endpoint that can be connected, while the client waits."""

import asyncio
import socket

import pytest

from pyproxy.forward.settings import ForwardSettings
from tests.support.backends import (
    answer_at_end,
    ask,
    backend_of,
    blackhole,
    connect,
    descriptors,
    frontend_of,
    greet,
    new_address,
    read_all,
    refusing_port,
    reset,
    rig,
    tcp_backend,
    the_first,
    until,
    waiting_client,
)

IMPATIENT = ForwardSettings(connect_timeout_s=0.1, connect_deadline_s=5.0)
PATIENT = ForwardSettings(connect_timeout_s=60.0, connect_deadline_s=60.0)


async def test_a_refusing_endpoint_loses_no_request() -> None:
    vip = new_address()
    async with tcp_backend(new_address(), answer_at_end) as endpoint, rig() as it:
        dead = [refusing_port(new_address()) for _ in range(3)]
        it.serve(frontend_of(vip, backend_of([*dead, endpoint])))
        for _ in range(20):
            assert await ask(vip, b"abc") == b"cba"
        await it.all_closed()
        counters = it.counters()
        assert counters.closed == {"finished": 20}
        assert counters.attempts["ok"] == 20
        assert counters.attempts["refused"] > 0


async def test_an_endpoint_that_does_not_answer_is_given_up_for_another() -> None:
    vip = new_address()
    with blackhole(new_address()) as hole:
        async with (
            tcp_backend(new_address(), answer_at_end) as endpoint,
            rig(IMPATIENT, the_first) as it,
        ):
            it.serve(frontend_of(vip, backend_of([hole, endpoint])))
            assert await ask(vip, b"abc") == b"cba"
            assert it.counters().attempts == {"timeout": 1, "ok": 1}


async def test_a_client_may_end_its_side_while_an_endpoint_is_dialled() -> None:
    vip, loop = new_address(), asyncio.get_running_loop()
    with blackhole(new_address()) as hole:
        async with (
            tcp_backend(new_address(), answer_at_end) as endpoint,
            rig(IMPATIENT, the_first) as it,
        ):
            it.serve(frontend_of(vip, backend_of([hole, endpoint])))
            with await connect(vip) as client:
                await loop.sock_sendall(client, b"abc")
                client.shutdown(socket.SHUT_WR)
                await until(lambda: it.counters().opened == 1)
                assert it.counters().attempts == {}
                assert await read_all(client) == b"cba"
            await it.all_closed()
            assert it.counters().closed == {"finished": 1}


async def test_when_no_endpoint_can_be_connected_the_client_is_reset() -> None:
    vip = new_address()
    async with rig() as it:
        it.serve(frontend_of(vip, backend_of([refusing_port(new_address()) for _ in range(3)])))
        with waiting_client(vip) as client, pytest.raises(ConnectionResetError):
            await read_all(client)
        await it.all_closed()
        assert it.counters().closed == {"connect_failed": 1}
        assert it.counters().attempts == {"refused": 3}  # each of them once


async def test_the_deadline_ends_all_attempts() -> None:
    vip = new_address()
    settings = ForwardSettings(connect_timeout_s=0.2, connect_deadline_s=0.3)
    with (
        blackhole(new_address()) as hole,
        blackhole(new_address()) as hole2,
        blackhole(new_address()) as hole3,
    ):
        async with rig(settings) as it:
            it.serve(frontend_of(vip, backend_of([hole, hole2, hole3])))
            with await connect(vip) as client, pytest.raises(ConnectionResetError):
                await read_all(client)
            await it.all_closed()
            assert it.counters().closed == {"connect_failed": 1}
            assert it.counters().attempts == {"timeout": 2}


async def test_an_endpoint_without_a_route_is_given_up_for_another() -> None:
    vip = new_address()
    async with tcp_backend(new_address(), answer_at_end) as endpoint, rig(None, the_first) as it:
        # TCP to a broadcast address: the kernel says ENETUNREACH at once.
        it.serve(frontend_of(vip, backend_of([("255.255.255.255", 9), endpoint])))
        assert await ask(vip, b"abc") == b"cba"
        assert it.counters().attempts == {"unreachable": 1, "ok": 1}


async def test_a_client_that_goes_away_while_dialling_frees_everything() -> None:
    vip = new_address()
    with blackhole(new_address()) as hole:
        async with rig(PATIENT) as it:
            it.serve(frontend_of(vip, backend_of([hole])))
            before = descriptors()
            client = await connect(vip)
            await until(lambda: it.counters().opened == 1)
            reset(client)
            await it.all_closed()
            assert it.counters().closed == {"client_gone": 1}
            assert descriptors() == before


async def test_accepting_does_not_wait_for_a_dial() -> None:
    stuck, quick = new_address(), new_address()
    with blackhole(new_address()) as hole:
        async with tcp_backend(new_address(), answer_at_end) as endpoint, rig(PATIENT) as it:
            it.serve(
                frontend_of(stuck, backend_of([hole], service="stuck")),
                frontend_of(quick, backend_of([endpoint])),
            )
            with await connect(stuck), await connect(stuck):
                await until(lambda: it.counters(service="stuck").opened == 2)
                assert await ask(quick, b"abc") == b"cba"


async def test_session_affinity_holds_until_the_endpoint_refuses() -> None:
    vip = new_address()
    async with (
        tcp_backend(new_address(), greet(b"one")) as one,
        tcp_backend(new_address(), greet(b"two")) as two,
        rig() as it,
    ):
        it.serve(frontend_of(vip, backend_of([one, two], affinity_seconds=100)))
        (favourite,) = {await ask(vip) for _ in range(20)}
        dead = refusing_port(new_address())
        keep, lost = (one, two) if favourite == b"one" else (two, one)
        it.serve(frontend_of(vip, backend_of([dead, lost], affinity_seconds=100)))
        (other,) = {await ask(vip) for _ in range(20)}
        assert other != favourite
        assert it.counters().attempts["refused"] <= 1
        it.serve(frontend_of(vip, backend_of([keep, lost], affinity_seconds=100)))
        assert {await ask(vip) for _ in range(20)} == {other}
