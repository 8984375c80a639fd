"""Clients at a listener that is about to close: those that have begun are served, others wait."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from pyproxy.forward.settings import ForwardSettings
from pyproxy.forward.sockets import RawSocket, accept, ignore_new_clients, listen_tcp
from tests.support.netns import PATIENCE_S, Cluster, cluster, needs_netns
from tests.support.node_agents import until

pytestmark = needs_netns

PORT = 8080
SHARED = ForwardSettings(reuse_port=True)
# A client that has had its SYN answered, but whose own answer to that is lost for now.
LOSE_ACKS = (
    "table ip lose { chain c { type filter hook output priority 0; tcp flags & syn == 0 drop; }; }"
)


@contextlib.contextmanager
def begun(lab: Cluster, address: str) -> Iterator[tuple[RawSocket, socket.socket]]:
    """A listener on the node and a client in mid-handshake with it."""
    pod = lab.pods[0]
    with lab.node.entered():
        listener = listen_tcp(address, PORT, SHARED)
    pod.run("nft", "-f", "-", stdin=LOSE_ACKS)
    client = pod.connected("TCP", address, PORT)
    pod.run("nft", "delete", "table", "ip", "lose")
    try:
        yield listener, client
    finally:
        listener.close()
        client.close()


def accepted(listener: RawSocket) -> RawSocket:
    """Wait for a client."""
    found: list[RawSocket] = []

    def is_there() -> bool:
        with contextlib.suppress(BlockingIOError):
            found.append(accept(listener)[0])
        return bool(found)

    until(is_there)
    return found[0]


def test_who_has_begun_is_served_and_who_comes_later_finds_the_next_listener() -> None:
    with cluster() as lab, begun(lab, lab.node.v4) as (listener, client):
        ignore_new_clients(listener)
        with lab.pods[0].entered():
            late = socket.socket()
        with late:
            late.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                late.connect((lab.node.v4, PORT))
            client.send(b"x")  # with it goes the answer that was lost
            accepted(listener).close()
            with pytest.raises(BlockingIOError):
                accept(listener)  # the late one was not let in
            with lab.node.entered():
                successor = listen_tcp(lab.node.v4, PORT, SHARED)
            listener.close()
            accepted(successor).close()
            late.settimeout(PATIENCE_S)
            assert late.recv(1) == b""
            successor.close()


@pytest.mark.parametrize("migrates", [True, False])
def test_the_kernel_hands_who_has_begun_to_the_next_listener_if_it_may(migrates: bool) -> None:
    with cluster() as lab:
        lab.node.sysctl("net.ipv4.tcp_migrate_req", int(migrates))
        with begun(lab, lab.node.v4) as (listener, client):
            with lab.node.entered():
                successor = listen_tcp(lab.node.v4, PORT, SHARED)
            listener.close()
            client.send(b"x")
            if migrates:
                accepted(successor).close()
            else:
                with pytest.raises(ConnectionResetError):
                    client.recv(1)
            successor.close()
