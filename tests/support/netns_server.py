"""The servers of the test network: they tell every client the address that it came from."""

import contextlib
import selectors
import socket
import threading

from pyproxy.model.service import Protocol

# Not in the socket module of Python 3.11 (linux/in.h, linux/in6.h).
IP_TRANSPARENT = 19
IPV6_TRANSPARENT = 75


class Server:
    """Tells every client the address it came from, in a thread, on a socket of the namespace.

    A TCP client is answered for each thing it says, until it closes. hits: how many were answered.
    """

    def __init__(
        self, protocol: Protocol, address: str, port: int, *, transparent: bool = False
    ) -> None:
        self.hits = 0
        self._sock = new_socket(protocol, address)
        if protocol == "TCP":
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if transparent:
            be_transparent(self._sock)
        self._sock.bind((address, port))
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        if protocol == "TCP":
            self._sock.listen(128)
        answer = self._accept if protocol == "TCP" else self._answer_datagram
        self._selector.register(self._sock, selectors.EVENT_READ, answer)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close_listener(self) -> None:
        """Take no new TCP clients; those that are connected are still answered."""
        self._wake.send(b"l")

    def stop(self) -> None:
        """Close the socket and every connection. May be called twice."""
        if self._thread.is_alive():
            self._wake.send(b"x")
            self._thread.join()
            self._wake.close()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    if self._woken.recv(1) == b"x":
                        self._close()
                        return
                    self._selector.unregister(self._sock)
                    self._sock.close()
                    break
                with contextlib.suppress(OSError):  # that client is gone
                    key.data(key.fileobj)

    def _close(self) -> None:
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()

    def _accept(self, listener: socket.socket) -> None:
        client, _ = listener.accept()
        self._selector.register(client, selectors.EVENT_READ, self._answer)

    def _answer(self, client: socket.socket) -> None:
        try:
            said = client.recv(2000)
        except OSError:
            said = b""
        if said:
            self.hits += 1
            client.send(client.getpeername()[0].encode())
        else:
            self._selector.unregister(client)
            client.close()

    def _answer_datagram(self, sock: socket.socket) -> None:
        _, client = sock.recvfrom(65536)
        self.hits += 1
        sock.sendto(client[0].encode(), client)


def be_transparent(sock: socket.socket) -> None:
    """Let the socket be bound to, and take packets for, an address that is not the host's."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)


def new_socket(protocol: Protocol, address: str) -> socket.socket:
    """Return a socket of the protocol, of the address's family."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.socket(family, socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM)
