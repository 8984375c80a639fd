"""Bytes through both transports of port-forwarding: exact, in both directions, to both ends."""

import asyncio
import hashlib
import os
import socket
from collections.abc import AsyncIterator

import pytest

from tests.support.backends import answer_at_end, echo, greet, read_all, tcp_backend, until
from tests.support.tunnels import TRANSPORTS, TunnelRig, tunnel_rig

MIB = 1024 * 1024


@pytest.fixture(params=TRANSPORTS)
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[TunnelRig]:
    async with tunnel_rig(request.param) as rig:
        yield rig


async def send(sock: socket.socket, block: bytes, times: int) -> str:
    loop, digest = asyncio.get_running_loop(), hashlib.sha256()
    for _ in range(times):
        await loop.sock_sendall(sock, block)
        digest.update(block)
    sock.shutdown(socket.SHUT_WR)
    return digest.hexdigest()


async def digest_of(sock: socket.socket) -> str:
    loop, digest = asyncio.get_running_loop(), hashlib.sha256()
    while data := await loop.sock_recv(sock, MIB):
        digest.update(data)
    return digest.hexdigest()


async def test_64_mib_go_each_way_byte_for_byte(rig: TunnelRig) -> None:
    async with rig.to(echo) as client, asyncio.TaskGroup() as tasks:
        sent = tasks.create_task(send(client, os.urandom(MIB), 64))
        assert await digest_of(client) == await sent


async def test_a_pod_that_speaks_first_is_heard(rig: TunnelRig) -> None:
    async with rig.to(greet(b"220 ready\r\n")) as client:
        assert await read_all(client) == b"220 ready\r\n"


async def test_an_answer_to_a_client_that_has_ended_comes_in_full(rig: TunnelRig) -> None:
    async def slowly(connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_recv(connection, 100)
        for _ in range(5):
            await asyncio.sleep(0.02)
            await loop.sock_sendall(connection, b"answer")

    rig.fake.half_close = "cut"
    async with rig.to(slowly) as client:
        await asyncio.get_running_loop().sock_sendall(client, b"request")
        client.shutdown(socket.SHUT_WR)
        assert await read_all(client) == b"answer" * 5


async def test_the_fin_of_a_client_is_a_half_close_in_spdy() -> None:
    async with tunnel_rig("spdy", owed_grace_s=0.05) as rig, rig.to(answer_at_end) as client:
        await asyncio.get_running_loop().sock_sendall(client, b"abc")
        client.shutdown(socket.SHUT_WR)
        assert await read_all(client) == b"cba"


async def test_the_fin_of_a_client_ends_a_v4_tunnel_once_the_pod_is_silent() -> None:
    async with tunnel_rig("v4", owed_grace_s=0.05) as rig, rig.to(answer_at_end) as client:
        await asyncio.get_running_loop().sock_sendall(client, b"abc")
        client.shutdown(socket.SHUT_WR)
        assert await read_all(client) == b""
        assert rig.lost == []


async def test_the_fin_of_a_pod_leaves_the_other_direction_open_in_spdy() -> None:
    received = asyncio.Event()

    async def end_first(connection: socket.socket) -> None:
        await asyncio.get_running_loop().sock_sendall(connection, b"all I say")
        connection.shutdown(socket.SHUT_WR)
        assert await read_all(connection) == b"still here"
        received.set()

    async with tunnel_rig("spdy", owed_grace_s=0.05) as rig, rig.to(end_first) as client:
        assert await read_all(client) == b"all I say"
        await asyncio.get_running_loop().sock_sendall(client, b"still here")
        client.shutdown(socket.SHUT_WR)
        await received.wait()


async def test_a_client_that_is_gone_ends_the_connection_to_the_pod(rig: TunnelRig) -> None:
    async with rig.to(echo) as client:
        await asyncio.get_running_loop().sock_sendall(client, b"x")
        assert await asyncio.get_running_loop().sock_recv(client, 1) == b"x"
        client.close()
        await rig.all_ended()
        await until(lambda: rig.fake.live == 0)
        assert rig.lost == []


async def test_a_client_that_vanishes_while_the_pod_sends_ends_the_connection(
    rig: TunnelRig,
) -> None:
    async def for_ever(connection: socket.socket) -> None:
        while True:
            await asyncio.get_running_loop().sock_sendall(connection, bytes(MIB))

    async with rig.to(for_ever) as client:
        await asyncio.get_running_loop().sock_recv(client, 1)
        client.close()
        await rig.all_ended()
        await until(lambda: rig.fake.live == 0)


async def test_a_client_that_does_not_read_holds_up_the_pod(rig: TunnelRig) -> None:
    sent = 0

    async def for_ever(connection: socket.socket) -> None:
        nonlocal sent
        while True:
            await asyncio.get_running_loop().sock_sendall(connection, bytes(MIB))
            sent += MIB

    async with rig.to(for_ever) as client:
        before = -1
        while sent != before:  # until nothing has moved for a while
            before = sent
            await asyncio.sleep(0.3)
        # The buffers of four sockets are on the way; what the tunnel holds is below that.
        assert before < 64 * MIB
        assert len(await asyncio.get_running_loop().sock_recv(client, MIB)) > 0


async def test_a_client_that_does_not_read_is_not_taken_for_a_dead_server() -> None:
    for transport in TRANSPORTS:
        async with tunnel_rig(transport, heartbeat_s=0.02) as rig:

            async def much(connection: socket.socket) -> None:
                await asyncio.get_running_loop().sock_sendall(connection, bytes(16 * MIB))

            async with rig.to(much) as client:
                await asyncio.sleep(0.3)  # many heartbeats
                assert len(await read_all(client)) == 16 * MIB
                assert rig.lost == []


async def test_1000_connections_at_once(rig: TunnelRig) -> None:
    async with tcp_backend("127.0.0.1", echo) as at:
        rig.fake.pods["web"] = {80: at}

        async def one(number: int) -> None:
            client = await rig.connect("web", 80)
            with client:
                text = b"%d" % number
                await asyncio.get_running_loop().sock_sendall(client, text)
                assert await asyncio.get_running_loop().sock_recv(client, 100) == text
                together.count += 1
                if together.count == 1000:
                    together.all_there.set()
                await together.all_there.wait()

        class together:  # noqa: N801
            count = 0
            all_there = asyncio.Event()

        async with asyncio.TaskGroup() as tasks:
            for number in range(1000):
                tasks.create_task(one(number))
        await rig.all_ended()
        assert rig.lost == []
