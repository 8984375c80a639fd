"""What a Service's options do to real connections: limits, ages, departures, PROXY protocol, loops.

Times come from a clock that the test turns; the timers that look at it run by themselves.
"""

import asyncio
import socket
import struct

import pytest

from pyproxy.forward.settings import ForwardSettings
from pyproxy.model.options import ServiceOptions
from pyproxy.model.table import Backend
from tests.support.backends import (
    VIP_PORT,
    Rig,
    answer_at_end,
    ask,
    backend_of,
    blackhole,
    connect,
    echo,
    frontend_of,
    greet,
    new_address,
    read_all,
    receive,
    rig,
    tcp_backend,
    udp_socket,
    until,
    waiting_client,
)
from tests.support.clock import Clock

SETTINGS = ForwardSettings(drain_timeout_s=30)


def backend(
    *endpoints: tuple[str, int], options: ServiceOptions, serving: bool = True, service: str = "web"
) -> Backend:
    made = backend_of(endpoints, service=service)
    return Backend(
        name=made.name,
        family=made.family,
        cluster=made.cluster,
        has_any=made.has_any,
        serving=made.serving if serving else frozenset({("192.0.2.1", 1)}),
        options=options,
    )


async def talk(client: socket.socket, text: bytes = b"hello") -> None:
    """Send something and wait for its echo."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, text)
    assert await loop.sock_recv(client, 100) == text


async def is_reset(client: socket.socket) -> bool:
    try:
        await asyncio.get_running_loop().sock_recv(client, 1)
    except ConnectionResetError:
        return True
    return False


async def test_connections_above_the_services_limit_are_refused_and_counted() -> None:
    vip, other = new_address(), new_address()
    options = ServiceOptions(max_connections=2)
    async with tcp_backend(new_address(), echo) as endpoint, rig() as it:
        limited = backend(endpoint, options=options)
        # Both frontends are of one Service, and the limit is the Service's.
        it.serve(frontend_of(vip, limited), frontend_of(other, limited))
        with await connect(vip) as first, await connect(other) as second:
            await talk(first)
            await talk(second)
            with waiting_client(vip) as third:
                assert await is_reset(third)
            await talk(first)
            assert it.counters().closed == {"over_limit": 1}
        await it.all_closed()
        with await connect(vip) as again:
            await talk(again)


async def test_a_silent_connection_is_closed_in_order_after_the_idle_time_out() -> None:
    vip, clock = new_address(), Clock()
    options = ServiceOptions(idle_timeout_s=60)
    async with tcp_backend(new_address(), echo) as endpoint, rig(SETTINGS, clock=clock) as it:
        it.serve(frontend_of(vip, backend(endpoint, options=options)))
        with await connect(vip) as silent, await connect(vip) as busy:
            await talk(silent)
            await talk(busy)
            await looked_at(it)
            clock.now_s += 59
            await talk(busy)
            await looked_at(it)
            assert it.counters().closed == {}
            clock.now_s += 2
            assert await read_all(silent) == b""
            await talk(busy)
            assert it.counters().closed == {"idle": 1}


async def looked_at(it: Rig) -> None:
    """Wait until the timer has looked at the live connections twice from now."""
    connections = it.forwarder._connections
    for _ in range(2):
        before = connections.looks
        await until(lambda b=before: connections.looks > b)  # type: ignore[misc]


async def test_an_old_connection_ends_in_a_pause_and_its_peer_sees_an_orderly_end() -> None:
    vip, clock = new_address(), Clock()
    options = ServiceOptions(max_connection_age_s=100)
    async with tcp_backend(new_address(), echo) as endpoint, rig(SETTINGS, clock=clock) as it:
        it.serve(frontend_of(vip, backend(endpoint, options=options)))
        with await connect(vip) as client:
            await talk(client)
            clock.now_s += 85
            await looked_at(it)
            assert it.counters().closed == {}
            clock.now_s += 30
            assert await read_all(client) == b""
        assert it.counters().closed == {"aged": 1}


async def test_a_connection_outlives_its_endpoints_departure_by_the_drain_time() -> None:
    vip, clock, options = new_address(), Clock(), ServiceOptions()
    async with (
        tcp_backend(new_address(), echo) as leaving,
        tcp_backend(new_address(), greet(b"new")) as coming,
        rig(SETTINGS, clock=clock) as it,
    ):
        it.serve(frontend_of(vip, backend(leaving, options=options)))
        with await connect(vip) as client:
            await talk(client)
            it.serve(frontend_of(vip, backend(coming, options=options)))
            assert await ask(vip) == b"new"
            clock.now_s += 29
            await talk(client)
            clock.now_s += 2
            assert await is_reset(client)
        assert it.counters().closed["endpoint_removed"] == 1


@pytest.mark.parametrize(("policy", "is_cut"), [("close", True), ("keep", False)])
async def test_a_service_can_choose_what_becomes_of_connections_to_departed_endpoints(
    policy: str, is_cut: bool
) -> None:
    vip, clock = new_address(), Clock()
    options = ServiceOptions(on_endpoint_removed=policy)  # type: ignore[arg-type]  # one of them
    async with tcp_backend(new_address(), echo) as endpoint, rig(SETTINGS, clock=clock) as it:
        it.serve(frontend_of(vip, backend(endpoint, options=options)))
        with await connect(vip) as client:
            await talk(client)
            it.serve(frontend_of(vip, backend(endpoint, options=options, serving=False)))
            if is_cut:
                assert await is_reset(client)
            else:
                clock.now_s += 1e6
                await asyncio.sleep(0)
                await talk(client)


async def test_a_terminating_endpoint_that_serves_keeps_its_connections() -> None:
    vip, clock, options = new_address(), Clock(), ServiceOptions(on_endpoint_removed="close")
    async with (
        tcp_backend(new_address(), echo) as terminating,
        tcp_backend(new_address(), greet(b"new")) as ready,
        rig(SETTINGS, clock=clock) as it,
    ):
        it.serve(frontend_of(vip, backend(terminating, options=options)))
        with await connect(vip) as client:
            await talk(client)
            both = backend(terminating, ready, options=options)
            left = Backend(
                name=both.name,
                family=both.family,
                cluster=both.cluster[1:],
                has_any=True,
                serving=both.serving,
                options=options,
            )
            it.serve(frontend_of(vip, left))
            assert await ask(vip) == b"new"
            await talk(client)


async def test_an_endpoint_that_comes_back_in_time_keeps_its_connections() -> None:
    vip, clock, options = new_address(), Clock(), ServiceOptions()
    async with tcp_backend(new_address(), echo) as endpoint, rig(SETTINGS, clock=clock) as it:
        there = frontend_of(vip, backend(endpoint, options=options))
        it.serve(there)
        with await connect(vip) as client:
            await talk(client)
            it.serve(frontend_of(vip, backend(endpoint, options=options, serving=False)))
            clock.now_s += 20
            it.serve(there)
            clock.now_s += 20
            it.serve(frontend_of(vip, backend(endpoint, options=options, serving=False)))
            clock.now_s += 20
            await looked_at(it)
            await talk(client)
            clock.now_s += 20
            assert await is_reset(client)


async def test_the_endpoint_gets_a_proxy_header_before_the_clients_bytes() -> None:
    vip = new_address()
    options = ServiceOptions(proxy_protocol=True)
    async with tcp_backend(new_address(), answer_at_end) as endpoint, rig() as it:
        it.serve(frontend_of(vip, backend(endpoint, options=options)))
        with await connect(vip) as client:
            port = client.getsockname()[1]
            await asyncio.get_running_loop().sock_sendall(client, b"payload")
            client.shutdown(socket.SHUT_WR)
            heard = (await read_all(client))[::-1]
        assert heard[:16] == b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"
        addresses = socket.inet_aton("127.0.0.1") + socket.inet_aton(vip)
        assert heard[16:28] == addresses + struct.pack("!HH", port, VIP_PORT)
        assert heard[28:] == b"payload"


async def test_the_proxy_header_goes_to_an_endpoint_whose_client_waits_for_it_to_speak() -> None:
    vip, loop = new_address(), asyncio.get_running_loop()

    async def greet_after_header(connection: socket.socket) -> None:
        header = await loop.sock_recv(connection, 28)
        await loop.sock_sendall(connection, header[:4] + b"220 ready")

    options = ServiceOptions(proxy_protocol=True)
    async with tcp_backend(new_address(), greet_after_header) as endpoint, rig() as it:
        it.serve(frontend_of(vip, backend(endpoint, options=options)))
        with await connect(vip) as client:
            assert await read_all(client) == b"\r\n\r\n220 ready"


async def test_a_service_whose_endpoint_is_its_own_vip_does_not_go_round() -> None:
    vip = new_address()
    async with tcp_backend(new_address(), answer_at_end) as endpoint, rig() as it:
        it.serve(frontend_of(vip, backend_of([(vip, VIP_PORT)])))
        with waiting_client(vip) as client:
            assert await is_reset(client)
        await it.all_closed()
        counters = it.counters()
        assert (counters.opened, counters.attempts) == (1, {"loop": 1})
        it.serve(frontend_of(vip, backend_of([(vip, VIP_PORT), endpoint])))
        assert await ask(vip, b"abc") == b"cba"


async def test_a_udp_service_whose_endpoint_is_its_own_vip_does_not_go_round() -> None:
    vip = new_address()
    async with rig() as it:
        it.serve(frontend_of(vip, backend_of([(vip, VIP_PORT)], "UDP")))
        with udp_socket("127.0.0.1") as client:
            client.sendto(b"round", (vip, VIP_PORT))
            await until(lambda: it.counters("UDP").attempts["loop"] == 1)
        assert it.forwarder.live_flows == 0


async def test_a_service_may_have_another_services_vip_as_endpoint() -> None:
    vip, other = new_address(), new_address()
    async with tcp_backend(new_address(), answer_at_end) as endpoint, rig() as it:
        it.serve(
            frontend_of(vip, backend_of([(other, VIP_PORT)])),
            frontend_of(other, backend_of([endpoint], service="other")),
        )
        assert await ask(vip, b"abc") == b"cba"


async def test_when_descriptors_run_short_the_busiest_service_gets_no_more() -> None:
    busy, quiet = new_address(), new_address()
    # Both listeners and twelve connections are 26 of them; 64 are set aside.
    settings = ForwardSettings(max_descriptors=100)
    async with tcp_backend(new_address(), echo) as endpoint, rig(settings) as it:
        it.serve(
            frontend_of(busy, backend_of([endpoint])),
            frontend_of(quiet, backend_of([endpoint], service="quiet")),
        )
        clients = [await connect(busy) for _ in range(12)]
        try:
            for client in clients:
                await talk(client)
            with waiting_client(busy) as refused, await connect(quiet) as served:
                assert await is_reset(refused)
                await talk(served)
            assert it.counters().closed == {"over_budget": 1}
            for client in clients:
                await talk(client)
        finally:
            for client in clients:
                client.close()
        await it.all_closed()
        with await connect(busy) as back_to_normal:
            await talk(back_to_normal)


async def test_the_last_tenth_of_the_connections_is_not_for_the_busiest_service() -> None:
    busy, quiet = new_address(), new_address()
    async with (
        tcp_backend(new_address(), echo) as endpoint,
        rig(ForwardSettings(max_connections=20)) as it,
    ):
        it.serve(
            frontend_of(busy, backend_of([endpoint])),
            frontend_of(quiet, backend_of([endpoint], service="quiet")),
        )
        clients = [await connect(busy) for _ in range(18)]
        try:
            for client in clients:
                await talk(client)
            with waiting_client(busy) as refused, await connect(quiet) as served:
                assert await is_reset(refused)
                await talk(served)
            assert it.counters().closed == {"over_budget": 1}
        finally:
            for client in clients:
                client.close()
        await it.all_closed()
        with await connect(busy) as back_to_normal:
            await talk(back_to_normal)


async def test_when_descriptors_run_short_a_new_flow_takes_the_place_of_the_longest_idle() -> None:
    vip = new_address()
    settings = ForwardSettings(max_descriptors=80)  # 8 beside those that are set aside
    with udp_socket(new_address()) as server:
        async with rig(settings) as it:
            it.serve(frontend_of(vip, backend_of([server.getsockname()], "UDP")))
            clients = [udp_socket("127.0.0.1") for _ in range(20)]
            try:
                for number, client in enumerate(clients):
                    client.sendto(str(number).encode(), (vip, VIP_PORT))
                    data, sender = await receive(server)
                    server.sendto(data, sender)
                    assert await receive(client) == (str(number).encode(), (vip, VIP_PORT))
                assert it.forwarder.live_flows < 10
                assert it.counters("UDP").closed["evicted"] > 10
            finally:
                for client in clients:
                    client.close()


async def test_a_connection_that_dials_is_decided_about_anew_at_each_attempt() -> None:
    vip, clock = new_address(), Clock()
    with blackhole(new_address()) as silent:
        await _leave_the_silent(vip, silent, clock)


async def _leave_the_silent(vip: str, silent: tuple[str, int], clock: Clock) -> None:
    async with (
        tcp_backend(new_address(), answer_at_end) as endpoint,
        rig(SETTINGS, clock=clock) as it,
    ):
        it.serve(frontend_of(vip, backend_of([silent])))
        with await connect(vip) as client:
            await until(lambda: it.forwarder.live_connections == 1)
            it.serve(frontend_of(vip, backend_of([endpoint])))
            clock.now_s += 2
            await asyncio.get_running_loop().sock_sendall(client, b"abc")
            client.shutdown(socket.SHUT_WR)
            assert await read_all(client) == b"cba"
