"""What connections cost that do nothing: memory each, and CPU while they are there."""

import contextlib
import socket
import time

from tests.bench.relay.proxies import DESCRIPTORS, HTTP, Target
from tests.bench.relay.usage import cpu_s, resident_bytes

CONNECTIONS = min(10_000, DESCRIPTORS // 2 - 500)
# Until what a proxy does to young connections is done, and memory is what it stays.
_SETTLE_S = 3.0
_REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"


def hold(target: Target, duration_s: float) -> dict[str, float]:
    """Open connections, ask once on each, and let them rest."""
    assert target.pid is not None
    with contextlib.ExitStack() as stack:
        _open(target.address, 100, stack)  # so that what is made once does not count
        before = resident_bytes(target.pid)
        _open(target.address, CONNECTIONS, stack)
        time.sleep(_SETTLE_S)
        grown = resident_bytes(target.pid) - before
        cpu_before_s, start_s = cpu_s(target.pid), time.perf_counter()
        time.sleep(duration_s)
        used_s = cpu_s(target.pid) - cpu_before_s
        share = used_s / (time.perf_counter() - start_s)
    return {"memory": grown / CONNECTIONS / 1024, "cpu": share * 100}


def _open(address: str, connections: int, stack: contextlib.ExitStack) -> None:
    for _ in range(connections):
        sock = stack.enter_context(socket.create_connection((address, HTTP), 5.0))
        sock.sendall(_REQUEST)
        if not sock.recv(4096):
            raise ConnectionError("the connection was closed")
