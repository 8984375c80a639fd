"""Bytes through the forwarder: both ways, half-closed, reset, slowly and in bulk."""

import asyncio
import hashlib
import os
import socket
from typing import Any

import pytest

from pyproxy.forward.pipes import PipePool
from pyproxy.forward.relay import TURN_BYTES
from pyproxy.forward.sockets import RawSocket
from tests.support.backends import (
    VIP_PORT,
    answer_at_end,
    ask,
    backend_of,
    connect,
    echo,
    frontend_of,
    greet,
    new_address,
    read_all,
    reset,
    rig,
    tcp_backend,
    until,
)

MIB = 1024 * 1024


async def test_a_request_ended_by_half_close_gets_its_whole_answer() -> None:
    vip = new_address()
    async with tcp_backend(new_address(), answer_at_end) as endpoint, rig() as it:
        it.serve(frontend_of(vip, backend_of([endpoint])))
        assert await ask(vip, b"0123456789") == b"9876543210"
        await it.all_closed()
        counters = it.counters()
        assert counters.closed == {"finished": 1}
        assert counters.attempts == {"ok": 1}
        assert (counters.opened, counters.active) == (1, 0)
        assert (counters.bytes_to_endpoint, counters.bytes_to_client) == (10, 10)


async def test_ipv6_is_forwarded_like_ipv4() -> None:
    async with tcp_backend("::1", answer_at_end) as endpoint, rig() as it:
        port = endpoint[1] ^ 1
        it.serve(frontend_of("::1", backend_of([endpoint]), port))
        assert await ask("::1", b"abc", port) == b"cba"


async def test_the_client_may_go_on_after_the_endpoint_has_ended_its_side() -> None:
    vip, loop = new_address(), asyncio.get_running_loop()
    heard = loop.create_future()

    async def end_first(connection: socket.socket) -> None:
        connection.shutdown(socket.SHUT_WR)
        heard.set_result(await read_all(connection))

    async with tcp_backend(new_address(), end_first) as endpoint, rig() as it:
        it.serve(frontend_of(vip, backend_of([endpoint])))
        with await connect(vip) as client:
            assert await loop.sock_recv(client, 1) == b""
            await loop.sock_sendall(client, b"still here")
            client.shutdown(socket.SHUT_WR)
            assert await heard == b"still here"
        await it.all_closed()
        assert it.counters().closed == {"finished": 1}


async def test_the_endpoint_may_speak_first() -> None:
    vip = new_address()
    async with tcp_backend(new_address(), greet(b"220 ready")) as endpoint, rig() as it:
        it.serve(frontend_of(vip, backend_of([endpoint])))
        with await connect(vip) as client:
            assert await read_all(client) == b"220 ready"


async def test_bytes_that_come_one_at_a_time_all_arrive_in_order() -> None:
    vip, loop = new_address(), asyncio.get_running_loop()
    async with tcp_backend(new_address(), echo) as endpoint, rig() as it:
        it.serve(frontend_of(vip, backend_of([endpoint])))
        with await connect(vip) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for number in range(500):
                await loop.sock_sendall(client, bytes([number % 256]))
                assert await loop.sock_recv(client, 10) == bytes([number % 256])


@pytest.mark.parametrize("pipes", [0, 32], ids=["copied", "spliced"])
async def test_256_mib_both_ways_at_once_arrive_unchanged(
    pipes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    vip, loop = new_address(), asyncio.get_running_loop()
    chunk = os.urandom(MIB)
    rounds = 256 if pipes else 32
    expected = hashlib.blake2b()
    for _ in range(rounds):
        expected.update(chunk)

    async def send(sock: socket.socket) -> None:
        for _ in range(rounds):
            await loop.sock_sendall(sock, chunk)
        sock.shutdown(socket.SHUT_WR)

    async def check(sock: socket.socket) -> str:
        digest, buffer = hashlib.blake2b(), memoryview(bytearray(MIB))
        while size := await loop.sock_recv_into(sock, buffer):
            digest.update(buffer[:size])
        return digest.hexdigest()

    async def both(sock: socket.socket) -> str:
        async with asyncio.TaskGroup() as group:
            group.create_task(send(sock))
            found = group.create_task(check(sock))
        return found.result()

    found_by_endpoint = loop.create_future()

    async def handler(connection: socket.socket) -> None:
        found_by_endpoint.set_result(await both(connection))

    async with tcp_backend(new_address(), handler) as endpoint, rig() as it:
        it.forwarder._connections.workspace.pipes = PipePool(pipes)
        it.serve(frontend_of(vip, backend_of([endpoint])))
        with await connect(vip) as client:
            assert await both(client) == expected.hexdigest()
            assert await found_by_endpoint == expected.hexdigest()
        await it.all_closed()
        counters = it.counters()
        assert counters.closed == {"finished": 1}
        assert counters.bytes_to_client == counters.bytes_to_endpoint == rounds * MIB


async def stalled(sock: socket.socket) -> int:
    """Send until nothing is taken any more; return how many bytes were taken."""
    data, sent, refusals = bytes(65536), 0, 0
    while refusals < 50:
        try:
            sent += sock.send(data)
            refusals = 0
        except BlockingIOError:
            refusals += 1
            await asyncio.sleep(0.005)
    return sent


async def test_a_fast_writer_stalls_within_1_mib_of_a_reader_that_does_not_read() -> None:
    vip, loop = new_address(), asyncio.get_running_loop()
    taken = loop.create_future()

    async def write(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        taken.set_result(await stalled(connection))
        connection.shutdown(socket.SHUT_WR)
        await loop.sock_recv(connection, 1)

    async with tcp_backend(new_address(), write) as endpoint, rig() as it:
        it.serve(frontend_of(vip, backend_of([endpoint])))
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            client.setblocking(False)
            await loop.sock_connect(client, (vip, VIP_PORT))
            size = await taken
            assert size < MIB
            assert len(await read_all(client)) == size
        await it.all_closed()
        assert it.counters().closed == {"finished": 1}


async def test_a_bulk_transfer_whose_reader_pauses_and_goes_on_loses_nothing() -> None:
    vip, loop = new_address(), asyncio.get_running_loop()
    total = 48 * MIB

    async def write(connection: socket.socket) -> None:
        await loop.sock_sendall(connection, bytes(total))

    async with tcp_backend(new_address(), write) as endpoint, rig() as it:
        it.serve(frontend_of(vip, backend_of([endpoint])))
        with await connect(vip) as client:
            got = 0
            while data := await loop.sock_recv(client, 4 * MIB):
                if (got + len(data)) // (8 * MIB) != got // (8 * MIB):
                    counters, seen = it.counters(), -1
                    while counters.bytes_to_client != seen:  # until all buffers are full
                        seen = counters.bytes_to_client
                        await asyncio.sleep(0.02)
                got += len(data)
            assert got == total


async def test_a_bulk_connection_leaves_others_their_turns() -> None:
    vip, loop = new_address(), asyncio.get_running_loop()

    async def flood(connection: socket.socket) -> None:
        while True:
            await loop.sock_sendall(connection, bytes(TURN_BYTES))

    async def swallow(client: socket.socket) -> None:
        buffer = bytearray(MIB)
        while await loop.sock_recv_into(client, buffer):
            pass

    small = new_address()
    async with (
        tcp_backend(new_address(), flood) as bulk_endpoint,
        tcp_backend(new_address(), answer_at_end) as endpoint,
        rig() as it,
    ):
        it.serve(
            frontend_of(vip, backend_of([bulk_endpoint], service="bulk")),
            frontend_of(small, backend_of([endpoint])),
        )
        with await connect(vip) as client:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(swallow(client))
                await until(lambda: it.counters(service="bulk").bytes_to_client > 16 * TURN_BYTES)
                for _ in range(50):
                    assert await ask(small, b"ab") == b"ba"
                task.cancel()


async def test_a_reset_by_the_client_reaches_the_endpoint_as_a_reset() -> None:
    vip, loop = new_address(), asyncio.get_running_loop()
    ended = loop.create_future()

    async def listen(connection: socket.socket) -> None:
        try:
            ended.set_result(await read_all(connection))
        except OSError as error:
            ended.set_result(error)

    async with tcp_backend(new_address(), listen) as endpoint, rig() as it:
        it.serve(frontend_of(vip, backend_of([endpoint])))
        client = await connect(vip)
        await loop.sock_sendall(client, b"hello")
        await until(lambda: it.counters().bytes_to_endpoint == 5)
        reset(client)
        assert isinstance(await ended, ConnectionResetError)
        assert it.counters().closed == {"client_reset": 1}


@pytest.mark.parametrize("has_ended", [False, True], ids=["open client", "half-closed client"])
async def test_a_reset_by_the_endpoint_reaches_the_client_as_a_reset(has_ended: bool) -> None:
    vip, loop = new_address(), asyncio.get_running_loop()

    async def hang_up(connection: socket.socket) -> None:
        await loop.sock_recv(connection, 5)
        if has_ended:
            await loop.sock_recv(connection, 5)
        reset(connection)

    async with tcp_backend(new_address(), hang_up) as endpoint, rig() as it:
        it.serve(frontend_of(vip, backend_of([endpoint])))
        with await connect(vip) as client:
            await loop.sock_sendall(client, b"hello")
            if has_ended:
                client.shutdown(socket.SHUT_WR)
            with pytest.raises(ConnectionResetError):
                await read_all(client)
        await it.all_closed()
        assert it.counters().closed == {"endpoint_reset": 1}


async def test_a_reset_after_the_endpoint_ended_its_side_is_still_passed_on() -> None:
    vip, loop = new_address(), asyncio.get_running_loop()
    may_reset = asyncio.Event()

    async def end_then_reset(connection: socket.socket) -> None:
        connection.shutdown(socket.SHUT_WR)
        await may_reset.wait()
        reset(connection)

    async with tcp_backend(new_address(), end_then_reset) as endpoint, rig() as it:
        it.serve(frontend_of(vip, backend_of([endpoint])))
        with await connect(vip) as client:
            assert await loop.sock_recv(client, 1) == b""
            may_reset.set()
            await it.all_closed()
            assert it.counters().closed == {"endpoint_reset": 1}
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                client.send(b"x")


@pytest.mark.parametrize("side", ["client", "endpoint"])
async def test_a_reset_while_the_other_side_does_not_read_frees_everything(side: str) -> None:
    vip, loop = new_address(), asyncio.get_running_loop()
    blocked = asyncio.Event()
    has_reset = asyncio.Event()

    async def handler(connection: socket.socket) -> None:
        if side == "endpoint":
            await stalled(connection)
            reset(connection)
        else:
            await has_reset.wait()
            blocked.set()

    async with tcp_backend(new_address(), handler) as endpoint, rig() as it:
        it.serve(frontend_of(vip, backend_of([endpoint])))
        client = await connect(vip)
        with client:
            if side == "client":
                await stalled(client)
                reset(client)
            await it.all_closed()
            has_reset.set()
        assert it.counters().closed == {f"{side}_reset": 1}
        assert it.counters().bytes_to_client + it.counters().bytes_to_endpoint > 0
    assert loop.is_running()


async def test_an_early_answer_is_delivered_although_the_request_was_cut_off() -> None:
    vip, loop = new_address(), asyncio.get_running_loop()

    async def refuse_body(connection: socket.socket) -> None:
        await loop.sock_recv(connection, 10)
        await loop.sock_sendall(connection, b"413 too large")
        # Closing with unread bytes makes the kernel send RST (RFC 2525 2.17).

    async with tcp_backend(new_address(), refuse_body) as endpoint, rig() as it:
        it.serve(frontend_of(vip, backend_of([endpoint])))
        with await connect(vip) as client:
            client.send(bytes(200_000))
            assert await loop.sock_recv(client, 100) == b"413 too large"
        await it.all_closed()
        assert sum(it.counters().closed.values()) == 1


async def test_small_messages_are_sent_at_once_and_silent_peers_are_probed() -> None:
    vip = new_address()
    async with tcp_backend(new_address(), echo) as endpoint, rig() as it:
        it.serve(frontend_of(vip, backend_of([endpoint])))
        with await connect(vip):
            await until(lambda: it.counters().attempts["ok"] == 1)
            (connection,) = it.forwarder._connections.live()
            for leg in (connection._client, connection._upstream):
                assert leg is not None
                assert leg.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                await until(lambda s=leg: s.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1)  # type: ignore[misc]
                assert leg.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60


class Hesitant:
    """A socket whose next read says that there is nothing, as at an urgent mark after a signal."""

    def __init__(self, sock: RawSocket) -> None:
        self._sock = sock
        self._hesitates = True

    def recv_into(self, buffer: memoryview) -> int:
        if self._hesitates:
            self._hesitates = False
            raise BlockingIOError
        return self._sock.recv_into(buffer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


@pytest.mark.parametrize("flags", [0, socket.MSG_OOB], ids=["plain", "urgent"])
async def test_a_read_that_finds_nothing_before_the_end_is_made_again(flags: int) -> None:
    vip, loop = new_address(), asyncio.get_running_loop()
    async with tcp_backend(new_address(), echo) as endpoint, rig() as it:
        it.serve(frontend_of(vip, backend_of([endpoint])))
        with await connect(vip) as client:
            await loop.sock_sendall(client, b"hello")
            assert await loop.sock_recv(client, 10) == b"hello"
            (connection,) = it.forwarder._connections.live()
            direction = connection.to_endpoint
            assert direction is not None
            direction.source = Hesitant(direction.source)  # type: ignore[assignment]
            client.send(b"!", flags)
            client.shutdown(socket.SHUT_WR)  # before the forwarder has its turn
            assert await read_all(client) == b"!"


async def test_a_fault_ends_its_own_connection_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vip, loop = new_address(), asyncio.get_running_loop()
    async with tcp_backend(new_address(), echo) as endpoint, rig() as it:
        it.serve(frontend_of(vip, backend_of([endpoint])))
        with await connect(vip) as good, await connect(vip) as bad, await connect(vip) as bad_too:
            for client in (good, bad, bad_too):
                await loop.sock_sendall(client, b"hello")
                assert await loop.sock_recv(client, 10) == b"hello"
            by_port = {
                connection._client.getpeername()[1]: connection
                for connection in it.forwarder._connections.live()
            }
            for client in (bad, bad_too):
                direction = by_port[client.getsockname()[1]].to_endpoint
                assert direction is not None
                direction.source = None  # type: ignore[assignment]  # any use of it raises
                await loop.sock_sendall(client, b"hello")
                with pytest.raises(ConnectionResetError):
                    await loop.sock_recv(client, 10)
            await loop.sock_sendall(good, b"still")
            assert await loop.sock_recv(good, 10) == b"still"
        await it.all_closed()
        assert it.counters().closed["error"] == 2
        assert len([r for r in caplog.records if r.exc_info]) == 1  # once per burst
