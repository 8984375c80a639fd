"""UDP through the forwarder: whole datagrams, answers from the VIP, flows that move in time."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import msgspec
import pytest

from pyproxy.forward.settings import ForwardSettings
from pyproxy.model.addresses import parse_cidr
from tests.support.backends import (
    VIP_PORT,
    Rig,
    at,
    backend_of,
    descriptors,
    frontend_of,
    new_address,
    receive,
    rig,
    table_of,
    the_first,
    udp_socket,
    until,
)
from tests.support.clock import Clock

SETTINGS = ForwardSettings()


@contextlib.asynccontextmanager
async def udp_echo(address: str, prefix: bytes = b"") -> AsyncIterator[tuple[str, int]]:
    """Answer each datagram with `prefix` and itself."""
    loop = asyncio.get_running_loop()
    sock = udp_socket(address)

    def answer() -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, sender = sock.recvfrom(65536)
                sock.sendto(prefix + data, sender)

    loop.add_reader(sock, answer)
    try:
        yield at(sock)
    finally:
        loop.remove_reader(sock)
        sock.close()


def refusing(address: str) -> tuple[str, int]:
    with udp_socket(address) as sock:
        return at(sock)


async def exchange(client: socket.socket, vip: str, data: bytes, port: int = VIP_PORT) -> bytes:
    client.sendto(data, (vip, port))
    answer, sender = await receive(client)
    assert sender == (vip, port)  # the answer comes from the VIP
    return answer


@pytest.mark.parametrize("size", [0, 1, 1500, 65_507])
async def test_a_datagram_of_any_size_goes_there_and_back_whole(size: int) -> None:
    vip, data = new_address(), bytes(range(256)) * 256
    async with udp_echo(new_address()) as endpoint, rig() as it:
        it.serve(frontend_of(vip, backend_of([endpoint], "UDP")))
        with udp_socket(new_address()) as client:
            assert await exchange(client, vip, data[:size]) == data[:size]
        counters = it.counters("UDP")
        assert counters.datagrams_to_endpoint == counters.datagrams_to_client == 1
        assert counters.bytes_to_endpoint == counters.bytes_to_client == size


async def test_ipv6_datagrams_are_forwarded_too() -> None:
    async with udp_echo("::1") as endpoint, rig() as it:
        port = endpoint[1] ^ 1
        it.serve(frontend_of("::1", backend_of([endpoint], "UDP"), port))
        with udp_socket("::1") as client:
            assert await exchange(client, "::1", b"hello", port) == b"hello"


async def test_a_flow_keeps_its_endpoint_and_clients_have_flows_of_their_own() -> None:
    vip = new_address()
    async with (
        udp_echo(new_address(), b"1") as one,
        udp_echo(new_address(), b"2") as two,
        rig() as it,
    ):
        it.serve(frontend_of(vip, backend_of([one, two], "UDP")))
        seen = set()
        for _ in range(20):
            with udp_socket("127.0.0.1") as client:
                (prefix,) = {await exchange(client, vip, b"") for _ in range(5)}
                seen.add(prefix)
        assert seen == {b"1", b"2"}
        assert it.counters("UDP").opened == it.forwarder.live_flows == 20


async def test_affinity_holds_over_the_flows_of_a_client() -> None:
    vip = new_address()
    async with (
        udp_echo(new_address(), b"1") as one,
        udp_echo(new_address(), b"2") as two,
        rig() as it,
    ):
        it.serve(frontend_of(vip, backend_of([one, two], "UDP", affinity_seconds=100)))
        seen = set()
        for _ in range(20):
            with udp_socket("127.0.0.1") as client:
                seen.add(await exchange(client, vip, b""))
        assert len(seen) == 1


async def test_a_flow_moves_when_its_endpoint_serves_no_more() -> None:
    vip = new_address()
    async with (
        udp_echo(new_address(), b"1") as one,
        udp_echo(new_address(), b"2") as two,
        rig() as it,
    ):
        it.serve(frontend_of(vip, backend_of([one], "UDP")))
        before = descriptors()
        with udp_socket("127.0.0.1") as client:
            assert await exchange(client, vip, b"a") == b"1a"
            it.serve(frontend_of(vip, backend_of([two], "UDP", serving=frozenset([one, two]))))
            assert await exchange(client, vip, b"b") == b"1b"  # not ready, but serving: it stays
            it.serve(frontend_of(vip, backend_of([two], "UDP")))
            assert await exchange(client, vip, b"c") == b"2c"
        assert it.counters("UDP").flows_moved == 1
        assert it.counters("UDP").opened == 1
        assert descriptors() == before + 1


async def test_flows_stay_while_nothing_serves_and_new_clients_get_nothing() -> None:
    vip = new_address()
    async with udp_echo(new_address(), b"1") as one, rig() as it:
        it.serve(frontend_of(vip, backend_of([one], "UDP")))
        with udp_socket("127.0.0.1") as client, udp_socket("127.0.0.1") as late:
            assert await exchange(client, vip, b"a") == b"1a"
            it.serve(frontend_of(vip, backend_of([], "UDP")))
            late.sendto(b"late", (vip, VIP_PORT))
            assert await exchange(client, vip, b"b") == b"1b"
            assert it.forwarder.live_flows == 1


async def test_a_stale_flow_that_no_rule_forwards_ends() -> None:
    vip = new_address()
    async with udp_echo(new_address(), b"1") as one, rig() as it:
        it.serve(frontend_of(vip, backend_of([one], "UDP"), kind="LoadBalancer"))
        with udp_socket("127.0.0.1") as client:
            assert await exchange(client, vip, b"a") == b"1a"
            other = refusing(new_address())
            ranges = (parse_cidr("192.0.2.0/24"),)
            closed = msgspec.structs.replace(backend_of([other], "UDP"), source_ranges=ranges)
            it.serve(frontend_of(vip, closed, kind="LoadBalancer"))
            client.sendto(b"b", (vip, VIP_PORT))
            await until(lambda: it.forwarder.live_flows == 0)
        assert it.counters("UDP").closed == {"service_gone": 1}


@pytest.mark.parametrize("dead", [1, 3])
async def test_a_datagram_that_is_refused_goes_to_another_endpoint_at_once(dead: int) -> None:
    vip = new_address()
    refusers = [refusing(new_address()) for _ in range(dead)]
    async with udp_echo(new_address(), b"2") as two, rig(None, the_first) as it:
        it.serve(frontend_of(vip, backend_of([*refusers, two], "UDP", balance="round-robin")))
        with udp_socket("127.0.0.1") as client:
            assert await exchange(client, vip, b"a") == b"2a"
            assert await exchange(client, vip, b"b") == b"2b"  # and a was answered only once
        assert it.counters("UDP").attempts == {"refused": dead}
        assert it.counters("UDP").flows_moved == dead
        assert it.counters("UDP").opened == 1


async def test_two_questions_back_to_back_both_survive_a_refusal() -> None:
    vip = new_address()
    dead = refusing(new_address())
    async with udp_echo(new_address(), b"2") as two, rig(None, the_first) as it:
        it.serve(frontend_of(vip, backend_of([dead, two], "UDP", balance="round-robin")))
        with udp_socket("127.0.0.1") as client:
            # Both are read in one turn: the error waits on the socket when the second is sent.
            client.sendto(b"A", (vip, VIP_PORT))
            client.sendto(b"AAAA", (vip, VIP_PORT))
            assert (await receive(client))[0] == b"2A"
            assert (await receive(client))[0] == b"2AAAA"
        assert it.counters("UDP").attempts == {"refused": 1}


async def test_each_endpoint_gets_a_datagram_that_all_refuse_once() -> None:
    vip = new_address()
    refusers = [refusing(new_address()) for _ in range(3)]
    async with rig() as it:
        it.serve(frontend_of(vip, backend_of(refusers, "UDP")))
        with udp_socket("127.0.0.1") as client:
            for number in range(1, 4):  # a new datagram of the client begins with all of them again
                client.sendto(b"x", (vip, VIP_PORT))
                await until(lambda n=number: it.counters("UDP").attempts["refused"] == 3 * n)  # type: ignore[misc]
            await asyncio.sleep(0.05)
            assert it.counters("UDP").datagrams_to_endpoint == 9
            with pytest.raises(BlockingIOError):
                client.recv(1)


async def test_a_large_datagram_is_not_kept_and_the_next_goes_to_another_endpoint() -> None:
    vip = new_address()
    dead = refusing(new_address())
    async with udp_echo(new_address(), b"2") as two, rig(None, the_first) as it:
        it.serve(frontend_of(vip, backend_of([dead, two], "UDP", balance="round-robin")))
        with udp_socket("127.0.0.1") as client:
            client.sendto(bytes(2049), (vip, VIP_PORT))
            await until(lambda: it.counters("UDP").attempts["refused"] == 1)
            assert await exchange(client, vip, b"b") == b"2b"
        assert it.counters("UDP").datagrams_to_endpoint == 2


async def test_a_flow_that_was_answered_repeats_nothing() -> None:
    vip, address = new_address(), new_address()
    async with udp_echo(new_address(), b"2") as two, rig(None, the_first) as it:
        async with udp_echo(address, b"1") as one:
            it.serve(frontend_of(vip, backend_of([one, two], "UDP", balance="round-robin")))
            client = udp_socket("127.0.0.1")
            assert await exchange(client, vip, b"a") == b"1a"
        with client:
            client.sendto(b"b", (vip, VIP_PORT))
            await until(lambda: it.counters("UDP").attempts["refused"] == 1)
            assert await exchange(client, vip, b"c") == b"2c"


async def test_a_refusal_that_a_large_datagram_is_told_of_costs_it_nothing() -> None:
    vip, dead = new_address(), refusing(new_address())
    async with udp_echo(new_address()) as two, rig(None, the_first) as it:
        it.serve(frontend_of(vip, backend_of([dead, two], "UDP", balance="round-robin")))
        with udp_socket("127.0.0.1") as client:
            client.sendto(b"a", (vip, VIP_PORT))
            client.sendto(bytes(3000), (vip, VIP_PORT))
            assert (await receive(client))[0] == bytes(3000)


async def test_with_nowhere_else_to_go_a_flow_waits_for_its_endpoint_to_come_back() -> None:
    vip, address = new_address(), new_address()
    dead = refusing(address)
    async with rig() as it:
        it.serve(frontend_of(vip, backend_of([dead], "UDP")))
        with udp_socket("127.0.0.1") as client:
            for number in range(1, 4):
                client.sendto(b"lost", (vip, VIP_PORT))
                await until(lambda n=number: it.counters("UDP").attempts["refused"] == n)  # type: ignore[misc]
            with udp_socket(address, dead[1]) as endpoint:
                client.sendto(b"found", (vip, VIP_PORT))
                assert (await receive(endpoint))[0] == b"found"
        assert it.counters("UDP").flows_moved == 0
        assert it.counters("UDP").opened == 1


async def test_an_endpoint_without_a_route_is_passed_over() -> None:
    vip = new_address()
    async with udp_echo(new_address(), b"2") as two, rig(None, the_first) as it:
        # Not allowed without SO_BROADCAST: EACCES at once.
        it.serve(
            frontend_of(
                vip, backend_of([("255.255.255.255", 9), two], "UDP", balance="round-robin")
            )
        )
        with udp_socket("127.0.0.1") as client:
            assert await exchange(client, vip, b"b") == b"2b"
        it.serve(
            frontend_of(vip, backend_of([("255.255.255.255", 9)], "UDP", balance="round-robin"))
        )
        with udp_socket("127.0.0.1") as client:
            client.sendto(b"b", (vip, VIP_PORT))
            await until(lambda: it.counters("UDP").attempts["unreachable"] == 2)
        assert it.forwarder.live_flows == 1


async def test_a_full_flow_table_evicts_the_flow_that_is_idle_longest() -> None:
    vip, clock = new_address(), Clock()
    async with (
        udp_echo(new_address(), b"1") as one,
        rig(ForwardSettings(max_udp_flows=2), clock=clock) as it,
    ):
        it.serve(frontend_of(vip, backend_of([one], "UDP")))
        before = descriptors()
        with contextlib.ExitStack() as stack:
            a, b, c = (stack.enter_context(udp_socket("127.0.0.1")) for _ in range(3))
            for client in (a, b, a, c):
                clock.now_s += 1
                await exchange(client, vip, b"x")
            assert it.counters("UDP").closed == {"evicted": 1}
            assert descriptors() == before + 3 + 2
            await exchange(a, vip, b"x")
            assert it.counters("UDP").opened == 3  # a was not the one that went


async def test_idle_flows_end_and_give_back_their_descriptors() -> None:
    vip, clock = new_address(), Clock()
    async with udp_echo(new_address()) as one, rig(clock=clock) as it:
        it.serve(frontend_of(vip, backend_of([one], "UDP")))
        before = descriptors()
        with udp_socket("127.0.0.1") as client:
            await exchange(client, vip, b"x")
        clock.now_s += SETTINGS.udp_replied_timeout_s
        await until(lambda: it.forwarder.live_flows == 0)
        assert it.counters("UDP").closed == {"idle": 1}
        assert it.counters("UDP").active == 0
        assert descriptors() == before


async def begin_flow(it: Rig, vip: str, client: socket.socket) -> None:
    await exchange(client, vip, b"x")
    assert it.forwarder.live_flows == 1


async def test_a_removed_frontend_keeps_its_flows_and_is_closed_with_the_last() -> None:
    vip, clock = new_address(), Clock()
    async with udp_echo(new_address(), b"1") as one, rig(clock=clock) as it:
        before = descriptors()
        it.serve(frontend_of(vip, backend_of([one], "UDP")))
        with udp_socket("127.0.0.1") as client, udp_socket("127.0.0.1") as late:
            await begin_flow(it, vip, client)
            it.serve()
            assert it.forwarder.listening() == frozenset()
            late.sendto(b"late", (vip, VIP_PORT))
            assert await exchange(client, vip, b"a") == b"1a"
            assert it.forwarder.live_flows == 1
            clock.now_s += SETTINGS.udp_replied_timeout_s
            await until(lambda: it.forwarder.live_flows == 0)
        assert descriptors() == before


async def test_a_removed_frontend_that_comes_back_goes_on_with_its_flows() -> None:
    vip = new_address()
    async with udp_echo(new_address(), b"1") as one, rig() as it:
        frontend = frontend_of(vip, backend_of([one], "UDP"))
        it.serve(frontend)
        with udp_socket("127.0.0.1") as client, udp_socket("127.0.0.1") as late:
            await begin_flow(it, vip, client)
            it.serve()
            it.serve(frontend)
            assert await exchange(late, vip, b"a") == b"1a"
            assert await exchange(client, vip, b"a") == b"1a"
        assert it.counters("UDP").opened <= 2


async def test_a_frontend_without_endpoints_keeps_its_flows_and_takes_no_new_ones() -> None:
    vip = new_address()
    async with udp_echo(new_address(), b"1") as one, rig() as it:
        frontend = frontend_of(vip, backend_of([one], "UDP"))
        it.serve(frontend)
        with udp_socket("127.0.0.1") as client, udp_socket("127.0.0.1") as late:
            await begin_flow(it, vip, client)
            it.forwarder.extend(table_of(frontend_of(vip, backend_of([], "UDP"))))
            assert it.forwarder.listening() == {frontend.key}
            for _ in range(2):
                late.sendto(b"late", (vip, VIP_PORT))
                assert await exchange(client, vip, b"a") == b"1a"
                assert it.forwarder.live_flows == 1
                it.forwarder.retire()
                assert it.forwarder.listening() == frozenset()


async def test_a_removed_frontend_takes_new_flows_until_it_is_retired() -> None:
    vip = new_address()
    async with udp_echo(new_address(), b"1") as one, rig() as it:
        it.serve(frontend_of(vip, backend_of([one], "UDP")))
        it.forwarder.extend(table_of())
        with udp_socket("127.0.0.1") as client:
            assert await exchange(client, vip, b"a") == b"1a"


async def test_without_endpoints_the_kernel_refuses_a_datagram() -> None:
    vip = new_address()
    async with rig() as it:
        it.serve(frontend_of(vip, backend_of([], "UDP")))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect((vip, VIP_PORT))
            client.send(b"x")
            with pytest.raises(ConnectionRefusedError):
                client.recv(1)


async def test_drain_ends_the_flows() -> None:
    vip = new_address()
    async with udp_echo(new_address()) as one, rig() as it:
        before = descriptors()
        it.serve(frontend_of(vip, backend_of([one], "UDP")))
        with udp_socket("127.0.0.1") as client:
            await begin_flow(it, vip, client)
            await it.forwarder.drain(60)
        assert it.counters("UDP").closed == {"drained": 1}
        assert descriptors() == before


async def test_a_burst_of_datagrams_is_passed_on_in_order() -> None:
    vip = new_address()
    async with udp_echo(new_address()) as one, rig() as it:
        it.serve(frontend_of(vip, backend_of([one], "UDP")))
        with udp_socket("127.0.0.1") as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            for number in range(150):
                client.sendto(bytes([number]), (vip, VIP_PORT))
            answers = [(await receive(client))[0] for _ in range(150)]
            assert answers == [bytes([number]) for number in range(150)]


async def test_a_fault_ends_its_own_flow_only(caplog: pytest.LogCaptureFixture) -> None:
    vip = new_address()
    async with udp_echo(new_address(), b"1") as one, rig() as it:
        it.serve(frontend_of(vip, backend_of([one], "UDP")))
        with udp_socket("127.0.0.1") as bad, udp_socket("127.0.0.1") as good:
            await exchange(good, vip, b"x")
            await exchange(bad, vip, b"x")
            flow = it.forwarder._udp.flows.get(((vip, VIP_PORT, "UDP"), at(bad)))
            assert flow is not None
            flow._refused = None  # type: ignore[assignment]  # the next answer raises
            bad.sendto(b"lost", (vip, VIP_PORT))
            await until(lambda: it.forwarder.live_flows == 1)
            assert await exchange(good, vip, b"a") == b"1a"
            assert await exchange(bad, vip, b"a") == b"1a"
        assert len([r for r in caplog.records if r.exc_info]) == 1
