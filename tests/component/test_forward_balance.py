"""Which endpoints real connections go to: by load, and not to those that cannot be connected.

Times come from a clock that the test turns.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import msgspec

from pyproxy.model.options import EjectionSettings, ServiceOptions
from pyproxy.model.service import Protocol
from pyproxy.model.table import Backend
from tests.support.backends import (
    VIP_PORT,
    Handler,
    Rig,
    ask,
    at,
    backend_of,
    connect,
    echo,
    frontend_of,
    greet,
    new_address,
    read_all,
    receive,
    refusing_port,
    rig,
    tcp_backend,
    the_first,
    udp_socket,
    until,
)
from tests.support.clock import Clock

EJECTION = EjectionSettings(consecutive_failures=3, base_time_s=10, max_time_s=60)


def backend(
    *endpoints: tuple[str, int], options: ServiceOptions, protocol: Protocol = "TCP"
) -> Backend:
    return msgspec.structs.replace(backend_of(endpoints, protocol), options=options)


def balanced(*endpoints: tuple[str, int]) -> Backend:
    """In turn, so that each endpoint would get its connections."""
    return backend(*endpoints, options=ServiceOptions(balance="round-robin", ejection=EJECTION))


@contextlib.asynccontextmanager
async def late_backend(where: tuple[str, int], handler: Handler) -> AsyncIterator[list[int]]:
    """A backend that starts at a port which refused so far; yields how many it has had."""
    listener = socket.create_server(where)
    listener.setblocking(False)
    had = [0]

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(listener)
            had[0] += 1
            with connection:
                await handler(connection)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(serve())
        try:
            yield had
        finally:
            task.cancel()
            listener.close()


async def failures(it: Rig, vip: str, connections: int, answer: bytes = b"good") -> int:
    """Let clients come one after the other, none of which fails; return the failed attempts."""
    before = it.counters().attempts["refused"]
    for _ in range(connections):
        assert await ask(vip) == answer
    await it.all_closed()
    return it.counters().attempts["refused"] - before


async def test_an_ejected_endpoint_gets_no_connections_while_others_serve() -> None:
    vip, clock, dead = new_address(), Clock(), refusing_port(new_address())
    async with (
        tcp_backend(new_address(), greet(b"good")) as one,
        tcp_backend(new_address(), greet(b"good")) as two,
        rig(pick=the_first, clock=clock) as it,
    ):
        it.serve(frontend_of(vip, balanced(dead, one, two)))
        assert await failures(it, vip, 12) == 3
        assert await failures(it, vip, 30) == 0
        assert it.counters().ejections == 1
        assert it.counters().closed == {"finished": 42}


async def test_an_ejected_endpoint_comes_back_by_one_probe() -> None:
    vip, clock, dead = new_address(), Clock(), refusing_port(new_address())
    async with (
        tcp_backend(new_address(), greet(b"good")) as one,
        rig(pick=the_first, clock=clock) as it,
    ):
        it.serve(frontend_of(vip, balanced(dead, one)))
        assert await failures(it, vip, 12) == 3
        clock.now_s += 10
        assert await failures(it, vip, 12) == 1  # the probe, whose client is served all the same
        clock.now_s += 10
        assert await failures(it, vip, 12) == 0  # the second time is twice as long
        clock.now_s += 10
        async with late_backend(dead, greet(b"good")) as had:
            assert await failures(it, vip, 12) == 0
            assert had[0] > 3
        assert it.counters().ejections == 2


async def test_while_a_probe_is_under_way_others_do_not_wait_for_it() -> None:
    vip, clock, dead = new_address(), Clock(), refusing_port(new_address())
    async with (
        tcp_backend(new_address(), echo) as one,
        rig(pick=the_first, clock=clock) as it,
    ):
        it.serve(frontend_of(vip, balanced(dead, one)))
        assert await failures(it, vip, 12, b"") == 3
        clock.now_s += 10
        clients = [await connect(vip) for _ in range(6)]
        await until(lambda: it.counters().attempts["ok"] == 18)
        assert it.counters().attempts["refused"] == 4
        for client in clients:
            client.close()


async def test_where_all_endpoints_are_ejected_all_are_tried() -> None:
    vip, clock = new_address(), Clock()
    dead = [refusing_port(new_address()) for _ in range(2)]
    options = ServiceOptions(ejection=msgspec.structs.replace(EJECTION, max_percent=100))
    async with rig(clock=clock) as it:
        it.serve(frontend_of(vip, backend(*dead, options=options)))
        for number in range(1, 7):
            with await connect(vip) as client, contextlib.suppress(ConnectionResetError):
                await read_all(client)
            await it.all_closed()
            assert it.counters().attempts == {"refused": 2 * number}
        assert it.counters().ejections == 2
        async with late_backend(dead[1], greet(b"back")):
            assert await ask(vip) == b"back"
            assert await ask(vip) == b"back"


async def test_a_service_that_wants_no_ejection_has_none() -> None:
    vip, dead = new_address(), refusing_port(new_address())
    options = ServiceOptions(balance="round-robin", ejects=False)
    async with tcp_backend(new_address(), greet(b"good")) as one, rig(pick=the_first) as it:
        it.serve(frontend_of(vip, backend(dead, one, options=options)))
        assert await failures(it, vip, 12) > 5
        assert it.counters().ejections == 0


async def test_long_connections_are_spread_by_load() -> None:
    vip = new_address()
    async with (
        tcp_backend(new_address(), echo) as one,
        tcp_backend(new_address(), echo) as two,
        rig() as it,
    ):
        served = backend_of([one, two])
        it.serve(frontend_of(vip, served))
        pool = it.balancer.pool(served)

        def live() -> list[int]:
            return [pool.live(endpoint) for endpoint in served.cluster]

        clients = [await connect(vip) for _ in range(40)]
        await until(lambda: sum(live()) == 40)
        assert live() == [20, 20]
        for client in clients[:30]:
            client.close()
        await until(lambda: sum(live()) == 10)
        more = [await connect(vip) for _ in range(30)]
        await until(lambda: sum(live()) == 40)
        assert live() == [20, 20]
        for client in (*clients[30:], *more):
            client.close()
        await it.all_closed()
        assert live() == [0, 0]


async def test_a_client_of_a_consistent_hash_stays_with_its_endpoint() -> None:
    vip = new_address()
    names = [b"one", b"two", b"three"]
    async with contextlib.AsyncExitStack() as stack:
        endpoints = [
            await stack.enter_async_context(tcp_backend(new_address(), greet(name)))
            for name in names
        ]
        it = await stack.enter_async_context(rig())
        options = ServiceOptions(balance="consistent-hash")
        it.serve(frontend_of(vip, backend(*endpoints, options=options)))

        async def served_by(source: str) -> bytes:
            with await connect(vip, source=source) as client:
                found = await read_all(client)
            await it.all_closed()
            return found

        sources = [new_address() for _ in range(12)]
        before = {source: await served_by(source) for source in sources}
        assert len(set(before.values())) > 1
        gone = names.index(before[sources[0]])
        rest = [endpoint for number, endpoint in enumerate(endpoints) if number != gone]
        it.serve(frontend_of(vip, backend(*rest, options=options)))
        after = {source: await served_by(source) for source in sources}
        assert {s for s in sources if after[s] != before[s]} == {
            s for s in sources if before[s] == names[gone]
        }


async def test_an_udp_endpoint_that_refuses_is_ejected_and_its_flows_served_elsewhere() -> None:
    vip, clock = new_address(), Clock()
    with udp_socket(new_address()) as closed:
        dead = at(closed)
    with udp_socket(new_address()) as endpoint:
        async with rig(pick=the_first, clock=clock) as it:
            options = ServiceOptions(balance="round-robin", ejection=EJECTION)
            served = backend(dead, at(endpoint), options=options, protocol="UDP")
            it.serve(frontend_of(vip, served))
            for number in range(12):
                with udp_socket(new_address()) as client:
                    client.sendto(b"%d" % number, (vip, VIP_PORT))
                    data, flow = await receive(endpoint)
                    assert data == b"%d" % number
                    endpoint.sendto(data, flow)
                    assert (await receive(client))[0] == data
            assert it.counters("UDP").attempts["refused"] == 3
            assert it.counters("UDP").ejections == 1
