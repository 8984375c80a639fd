"""Clients that mean harm, or behave as if: storms, floods, silence, garbage, and circles.

Each test asks the same of the forwarder: the others are served meanwhile, what is held is bounded,
and nothing is left behind.
"""

import asyncio
import contextlib
import random
import resource
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from pyproxy.forward.settings import ForwardSettings
from pyproxy.metrics import ServicePortCounters
from tests.support import agents
from tests.support.backends import (
    VIP_PORT,
    Rig,
    answer_at_end,
    ask,
    at,
    backend_of,
    connect,
    descriptors,
    echo,
    frontend_of,
    new_address,
    read_all,
    receive,
    reset,
    rig,
    tcp_backend,
    tcp_listener,
    udp_socket,
    until,
    waiting_client,
)
from tests.support.builders import Json, make_port, make_service, make_slice
from tests.support.udp_sources import many_clients_socket, send_from

SILENT_CLIENTS = 20_000
# Client, both sides of the proxy, endpoint: all of them are in this process.
DESCRIPTORS_EACH = 4
SPARE_DESCRIPTORS = 1000
# Clients that come before the forwarder has a turn: fewer than fit into an accept queue.
BATCH = 500
# Fewer than fit into the queue of an endpoint of tests.support.backends.
STORM_BATCH = 100
MIB = 1 << 20


@pytest.fixture
def silent_clients() -> Iterator[int]:
    """As many clients as the limit of descriptors lets be, which is raised where that may be."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = SILENT_CLIENTS * DESCRIPTORS_EACH + SPARE_DESCRIPTORS
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, before[1])))
    except (OSError, ValueError):  # takes CAP_SYS_RESOURCE, and no more than fs.nr_open
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield min(SILENT_CLIENTS, (limit - SPARE_DESCRIPTORS) // DESCRIPTORS_EACH)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextlib.asynccontextmanager
async def holder(address: str) -> AsyncIterator[tuple[str, int]]:
    """An endpoint that takes connections, and closes those whose clients have."""
    loop, listener = asyncio.get_running_loop(), tcp_listener(address, backlog=4096)
    held: dict[int, socket.socket] = {}

    def accept() -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, _ = listener.accept()
                held[connection.fileno()] = connection
                loop.add_reader(connection.fileno(), let_go, connection.fileno())

    def let_go(fd: int) -> None:
        loop.remove_reader(fd)
        held.pop(fd).close()

    loop.add_reader(listener, accept)
    try:
        yield at(listener)
    finally:
        loop.remove_reader(listener)
        listener.close()
        for fd in list(held):
            let_go(fd)


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


async def settled(it: Rig, before: int) -> None:
    """Nothing is live, and every descriptor is given back but those of idle pipes."""
    await it.all_closed()
    await until(lambda: descriptors() <= before)
    assert it.counters().active == 0


# TCP


async def test_20000_silent_connections_leave_another_service_served(silent_clients: int) -> None:
    vip, other = new_address(), new_address()
    async with (
        holder(new_address()) as endpoint,
        tcp_backend(new_address(), answer_at_end) as answering,
        rig() as it,
    ):
        it.serve(
            frontend_of(vip, backend_of([endpoint])),
            frontend_of(other, backend_of([answering], service="other")),
        )
        before, clients = descriptors(), []
        try:
            for first in range(0, silent_clients, BATCH):
                batch = min(BATCH, silent_clients - first)
                clients += [waiting_client(vip) for _ in range(batch)]
                # Dialled too, so that no endpoint's accept queue is overrun.
                dialled = len(clients)
                await until(lambda n=dialled: it.counters().attempts["ok"] >= n)  # type: ignore[misc]
                assert await ask(other, b"abc") == b"cba"
            assert it.forwarder.live_connections >= silent_clients
            for _ in range(20):
                assert await ask(other, b"abc") == b"cba"
        finally:
            for client in clients:
                client.close()
        await settled(it, before)
        assert it.counters().closed == {"finished": silent_clients}


@pytest.mark.parametrize("ends_with", ["FIN", "RST"])
@pytest.mark.parametrize("is_accepted", [False, True], ids=["in the queue", "accepted"])
async def test_a_storm_of_clients_that_leave_at_once_leaves_nothing_behind(
    ends_with: str, is_accepted: bool
) -> None:
    vip, count = new_address(), 4000
    async with tcp_backend(new_address(), answer_at_end) as endpoint, rig() as it:
        it.serve(frontend_of(vip, backend_of([endpoint])))
        assert await ask(vip, b"abc") == b"cba"
        await it.all_closed()
        before = descriptors()
        for seen in range(1, count, STORM_BATCH):
            clients = [waiting_client(vip) for _ in range(STORM_BATCH)]
            if is_accepted:
                await until(lambda n=seen: it.counters().opened >= n + STORM_BATCH)  # type: ignore[misc]
            for client in clients:
                if ends_with == "RST":
                    reset(client)
                else:
                    client.close()
            await until(lambda n=seen: it.counters().opened >= n + STORM_BATCH)  # type: ignore[misc]
            await it.all_closed()
        assert await ask(vip, b"abc") == b"cba"
        await settled(it, before)
        assert sum(it.counters().closed.values()) == it.counters().opened


async def test_clients_that_read_nothing_hold_a_bounded_share_of_memory_each() -> None:
    vip, count = new_address(), 200
    data = bytes(MIB)

    async def write_for_ever(connection: socket.socket) -> None:
        while True:
            await asyncio.get_running_loop().sock_sendall(connection, data)

    async with tcp_backend(new_address(), write_for_ever) as endpoint, rig() as it:
        it.serve(frontend_of(vip, backend_of([endpoint])))
        before, resident = descriptors(), resident_bytes()
        clients = [await connect(vip) for _ in range(count)]
        counters, seen = it.counters(), -1
        while counters.bytes_to_client != seen:  # until every buffer on the way is full
            seen = counters.bytes_to_client
            await asyncio.sleep(0.2)
        # What waits in the process is a copy of one buffer for each; a pipe's bytes are the
        # kernel's. As much again for the sockets' objects and the allocator.
        assert resident_bytes() - resident < count * 2 * 64 * 1024 + 16 * MIB
        for client in clients:
            reset(client)
        await it.all_closed()
        assert counters.closed == {"client_reset": count}
        await until(lambda: descriptors() <= before + 2 * 32)  # idle pipes are kept


async def test_what_follows_urgent_data_is_not_lost_with_the_end() -> None:
    vip = new_address()
    async with tcp_backend(new_address(), answer_at_end) as endpoint, rig() as it:
        it.serve(frontend_of(vip, backend_of([endpoint])))
        for _ in range(20):
            with waiting_client(vip) as client:
                client.send(b"before")
                client.send(b"!", socket.MSG_OOB)
                client.send(b"after")
                client.shutdown(socket.SHUT_WR)
                assert await read_all(client) == b"before!after"[::-1]


async def test_urgent_data_does_not_hold_up_what_follows_it() -> None:
    """A read ends before an urgent byte (tcp(7)), and yet there is more to read."""
    vip = new_address()
    async with tcp_backend(new_address(), echo) as endpoint, rig() as it:
        it.serve(frontend_of(vip, backend_of([endpoint])))
        with waiting_client(vip) as client:
            client.send(b"before")
            client.send(b"!", socket.MSG_OOB)
            client.send(b"after")
            heard = b""
            async with asyncio.timeout(10):
                while len(heard.replace(b"!", b"")) < len(b"beforeafter"):
                    heard += await asyncio.get_running_loop().sock_recv(client, 100)
            assert heard.replace(b"!", b"") == b"beforeafter"


async def test_bulk_data_goes_on_after_urgent_data() -> None:
    """A splice does not get past it at all."""
    vip, loop, total = new_address(), asyncio.get_running_loop(), 64 * MIB

    async def write(client: socket.socket) -> None:
        for _ in range(total // MIB):
            await loop.sock_sendall(client, bytes(MIB))
            with contextlib.suppress(BlockingIOError):
                client.send(b"!", socket.MSG_OOB)
        client.shutdown(socket.SHUT_WR)

    async with tcp_backend(new_address(), echo) as endpoint, rig() as it:
        it.serve(frontend_of(vip, backend_of([endpoint])))
        with await connect(vip) as client:
            async with asyncio.timeout(30), asyncio.TaskGroup() as group:
                group.create_task(write(client))
                heard = group.create_task(read_all(client))
            assert heard.result().count(b"\0") == total


# UDP


@contextlib.contextmanager
def counting_sink(address: str) -> Iterator[tuple[tuple[str, int], list[int]]]:
    """A UDP endpoint that answers nothing, and how many datagrams it has got."""
    loop, count = asyncio.get_running_loop(), [0]

    def take() -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.recv(65536)
                count[0] += 1

    with udp_socket(address) as sock:
        loop.add_reader(sock, take)
        try:
            yield at(sock), count
        finally:
            loop.remove_reader(sock)


@contextlib.contextmanager
def udp_echo(address: str) -> Iterator[tuple[str, int]]:
    loop = asyncio.get_running_loop()

    def answer() -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.sendto(*sock.recvfrom(65536))

    with udp_socket(address) as sock:
        loop.add_reader(sock, answer)
        try:
            yield at(sock)
        finally:
            loop.remove_reader(sock)


async def test_a_flood_of_udp_sources_takes_a_bounded_number_of_flows() -> None:
    vip, other, clients, most = new_address(), new_address(), 30_000, 1000
    now_s = [1000.0]
    settings = ForwardSettings(max_udp_flows=most)
    with (
        counting_sink(new_address()) as (endpoint, received),
        udp_echo(new_address()) as answering,
        many_clients_socket() as sender,
        udp_socket("127.0.0.1") as client,
    ):
        async with rig(settings, clock=lambda: now_s[0]) as it:
            it.serve(
                frontend_of(vip, backend_of([endpoint], "UDP")),
                frontend_of(other, backend_of([answering], "UDP", service="other")),
            )
            before, resident = descriptors(), resident_bytes()
            counters = it.counters("UDP")
            for first in range(0, clients, 100):
                for number in range(first, first + 100):
                    send_from(sender, number, b"flood", (vip, VIP_PORT))
                await until(lambda n=first + 100: received[0] >= n)  # type: ignore[misc]
                assert it.forwarder.live_flows <= most
                assert descriptors() <= before + most
                client.sendto(b"question", (other, VIP_PORT))
                assert await receive(client) == (b"question", (other, VIP_PORT))
            assert (counters.opened, counters.active) == (clients, most - 1)
            assert counters.closed["evicted"] == clients - most + 1
            assert resident_bytes() - resident < 32 * MIB
            now_s[0] += 1000
            await until(lambda: it.forwarder.live_flows == 0)
            assert descriptors() == before
            assert (counters.active, counters.datagrams_to_endpoint) == (0, clients)


async def test_garbage_and_empty_datagrams_pass_unchanged() -> None:
    vip, rng = new_address(), random.Random(1)
    with udp_echo(new_address()) as endpoint, udp_socket("127.0.0.1") as client:
        async with rig() as it:
            it.serve(frontend_of(vip, backend_of([endpoint], "UDP")))
            sizes = [0, 1, 0, 65_507, *(rng.randrange(9000) for _ in range(200)), 0]
            for size in sizes:
                data = rng.randbytes(size)
                client.sendto(data, (vip, VIP_PORT))
                assert await receive(client) == (data, (vip, VIP_PORT))
            assert it.counters("UDP").closed == {}
            assert it.forwarder.live_flows == 1


async def test_a_datagram_whose_answer_can_go_nowhere_harms_no_other() -> None:
    """It says that it comes from port 0: nobody can be answered there."""
    vip = new_address()
    try:
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
    except PermissionError:
        pytest.skip("raw sockets take CAP_NET_RAW")
    with raw, udp_echo(new_address()) as endpoint, udp_socket("127.0.0.1") as client:
        async with rig() as it:
            it.serve(frontend_of(vip, backend_of([endpoint], "UDP")))
            for _ in range(100):
                raw.sendto(struct.pack("!HHHH", 0, VIP_PORT, 8 + 4, 0) + b"evil", (vip, 0))
            await until(lambda: it.counters("UDP").opened == 1)
            client.sendto(b"question", (vip, VIP_PORT))
            assert await receive(client) == (b"question", (vip, VIP_PORT))


# Circles


def circle(*vips: str) -> list[Json]:
    """Services with TCP and UDP ports: the endpoint of each is the VIP of the next."""
    documents = []
    for number, vip in enumerate(vips):
        name = f"circle-{len(vips)}-{number}"
        ports = [("tcp", "TCP"), ("udp", "UDP")]
        following = vips[(number + 1) % len(vips)]
        documents += [
            make_service(
                name, cluster_ip=vip, ports=[make_port(VIP_PORT, *port) for port in ports]
            ),
            make_slice(
                following,
                service=name,
                ports=[{"name": n, "port": VIP_PORT, "protocol": p} for n, p in ports],
            ),
        ]
    return documents


@pytest.mark.parametrize("workers", [0, 2])
async def test_services_that_are_their_own_endpoints_do_not_amplify_a_storm(
    workers: int, tmp_path: Path
) -> None:
    vip, count = new_address(), 300
    own, first, second = (new_address() for _ in range(3))
    async with tcp_backend(new_address(), answer_at_end) as endpoint:
        documents = [*circle(own), *circle(first, second), *agents.web(vip, VIP_PORT, endpoint)]
        agents.write(tmp_path / "services.yaml", *documents)
        settings = msgspec.structs.replace(agents.settings(tmp_path), workers=workers)
        async with agents.running(settings) as agent:
            with udp_socket("127.0.0.1") as client:
                for _ in range(count):
                    for address in (own, first, second):
                        client.sendto(b"round", (address, VIP_PORT))
                        with contextlib.suppress(OSError):  # reset, sooner or later
                            await ask(address, b"round")
            assert await ask(vip, b"abc") == b"cba"

            def counted(protocol: str) -> list[ServicePortCounters]:
                return [
                    counters
                    for name, counters in agent.metrics.service_ports()
                    if name.service.name.startswith("circle") and name.protocol == protocol
                ]

            # Each client is refused by the Service that it asked: no hop is made.
            await until(
                lambda: sum(c.closed["connect_failed"] for c in counted("TCP")) >= 3 * count
            )
            assert sum(counters.opened for counters in counted("TCP")) == 3 * count
            assert sum(counters.attempts["loop"] for counters in counted("TCP")) == 3 * count
            assert sum(counters.opened for counters in counted("UDP")) == 0
            assert sum(counters.active for counters in counted("TCP")) == 0
