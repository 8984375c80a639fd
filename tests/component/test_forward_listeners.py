"""Which frontends are listened on, what becomes of their clients, and how it all stops."""

import asyncio
import logging
import socket

import msgspec
import pytest

from pyproxy.forward.settings import ForwardSettings
from pyproxy.model.addresses import parse_cidr
from pyproxy.model.table import Frontend
from tests.support.backends import (
    VIP_PORT,
    answer_at_end,
    ask,
    backend_of,
    blackhole,
    connect,
    descriptors,
    echo,
    frontend_of,
    greet,
    new_address,
    read_all,
    rig,
    table_of,
    tcp_backend,
    until,
    waiting_client,
)

ENDPOINT = ("127.0.0.1", 9)


async def refusal(address: str) -> bool:
    """Whether the kernel refuses a connection at once."""
    try:
        (await connect(address)).close()
    except ConnectionRefusedError:
        return True
    return False


async def test_what_has_no_endpoint_is_refused_at_once_and_served_when_one_comes() -> None:
    vip = new_address()
    async with tcp_backend(new_address(), answer_at_end) as endpoint, rig() as it:
        it.serve(frontend_of(vip, backend_of([])))
        assert await refusal(vip)
        it.serve(frontend_of(vip, backend_of([endpoint])))
        assert await ask(vip, b"abc") == b"cba"
        it.serve(frontend_of(vip, backend_of([])))
        assert await refusal(vip)
        assert it.forwarder.listening() == frozenset()
        assert it.forwarder.bind_faults() == {}


@pytest.mark.parametrize(
    ("frontend", "expected"),
    [
        pytest.param(
            frontend_of("127.0.0.1", backend_of([ENDPOINT], internal_local=True)),
            False,
            id="internal policy Local without an endpoint here",
        ),
        pytest.param(
            frontend_of("127.0.0.1", backend_of([ENDPOINT]), kind="NodePort"), True, id="node port"
        ),
        pytest.param(
            frontend_of("127.0.0.1", backend_of([ENDPOINT], has_any=False)), False, id="none usable"
        ),
    ],
)
async def test_only_what_can_have_clients_is_listened_on(
    frontend: Frontend, expected: bool
) -> None:
    vip = new_address()
    async with rig() as it:
        it.serve(Frontend(vip, VIP_PORT, "TCP", frontend.kind, frontend.backend))
        assert bool(it.forwarder.listening()) is expected


async def test_a_client_outside_the_source_ranges_is_reset() -> None:
    vip = new_address()
    backend = backend_of([ENDPOINT])
    limited = msgspec.structs.replace(backend, source_ranges=(parse_cidr("192.0.2.0/24"),))
    async with rig() as it:
        it.serve(frontend_of(vip, limited, kind="LoadBalancer"))
        with waiting_client(vip) as client, pytest.raises(ConnectionResetError):
            await read_all(client)
        assert it.counters().closed == {"not_allowed": 1}


async def test_a_client_that_waits_while_the_last_endpoint_goes_is_reset() -> None:
    vip = new_address()
    async with rig() as it:
        it.serve(frontend_of(vip, backend_of([ENDPOINT])))
        with waiting_client(vip) as client:
            it.serve(frontend_of(vip, backend_of([])))
            with pytest.raises(ConnectionResetError):
                await read_all(client)
        assert it.counters().closed == {"no_endpoint": 1}


async def test_another_list_of_endpoints_leaves_the_listening_socket_alone() -> None:
    vip = new_address()
    async with (
        tcp_backend(new_address(), greet(b"one")) as one,
        tcp_backend(new_address(), greet(b"two")) as two,
        rig() as it,
    ):
        it.serve(frontend_of(vip, backend_of([one])))
        before = descriptors()
        with waiting_client(vip) as waiting:
            it.serve(frontend_of(vip, backend_of([two])))
            assert descriptors() == before + 1
            assert await read_all(waiting) == b"two"


async def test_a_removed_frontend_is_listened_on_until_it_is_retired() -> None:
    vip, other = new_address(), new_address()
    async with tcp_backend(new_address(), answer_at_end) as endpoint, rig() as it:
        old = frontend_of(vip, backend_of([endpoint], service="old"))
        new = frontend_of(other, backend_of([endpoint]))
        it.serve(old)
        it.forwarder.extend(table_of(new))
        assert it.forwarder.listening() == {old.key, new.key}
        assert await ask(vip, b"abc") == await ask(other, b"abc") == b"cba"
        assert it.counters(service="old").opened == 1  # its series goes with its listener
        it.forwarder.retire()
        assert it.forwarder.listening() == {new.key}
        assert await refusal(vip)
        assert [name.service.name for name, _ in it.metrics.service_ports()] == ["web"]


async def test_a_frontend_that_can_forward_nobody_refuses_until_it_is_retired() -> None:
    vip = new_address()
    async with rig() as it:
        it.serve(frontend_of(vip, backend_of([ENDPOINT])))
        it.forwarder.extend(table_of(frontend_of(vip, backend_of([]))))
        with waiting_client(vip) as client, pytest.raises(ConnectionResetError):
            await read_all(client)
        assert it.counters().closed == {"no_endpoint": 1}
        it.forwarder.retire()
        assert it.forwarder.listening() == frozenset()


async def test_a_frontend_that_comes_back_before_it_is_retired_stays() -> None:
    vip = new_address()
    async with tcp_backend(new_address(), answer_at_end) as endpoint, rig() as it:
        frontend = frontend_of(vip, backend_of([endpoint]))
        it.serve(frontend)
        counters, before = it.counters(), descriptors()
        for without in ((), (frontend_of(vip, backend_of([])),)):
            it.forwarder.extend(table_of(*without))
            it.forwarder.extend(table_of(frontend))
            assert descriptors() == before
        it.forwarder.retire()
        assert await ask(vip, b"abc") == b"cba"
        assert it.counters() is counters
        it.serve()
        assert list(it.metrics.service_ports()) == []


async def test_what_could_not_be_bound_and_is_gone_is_tried_no_more() -> None:
    async with rig(ForwardSettings(bind_retry_s=0.01)) as it:
        it.serve(frontend_of("198.51.100.1", backend_of([ENDPOINT])))
        it.forwarder.extend(table_of())
        assert it.forwarder.bind_faults() == {}
        errors = it.metrics.bind_errors
        await asyncio.sleep(0.05)
        assert it.metrics.bind_errors == errors


async def test_clients_in_the_accept_queue_of_a_removed_frontend_are_served() -> None:
    vip = new_address()
    async with tcp_backend(new_address(), answer_at_end) as endpoint, rig() as it:
        it.serve(frontend_of(vip, backend_of([endpoint])))
        clients = [waiting_client(vip) for _ in range(50)]
        it.serve()
        assert await refusal(vip)
        for client in clients:
            with client:
                client.send(b"abc")
                client.shutdown(socket.SHUT_WR)
                assert await read_all(client) == b"cba"
        await it.all_closed()


async def test_live_connections_outlive_their_frontend() -> None:
    vip, loop = new_address(), asyncio.get_running_loop()
    async with tcp_backend(new_address(), echo) as endpoint, rig() as it:
        it.serve(frontend_of(vip, backend_of([endpoint])))
        with await connect(vip) as client:
            await loop.sock_sendall(client, b"before")
            assert await loop.sock_recv(client, 10) == b"before"
            it.serve()
            await loop.sock_sendall(client, b"after")
            assert await loop.sock_recv(client, 10) == b"after"


async def test_what_cannot_be_bound_is_reported_once_and_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    vip = new_address()
    caplog.set_level(logging.INFO)
    settings = ForwardSettings(bind_retry_s=0.02)
    async with tcp_backend(new_address(), answer_at_end) as endpoint, rig(settings) as it:
        frontend = frontend_of(vip, backend_of([endpoint]))
        elsewhere = frontend_of("198.51.100.1", backend_of([endpoint]))
        with socket.socket() as squatter:
            squatter.bind((vip, VIP_PORT))
            squatter.listen()
            it.serve(frontend, elsewhere)
            assert it.forwarder.bind_faults() == {
                frontend.key: "another process listens there",
                elsewhere.key: "the address is not on this host",
            }
            await until(lambda: it.metrics.bind_errors > 6)
            warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
            assert len(warnings) == 2
        await until(lambda: frontend.key in it.forwarder.listening())
        assert await ask(vip, b"abc") == b"cba"
        it.serve(frontend)
        assert it.forwarder.bind_faults() == {}


async def test_many_addresses_of_other_hosts_are_one_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = backend_of([ENDPOINT])
    async with rig(ForwardSettings(bind_retry_batch=10, bind_retry_s=0.01)) as it:
        it.serve(*(frontend_of(f"198.51.100.{n}", backend) for n in range(1, 200)))
        (record,) = caplog.records
        assert "cannot listen on 199 frontends: the address is not on this host" in record.message
        assert len(it.forwarder.bind_faults()) == 199
        await until(lambda: it.metrics.bind_errors >= 199 + 30)
        assert len(caplog.records) == 1


async def test_the_bound_on_live_connections_makes_clients_wait_not_fail(
    caplog: pytest.LogCaptureFixture,
) -> None:
    vip, other = new_address(), new_address()
    async with (
        tcp_backend(new_address(), answer_at_end) as endpoint,
        rig(ForwardSettings(max_connections=3)) as it,
    ):
        backend = backend_of([endpoint])
        it.serve(frontend_of(vip, backend), frontend_of(other, backend))
        clients = [await connect(address) for address in (vip, other) * 8]
        await until(lambda: it.forwarder.live_connections == 3)
        seen = 0
        for client in clients:
            with client:
                client.send(b"abc")
                client.shutdown(socket.SHUT_WR)
                seen += await read_all(client) == b"cba"
                assert it.forwarder.live_connections <= 3
        assert seen == 16
        await it.all_closed()
        assert len([r for r in caplog.records if "the most allowed" in r.message]) == 1


async def test_drain_serves_the_accept_queue_and_waits_for_live_connections() -> None:
    vip = new_address()
    async with tcp_backend(new_address(), answer_at_end) as endpoint, rig() as it:
        it.serve(frontend_of(vip, backend_of([endpoint])))
        with waiting_client(vip) as client:
            async with asyncio.TaskGroup() as group:
                drained = group.create_task(it.forwarder.drain(60))
                await until(lambda: it.forwarder.live_connections == 1)
                assert await refusal(vip)
                assert not drained.done()
                client.send(b"abc")
                client.shutdown(socket.SHUT_WR)
                assert await read_all(client) == b"cba"
        assert it.counters().closed == {"finished": 1}
        it.serve(frontend_of(vip, backend_of([endpoint])))
        assert it.forwarder.listening() == frozenset()


async def test_drain_cuts_what_is_live_at_its_deadline() -> None:
    vip = new_address()
    with blackhole(new_address()) as hole:
        async with tcp_backend(new_address(), echo) as endpoint, rig() as it:
            it.serve(
                frontend_of(vip, backend_of([endpoint])),
                frontend_of(vip, backend_of([hole], service="stuck"), port=VIP_PORT + 1),
            )
            with await connect(vip) as client, await connect(vip, VIP_PORT + 1) as dialling:
                await until(lambda: it.forwarder.live_connections == 2)
                await it.forwarder.drain(0.05)
                for cut in (client, dialling):
                    with pytest.raises(ConnectionResetError):
                        await read_all(cut)
            assert it.counters().closed == {"drained": 1}
            assert it.counters(service="stuck").closed == {"drained": 1}


async def test_close_gives_back_every_descriptor_and_may_be_called_twice() -> None:
    vip = new_address()
    async with tcp_backend(new_address(), echo) as endpoint:
        before = descriptors()
        async with rig() as it:
            udp = backend_of([endpoint], "UDP")
            it.serve(frontend_of(vip, backend_of([endpoint])), frontend_of(vip, udp))
            with await connect(vip) as client:
                await until(lambda: it.counters().attempts["ok"] == 1)
                it.forwarder.close()
                it.forwarder.close()
                with pytest.raises(ConnectionResetError):
                    await read_all(client)
        await until(lambda: descriptors() == before)


async def test_counters_go_with_the_last_frontend_of_a_service_port() -> None:
    vip, other = new_address(), new_address()
    backend = backend_of([ENDPOINT])
    async with rig() as it:
        it.serve(frontend_of(vip, backend), frontend_of(other, backend))
        counters = it.counters()
        it.serve(frontend_of(other, backend))
        assert it.counters() is counters
        it.serve()
        assert list(it.metrics.service_ports()) == []


async def test_5000_short_connections_64_at_a_time_leave_no_descriptor_behind() -> None:
    vip = new_address()
    async with tcp_backend(new_address(), answer_at_end) as endpoint, rig() as it:
        it.serve(frontend_of(vip, backend_of([endpoint])))
        before = descriptors()
        left = iter(range(5000))

        async def work() -> None:
            for number in left:
                request = str(number).encode()
                assert await ask(vip, request) == request[::-1]

        async with asyncio.TaskGroup() as group:
            for _ in range(64):
                group.create_task(work())
        await it.all_closed()
        await until(lambda: descriptors() == before)
        assert it.counters().closed == {"finished": 5000}
        assert it.counters().active == 0
