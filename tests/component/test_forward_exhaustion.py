"""Out of descriptors: the forwarder waits for some to come free, and serves everybody in the end.

The forwarder runs in a process of its own with a low RLIMIT_NOFILE; backend and clients are here.
"""

import asyncio
import json
import resource
import socket
import sys

import pytest
import uvloop

from tests.support.backends import (
    VIP_PORT,
    answer_at_end,
    backend_of,
    connect,
    descriptors,
    frontend_of,
    new_address,
    read_all,
    rig,
    tcp_backend,
    udp_socket,
)

CLIENTS = 200
DESCRIPTORS = 64  # some 25 connections' worth


async def forward(vip: str, address: str, port: int) -> None:
    """Forward until the standard input ends; then tell what happened."""
    async with rig() as it:
        it.serve(
            frontend_of(vip, backend_of([(address, port)])),
            frontend_of(vip, backend_of([(address, port)], "UDP")),
        )
        before = descriptors()
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        print("ready", flush=True)  # noqa: T201
        await asyncio.to_thread(sys.stdin.read)
        report = {
            "left_over": descriptors() - before - it.forwarder.live_flows,
            "closed": it.counters().closed,
            "flows": it.counters("UDP").closed,
            "pauses": it.metrics.accept_pauses,
            "live": it.forwarder.live_connections,
        }
        print(json.dumps(report), flush=True)  # noqa: T201


@pytest.mark.parametrize("loop_name", ["uvloop", "asyncio"])
def test_every_client_is_served_although_descriptors_run_out(loop_name: str) -> None:
    asyncio.run(_run_clients(loop_name))


async def _run_clients(loop_name: str) -> None:
    vip, loop = new_address(), asyncio.get_running_loop()
    async with tcp_backend(new_address(), answer_at_end) as (address, port):
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-X", "dev", "-m", __name__, loop_name, vip, address, str(port),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert child.stdout is not None
        assert await child.stdout.readline() == b"ready\n"

        async def ask_slowly(client: socket.socket, number: int) -> None:
            request = str(number).encode()
            with client:
                await loop.sock_sendall(client, request)
                client.shutdown(socket.SHUT_WR)
                assert await read_all(client) == request[::-1]

        clients = [await connect(vip) for _ in range(CLIENTS)]
        with udp_socket("127.0.0.1") as datagrams:
            datagrams.sendto(b"x", (vip, VIP_PORT))
        async with asyncio.TaskGroup() as group:
            for number, client in enumerate(clients):
                group.create_task(ask_slowly(client, number))
        out, errors = await child.communicate(b"")  # ends its input
    report = json.loads(out)
    assert report["closed"] == {"finished": CLIENTS}
    assert report["pauses"] > 0
    assert report["left_over"] == 0
    assert report["live"] == 0
    lines = errors.decode().splitlines()
    assert len([line for line in lines if "accepting pauses" in line]) == 1, lines
    assert not [line for line in lines if "Traceback" in line or "ResourceWarning" in line], lines


if __name__ == "__main__":
    name, vip_, address_, port_ = sys.argv[1:]
    factory = uvloop.new_event_loop if name == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(forward(vip_, address_, int(port_)))
