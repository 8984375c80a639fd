"""The ports that sockets with a client's address get, and what happens when none is left."""

import socket
from collections.abc import Iterator
from functools import partial
from typing import cast

import pytest

from pyproxy.forward.dial import Attempt, DirectDialler
from pyproxy.forward.poller import Poller
from pyproxy.forward.source import FIRST_PORT, LAST_PORT, Ports
from pyproxy.metrics import Metrics
from pyproxy.model.endpoint import Endpoint
from pyproxy.model.service import Protocol
from tests.support.backends import backend_of, frontend_of
from tests.support.netns import Host, needs_netns

pytestmark = needs_netns

CLIENT = "198.51.100.7"
CLIENT_V6 = "2001:db8:1::7"
NEIGHBOUR = "203.0.113.2"  # another address of the node
SERVED = frontend_of("198.51.100.1", backend_of([]))


@pytest.fixture(scope="module")
def node() -> Iterator[Host]:
    """A host with a network in which nobody answers."""
    made = Host("node", "203.0.113.1", "2001:db8::1")
    try:
        made.ip(
            "link add net0 type veth peer name net1",
            "link set net1 up",
            "link set net0 up",
            f"address add {made.v4}/24 dev net0",
            f"address add {NEIGHBOUR}/24 dev net0",
            f"address add {made.v6}/64 dev net0 nodad",
        )
        yield made
    finally:
        made.close()


class Unwatched:
    """A poller that nobody waits for."""

    def watch(self, fd: int, watcher: object) -> None:
        pass


NOBODY = cast(Attempt, None)


def direct_dialler(metrics: Metrics, ports: Ports) -> DirectDialler:
    return DirectDialler(cast(Poller, Unwatched()), metrics, ports)


def dialled(
    node: Host,
    ports: Ports,
    protocol: Protocol,
    endpoints: int,
    client: str = CLIENT,
    prefix: str = "203.0.113.",
) -> tuple[list[tuple[str, int]], dict[str, int]]:
    """Dial each endpoint four times at once; return where from, and the fallbacks."""
    metrics = Metrics()
    dialler = direct_dialler(metrics, ports)
    dial = partial(dialler.stream, attempt=NOBODY) if protocol == "TCP" else dialler.datagram
    with node.entered():
        sockets = [
            dial(SERVED, client, Endpoint(f"{prefix}{number}", 9, is_local=True))
            for number in range(10, 10 + endpoints)
            for _ in range(4)
        ]
    try:
        return [sock.getsockname()[:2] for sock in sockets], dict(metrics.source_address_fallbacks)
    finally:
        for sock in sockets:
            sock.close()


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
@pytest.mark.parametrize("prefix", ["203.0.113.", "2001:db8::"])
def test_ports_are_of_a_range_of_their_own(node: Host, protocol: Protocol, prefix: str) -> None:
    client = CLIENT if prefix == "203.0.113." else CLIENT_V6
    names, fallbacks = dialled(node, Ports(), protocol, 3, client, prefix)
    assert {address for address, _ in names} == {client}
    assert len(set(names)) == 12
    assert all(61_000 <= port <= 65_535 for _, port in names)
    assert fallbacks == {}


def test_every_port_has_its_turn_before_one_comes_again() -> None:
    ports = Ports()._ports
    turns = [next(ports) for _ in range(LAST_PORT - FIRST_PORT + 1)]
    assert set(turns) == set(range(FIRST_PORT, LAST_PORT + 1))


def test_with_all_ports_in_use_towards_an_endpoint_the_nodes_address_is_used(node: Host) -> None:
    names, fallbacks = dialled(node, Ports(61_000, 61_002), "TCP", 2)
    assert [name[0] for name in names] == [CLIENT] * 3 + [node.v4] + [CLIENT] * 3 + [node.v4]
    assert fallbacks == {"ports_used_up": 2}


def test_udp_ports_are_shared_by_all_endpoints(node: Host) -> None:
    names, fallbacks = dialled(node, Ports(61_000, 61_002), "UDP", 2)
    assert [name[0] for name in names] == [CLIENT] * 3 + [node.v4] * 5
    assert fallbacks == {"ports_used_up": 5}


def test_an_address_that_the_kernel_does_not_take_is_passed_over(node: Host) -> None:
    # It means nothing without an interface: EINVAL.
    names, fallbacks = dialled(node, Ports(), "TCP", 1, "fe80::7", "2001:db8::")
    assert {address for address, _ in names} == {node.v6}
    assert fallbacks == {"not_possible": 4}


def test_an_endpoint_without_a_route_is_an_attempt_that_failed(node: Host) -> None:
    with pytest.raises(OSError, match="unreachable"):
        dialled(node, Ports(), "TCP", 1, prefix="192.0.2.")


def test_connections_in_time_wait_use_up_no_ports(node: Host) -> None:
    node.sysctl("net.ipv4.tcp_tw_reuse", 0)
    metrics = Metrics()
    dialler = direct_dialler(metrics, Ports(61_000, 61_002))
    with node.entered(), socket.create_server((node.v4, 80)) as listener:
        for _ in range(12):
            endpoint = Endpoint(node.v4, 80, is_local=True)
            upstream = dialler.stream(SERVED, NEIGHBOUR, endpoint, NOBODY)
            accepted, (client, _) = listener.accept()
            assert client == NEIGHBOUR
            upstream.close()  # the first to end has the TIME_WAIT
            with accepted:
                assert accepted.recv(1) == b""
    assert metrics.source_address_fallbacks == {}
