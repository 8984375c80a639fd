"""What goes wrong between a tunnel and its pod, and how it is told."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pyproxy.core.portforward import TUNNEL_PROTOCOL, V4_PROTOCOL
from pyproxy.model.reasons import ConnectResult
from pyproxy.tunnel.target import TunnelError
from tests.support.backends import descriptors, echo, greet, read_all, reset, tcp_backend, until
from tests.support.tunnels import TRANSPORTS, Transport, TunnelRig, tunnel_rig

# Long enough for a refusal of the fake to come while a machine is busy: it comes at once.
SETTLES: dict[str, Any] = {"settle_s": 30.0}


@pytest.fixture(params=TRANSPORTS)
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[TunnelRig]:
    async with tunnel_rig(request.param) as rig:
        yield rig


async def open_fails(rig: TunnelRig, pod: str = "web", port: int = 80) -> TunnelError:
    with pytest.raises(TunnelError) as raised:
        await rig.tunnels.open("default", pod, port)
    assert "\n" not in str(raised.value)
    return raised.value


# Refused upgrades.


@pytest.mark.parametrize(
    ("status", "result", "says"),
    [
        (403, "forbidden", "grant `get` and `create` on pods/portforward in namespace default"),
        (404, "not_found", "the pod is gone"),
        (429, "error", "answered 429"),
        (500, "error", "answered 500"),
        (503, "error", "answered 503"),
    ],
)
async def test_a_refused_upgrade_is_told_in_words(
    rig: TunnelRig, status: int, result: ConnectResult, says: str
) -> None:
    rig.fake.faults.refuse = status
    error = await open_fails(rig)
    assert error.result == result
    assert str(error).startswith("port-forward to pod default/web port 80: ")
    assert says in str(error)
    assert "refused by the test" in str(error)
    assert rig.tunnels.transport is None


async def test_a_pod_that_does_not_exist_is_not_found(rig: TunnelRig) -> None:
    assert (await open_fails(rig, pod="gone")).result == "not_found"


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_token_that_was_renewed_is_read_again(transport: Transport) -> None:
    async with tunnel_rig(transport, token="first") as rig:
        rig.renew_token("second")
        async with rig.to(greet(b"hello")) as client:
            assert await read_all(client) == b"hello"


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_token_that_stays_refused_is_forbidden(transport: Transport) -> None:
    async with tunnel_rig(transport, token="first") as rig:
        rig.api.token = "second"
        error = await open_fails(rig)
        assert error.result == "forbidden"
        assert "answered 401" in str(error)


async def test_an_api_server_that_is_gone_is_unreachable(rig: TunnelRig) -> None:
    await rig.api.stop()
    assert (await open_fails(rig)).result == "unreachable"


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("fault", ["never_answers", "never_accepts"])
async def test_a_server_that_never_answers_is_given_up(transport: Transport, fault: str) -> None:
    async with tunnel_rig(transport, open_timeout_s=0.2) as rig:
        rig.fake.pods["web"] = {80: ("127.0.0.1", 1)}
        setattr(rig.fake.faults, fault, True)
        assert (await open_fails(rig)).result == "timeout"


# Transports.


async def test_spdy_is_spoken_where_the_server_does(rig: TunnelRig) -> None:
    knows_spdy = TUNNEL_PROTOCOL in rig.fake.faults.protocols
    async with rig.to(greet(b"hello")) as client:
        await read_all(client)
    assert rig.tunnels.transport == (TUNNEL_PROTOCOL if knows_spdy else V4_PROTOCOL)


async def test_a_server_without_spdy_is_asked_for_it_once() -> None:
    async with tunnel_rig("v4") as rig:
        for _ in range(3):
            async with rig.to(greet(b"hello")) as client:
                assert await read_all(client) == b"hello"
        asked = [asked.protocols for asked in rig.fake.asked]
        assert asked == [TUNNEL_PROTOCOL, V4_PROTOCOL, V4_PROTOCOL, V4_PROTOCOL]


async def test_a_server_that_agrees_to_no_protocol_is_not_spoken_to(rig: TunnelRig) -> None:
    rig.fake.pods["web"] = {80: ("127.0.0.1", 1)}
    rig.fake.faults.negotiates_nothing = True
    error = await open_fails(rig)
    assert error.result == "error"
    assert f"did not agree to speak {V4_PROTOCOL}" in str(error)
    await until(lambda: rig.fake.websockets == 0)


@pytest.mark.parametrize("prelude", ["wrong port", "missing"])
async def test_a_v4_server_that_begins_wrongly_is_given_up(prelude: str) -> None:
    async with tunnel_rig("v4", open_timeout_s=0.3) as rig:
        rig.fake.faults.prelude = prelude  # type: ignore[assignment]
        async with tcp_backend("127.0.0.1", echo) as at:
            rig.fake.pods["web"] = {80: at}
            error = await open_fails(rig)
        assert error.result == ("timeout" if prelude == "missing" else "error")


async def test_a_v4_server_may_cut_its_beginning_anywhere() -> None:
    async with tunnel_rig("v4") as rig:
        rig.fake.faults.prelude = "split"
        async with rig.to(greet(b"hello")) as client:
            assert await read_all(client) == b"hello"


async def test_a_server_that_speaks_something_else_is_given_up(rig: TunnelRig) -> None:
    rig.fake.pods["web"] = {80: ("127.0.0.1", 1)}
    rig.fake.faults.garbage = b"\x80\x07garbage"
    error = await open_fails(rig)
    assert error.result == "error"
    assert "this is no port-forward" in str(error)


# The pod refuses.


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("closes_data_first", [False, True])
async def test_a_port_where_nothing_listens_is_refused(
    transport: Transport, *, closes_data_first: bool
) -> None:
    async with tunnel_rig(transport, verdict_s=30.0, **SETTLES) as rig:
        rig.fake.faults.closes_data_first = closes_data_first
        rig.fake.pods["web"] = {}
        error = await open_fails(rig)
        assert error.result == "refused"
        assert "connection refused" in str(error)
        await until(lambda: rig.fake.live == 0)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_refusal_that_comes_later_cuts_the_tunnel(transport: Transport) -> None:
    async with tunnel_rig(transport) as rig:
        async with rig.to(greet(b"hello")) as client:  # the port has answered once
            assert await read_all(client) == b"hello"
        await rig.all_ended()
        rig.fake.pods["web"] = {}
        rig.fake.faults.dials_once = asyncio.Event()
        with await rig.connect("web", 80) as client:
            rig.fake.faults.dials_once.set()
            assert await read_all(client) == b""
            await rig.all_ended()
            assert [lost.result for lost in rig.lost] == ["refused"]
        # It is waited for again, as at the first time.
        rig.settle(30.0)
        assert (await open_fails(rig)).result == "refused"


async def test_other_connections_of_the_session_go_on_after_a_refusal() -> None:
    async with tunnel_rig("spdy", sessions_per_pod=1, **SETTLES) as rig:
        loop = asyncio.get_running_loop()
        async with rig.to(greet_and_echo) as client:
            assert (await open_fails(rig, port=81)).result == "refused"
            assert await loop.sock_recv(client, 10) == b"h"
            await loop.sock_sendall(client, b"x")
            assert await loop.sock_recv(client, 10) == b"x"
        assert len(rig.fake.asked) == 1


async def greet_and_echo(connection: socket.socket) -> None:
    await asyncio.get_running_loop().sock_sendall(connection, b"h")
    await echo(connection)


# Cut in the middle.


async def test_a_pod_that_resets_cuts_the_tunnel(rig: TunnelRig) -> None:
    async def reset_it(connection: socket.socket) -> None:
        await asyncio.get_running_loop().sock_recv(connection, 10)
        reset(connection)

    async with rig.to(reset_it) as client:
        await asyncio.get_running_loop().sock_sendall(client, b"x")
        assert await read_all(client) == b""
        await rig.all_ended()
        assert [lost.result for lost in rig.lost] == ["refused"]
        assert "reset by peer" in str(rig.lost[0])


async def test_a_connection_to_the_server_that_breaks_cuts_the_tunnel(rig: TunnelRig) -> None:
    rig.fake.faults.cut_after_bytes = 100_000
    async with rig.to(greet(bytes(1_000_000))) as client:
        assert len(await read_all(client)) < 1_000_000
        await rig.all_ended()
        assert [lost.result for lost in rig.lost] == ["unreachable"]
    # The next connection opens what it needs anew.
    rig.fake.faults.cut_after_bytes = None
    async with rig.to(greet(b"hello")) as client:
        assert await read_all(client) == b"hello"


async def test_the_loss_is_told_before_the_relay_can_see_it(rig: TunnelRig) -> None:
    """Its end of the socket reads as a FIN otherwise: see the next test."""
    seen: list[bytes | str] = []
    rig.fake.faults.cut_after_bytes = 5
    async with rig.to(greet(b"hello")):
        pass
    rig.fake.pods["web"][81] = rig.fake.pods["web"][80]

    async def look(client: socket.socket) -> None:
        seen.append(await read_all(client))

    async with rig.to(greet(b"hello again")):
        client = await rig.connect("web", 80, lambda lost: seen.append(lost.result))
        with client:
            await look(client)
    assert seen == ["unreachable", b"hello"]


@pytest.mark.parametrize(("unread", "error"), [(b"", None), (b"x", ConnectionResetError)])
def test_a_unix_socket_passes_on_a_reset_only_with_unread_bytes(
    unread: bytes, error: type[OSError] | None
) -> None:
    """What `Tunnel.run` says of it (Linux unix_release_sock)."""
    ours, theirs = socket.socketpair()
    with ours:
        ours.sendall(unread)
        theirs.sendall(b"said before")
        theirs.close()
        assert ours.recv(100) == b"said before"
        if error is None:
            assert ours.recv(100) == b""
        else:
            with pytest.raises(error):
                ours.recv(100)


async def test_a_server_that_has_fallen_silent_is_noticed() -> None:
    for transport in TRANSPORTS:
        async with tunnel_rig(transport, heartbeat_s=0.05) as rig, rig.to(greet_and_echo) as client:
            assert await asyncio.get_running_loop().sock_recv(client, 10) == b"h"
            rig.fake.freeze()
            assert await read_all(client) == b""
            await rig.all_ended()
            assert [lost.result for lost in rig.lost] == ["unreachable"]
            assert "fallen silent" in str(rig.lost[0])


# Sessions.


async def test_a_session_is_used_again_after_a_connection_that_ended_in_order() -> None:
    async with tunnel_rig("spdy") as rig:
        for _ in range(5):
            async with rig.to(greet(b"hello")) as client:
                assert await read_all(client) == b"hello"
            await rig.all_ended()
        assert len(rig.fake.asked) == 1
        assert rig.tunnels.sessions == 1


async def test_a_session_is_not_used_again_after_a_connection_that_was_cut() -> None:
    async with tunnel_rig("spdy") as rig:
        async with rig.to(greet_and_echo) as client:
            assert await asyncio.get_running_loop().sock_recv(client, 10) == b"h"
        await rig.all_ended()
        await until(lambda: rig.tunnels.sessions == 0)


async def test_a_session_that_is_idle_for_long_is_closed() -> None:
    async with tunnel_rig("spdy", idle_session_s=0.05) as rig:
        async with rig.to(greet(b"hello")) as client:
            assert await read_all(client) == b"hello"
        await until(lambda: rig.tunnels.sessions == 0)
        await until(lambda: rig.fake.websockets == 0)


async def test_a_session_that_died_while_idle_costs_no_connection() -> None:
    async with tunnel_rig("spdy") as rig:
        for _ in range(2):
            async with rig.to(greet(b"hello")) as client:
                assert await read_all(client) == b"hello"
            await rig.all_ended()
            await rig.api.restart()
        assert len(rig.fake.asked) == 2


async def test_live_connections_have_sessions_of_their_own_up_to_the_bound() -> None:
    async with tunnel_rig("spdy", sessions_per_pod=3, connections_per_session=2) as rig:
        async with rig.to(greet_and_echo):
            clients = [await rig.connect("web", 80) for _ in range(5)]
            assert rig.tunnels.sessions == 3
            clients.append(await rig.connect("web", 80))
            assert rig.tunnels.sessions == 4  # all that there were are full
            for client in clients:
                assert await asyncio.get_running_loop().sock_recv(client, 10) == b"h"
                client.close()
        await rig.all_ended()


# Giving back.


async def test_nothing_is_left_of_tunnels_however_they_end(rig: TunnelRig) -> None:
    async with rig.to(echo) as client:
        await asyncio.get_running_loop().sock_sendall(client, b"x")
    rig.fake.faults.refuse = 500  # its connection is kept for a while
    await open_fails(rig)
    rig.fake.faults.refuse = None
    await rig.all_ended()
    await until(lambda: rig.fake.websockets == 0)
    before, tasks = descriptors(), len(asyncio.all_tasks())
    for _ in range(3):
        async with rig.to(echo) as client:
            await asyncio.get_running_loop().sock_sendall(client, b"x")
        rig.fake.faults.refuse = 500
        await open_fails(rig)
        rig.fake.faults.refuse = None
    await rig.all_ended()
    await until(lambda: rig.fake.websockets == 0)
    await until(lambda: len(asyncio.all_tasks()) <= tasks)
    await until(lambda: descriptors() <= before)


async def test_a_tunnel_that_is_cancelled_is_given_back(rig: TunnelRig) -> None:
    async with rig.to(echo):
        tunnel = await rig.tunnels.open("default", "web", 80)
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        with ours:
            async with asyncio.TaskGroup() as tasks:
                task = tasks.create_task(tunnel.run(theirs))
                await asyncio.sleep(0)  # a task that has not begun owns nothing yet
                await until(lambda: rig.fake.live == 2)
                task.cancel()
            assert theirs.fileno() == -1
            await until(lambda: rig.fake.live == 1)
        unused = await rig.tunnels.open("default", "web", 80)
        await unused.close()
        await until(lambda: rig.fake.live == 1)
