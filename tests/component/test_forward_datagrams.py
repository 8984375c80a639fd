"""Datagrams that are read and sent several at a time arrive as if each had been alone."""

import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from pyproxy.forward.datagrams import IN_A_TURN, Datagrams, send_run
from pyproxy.forward.sockets import RawSocket
from tests.support.backends import (
    VIP_PORT,
    Rig,
    at,
    backend_of,
    frontend_of,
    new_address,
    receive,
    rig,
    the_first,
    udp_socket,
    until,
)

# With it the kernel does not cut up (EINVAL, udp_send_skb of net/ipv4/udp.c), as over an interface
# that cannot. Missing from the socket module.
_SO_NO_CHECK = 11

_SIZES = {
    "all alike": [64] * 20,
    "all empty": [0] * 5,
    "one empty in the middle": [7, 7, 0, 7, 7],
    "in runs": [1200] * 5 + [10] * 3 + [1200] * 2,
    "all different": list(range(1, 30)),
    "too large to be cut": [1233] * 4 + [1232] * 4,
    "the largest between": [9, 9, 65_507, 9, 9, 65_507, 9],
    "more bytes than a packet has": [1232] * 60,
    "more than a turn": [5] * (2 * IN_A_TURN + 3),
}


def numbered(sizes: list[int]) -> list[bytes]:
    """Datagrams of these sizes; they differ, if there is room for a number."""
    return [bytes([number, *bytes(size)])[:size] for number, size in enumerate(sizes)]


def roomy_socket(address: str) -> socket.socket:
    sock = udp_socket(address)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, 4 << 20)
    return sock


def sockets_of(it: Rig) -> list[RawSocket]:
    """Those of the frontends, and those of the answered flows."""
    udp = it.forwarder._udp
    flows = [flow._sock for flow in udp.flows._replied.values() if flow._sock is not None]
    return [*(frontend._sock for frontend in udp._frontends.values()), *flows]


async def received(sock: socket.socket, count: int) -> list[bytes]:
    return [(await receive(sock))[0] for _ in range(count)]


class Talk:
    """A client and an endpoint, which a test speaks for, and the VIP between them."""

    def __init__(self, it: Rig, client: socket.socket, endpoint: socket.socket) -> None:
        self.it = it
        self.client = client
        self.endpoint = endpoint
        address, (_, port) = client.getsockname()[0], at(endpoint)
        # There is one loopback address only in IPv6, so the port must differ there.
        self.vip = (address, port ^ 1) if ":" in address else (new_address(), VIP_PORT)
        it.serve(frontend_of(self.vip[0], backend_of([at(endpoint)], "UDP"), self.vip[1]))

    async def begin(self) -> None:
        """Have a flow whose endpoint has answered."""
        await self.ask([b"?"])
        await self.answer([b"!"])

    async def ask(self, datagrams: list[bytes]) -> None:
        """Send all of them before any is read; they must arrive in this order."""
        for data in datagrams:
            self.client.sendto(data, self.vip)
        got = [await receive(self.endpoint) for _ in datagrams]
        assert [data for data, _ in got] == datagrams
        (self.flow,) = {sender for _, sender in got}

    async def answer(self, datagrams: list[bytes]) -> None:
        """As `ask`, the other way."""
        for data in datagrams:
            self.endpoint.sendto(data, self.flow)
        got = [await receive(self.client) for _ in datagrams]
        assert got == [(data, self.vip) for data in datagrams]

    def check_counts(self, datagrams: list[bytes]) -> None:
        """These and the first went to the endpoint, and as many back."""
        counters = self.it.counters("UDP")
        assert counters.datagrams_to_endpoint == len(datagrams) + 1
        assert counters.datagrams_to_client == len(datagrams) + 1
        assert counters.bytes_to_endpoint == sum(map(len, datagrams)) + 1
        assert counters.bytes_to_client == sum(map(len, datagrams)) + 1


@contextlib.asynccontextmanager
async def talk(address: str = "127.0.0.1") -> AsyncIterator[Talk]:
    with roomy_socket(address) as client, roomy_socket(address) as endpoint:
        async with rig() as it:
            yield Talk(it, client, endpoint)


@pytest.mark.parametrize("has_runs", [True, False])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("name", _SIZES)
async def test_a_burst_keeps_its_order_and_its_boundaries(
    name: str, address: str, *, has_runs: bool
) -> None:
    datagrams = numbered(_SIZES[name])
    async with talk(address) as it:
        it.it.forwarder._udp.datagrams.has_runs = has_runs
        await it.begin()
        await it.ask(datagrams)
        await it.answer(datagrams)
        it.check_counts(datagrams)


async def test_a_burst_of_a_new_client_keeps_its_order() -> None:
    datagrams = numbered([64] * 20)
    async with talk() as it:
        await it.ask(datagrams)
        await it.answer(datagrams)


async def test_where_the_kernel_does_not_cut_up_each_goes_alone() -> None:
    datagrams = numbered([64] * 20)
    async with talk() as it:
        await it.begin()
        for sock in sockets_of(it.it):
            sock.setsockopt(socket.SOL_SOCKET, _SO_NO_CHECK, 1)
        await it.ask(datagrams)
        await it.answer(datagrams)
        it.check_counts(datagrams)


async def test_bursts_of_many_clients_are_not_mixed_up() -> None:
    vip = new_address()
    with contextlib.ExitStack() as stack:
        endpoint = stack.enter_context(roomy_socket("127.0.0.1"))
        clients = [stack.enter_context(roomy_socket("127.0.0.1")) for _ in range(10)]
        async with rig() as it:
            it.serve(frontend_of(vip, backend_of([at(endpoint)], "UDP")))
            for _ in range(3):
                for number in range(12):
                    for client in clients:
                        client.sendto(bytes([number]), (vip, VIP_PORT))
                for data, flow in [await receive(endpoint) for _ in range(120)]:
                    endpoint.sendto(data, flow)
                for client in clients:
                    got = [await receive(client) for _ in range(12)]
                    assert got == [(bytes([n]), (vip, VIP_PORT)) for n in range(12)]
            assert it.counters("UDP").opened == 10


async def test_a_burst_of_a_new_client_survives_a_refusal_whole() -> None:
    vip, datagrams = new_address(), numbered([64] * 20)
    with udp_socket(new_address()) as closed:
        dead = at(closed)
    with udp_socket("127.0.0.1") as client, roomy_socket("127.0.0.1") as endpoint:
        async with rig(None, the_first) as it:
            it.serve(
                frontend_of(vip, backend_of([dead, at(endpoint)], "UDP", balance="round-robin"))
            )
            for data in datagrams:
                client.sendto(data, (vip, VIP_PORT))
            assert await received(endpoint, 20) == datagrams
            assert it.counters("UDP").attempts == {"refused": 1}


async def test_the_rest_of_a_burst_leaves_an_endpoint_that_refuses_its_first_run() -> None:
    vip, first = new_address(), roomy_socket("127.0.0.1")
    with udp_socket("127.0.0.1") as client, roomy_socket("127.0.0.1") as second:
        async with rig(None, the_first) as it:
            with first:
                it.serve(
                    frontend_of(
                        vip, backend_of([at(first), at(second)], "UDP", balance="round-robin")
                    )
                )
                client.sendto(b"?", (vip, VIP_PORT))
                data, flow = await receive(first)
                first.sendto(data, flow)
                await receive(client)
            for data in numbered([9] * 4 + [8] * 4 + [7] * 4):
                client.sendto(data, (vip, VIP_PORT))
            # What was sent to the first is lost: a flow that was answered repeats nothing. The run
            # that is told of the refusal was not sent (udp(7)), and goes to the second.
            assert await received(second, 8) == numbered([9] * 4 + [8] * 4 + [7] * 4)[4:]
            assert it.counters("UDP").attempts == {"refused": 1}
            assert it.counters("UDP").flows_moved == 1


async def test_a_fault_with_one_client_costs_the_others_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    vip = new_address()
    with contextlib.ExitStack() as stack:
        endpoint = stack.enter_context(roomy_socket("127.0.0.1"))
        clients = [stack.enter_context(udp_socket("127.0.0.1")) for _ in range(5)]
        async with rig() as it:
            it.serve(frontend_of(vip, backend_of([at(endpoint)], "UDP")))
            for client in clients:
                client.sendto(b"first", (vip, VIP_PORT))
            await received(endpoint, 5)
            for number in (1, 2):
                flow = it.forwarder._udp.flows.get(((vip, VIP_PORT, "UDP"), at(clients[number])))
                assert flow is not None
                flow._unanswered = None  # type: ignore[assignment]  # the next datagram raises
            for number, client in enumerate(clients):
                client.sendto(bytes([number]), (vip, VIP_PORT))
            assert await received(endpoint, 3) == [b"\0", b"\3", b"\4"]
    assert [r for r in caplog.records if r.exc_info]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_a_run_is_one_call_and_arrives_as_its_datagrams(address: str) -> None:
    datagrams = Datagrams()
    if not datagrams.has_runs:
        pytest.skip("this kernel knows no UDP_SEGMENT")
    sent = numbered([700] * IN_A_TURN)
    (run,) = datagrams.runs(sent)
    with roomy_socket(address) as receiver, udp_socket(address) as sender:
        send_run(sender, run, receiver.getsockname())
        read, _ = datagrams.from_endpoint(receiver)
        assert [bytes(data) for data in read] == sent
        sender.connect(receiver.getsockname())
        send_run(sender, run)
        by_client, _ = datagrams.from_clients(receiver)
        assert [bytes(data) for data in by_client[sender.getsockname()]] == sent


def test_a_run_has_one_size_and_fits_into_a_packet() -> None:
    datagrams = Datagrams()
    datagrams.has_runs = True
    runs = datagrams.runs([b"a", b"b", b"", b"", b"cc", b"d", *[bytes(1232)] * 54, bytes(1233)])
    assert [(len(run), len(run[0])) for run in runs] == [
        (2, 1), (1, 0), (1, 0), (1, 2), (1, 1), (52, 1232), (2, 1232), (1, 1233),
    ]  # fmt: skip


async def test_a_refusal_that_answers_come_before_loses_none_of_them() -> None:
    async with talk() as it:
        await it.begin()
        await it.ask([b"?"])
        for data in numbered([3] * 5):
            it.endpoint.sendto(data, it.flow)
        it.endpoint.close()
        it.client.sendto(b"refused", it.vip)
        assert await received(it.client, 5) == numbered([3] * 5)
        await until(lambda: it.it.counters("UDP").attempts["refused"] == 1)
