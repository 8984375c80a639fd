"""Answer times at a constant rate of requests, whatever the answers do (an open loop).

Requests take turns on a few connections. A request is sent at its time although earlier ones are
not answered, so one slow answer delays no other's measurement; and it is timed from its sending, so
that a client that was late itself does not count.
"""

import gc
import select
import socket
import statistics
import time
from collections import deque

from tests.bench.relay.proxies import HTTP

RATE = 1000
_CONNECTIONS = 16
_WARM_UP = 200  # requests that do not count
_REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"


def answer_times_us(address: str, duration_s: float) -> tuple[float, float]:
    """Median and 99th percentile, over RATE requests a second."""
    socks = [socket.create_connection((address, HTTP), 5.0) for _ in range(_CONNECTIONS)]
    gc.disable()
    try:
        for sock in socks:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        times = _run(socks, int(RATE * duration_s) + _WARM_UP)[_WARM_UP:]
    finally:
        gc.enable()
        for sock in socks:
            sock.close()
    return statistics.median(times), statistics.quantiles(times, n=100)[98]


def _run(socks: list[socket.socket], requests: int) -> list[float]:
    answer_bytes = _ask_once(socks[0])
    sent: dict[socket.socket, deque[float]] = {sock: deque() for sock in socks}
    got = dict.fromkeys(socks, 0)
    times: list[float] = []
    start_s, asked = time.perf_counter(), 0
    while len(times) < requests:
        due_s = start_s + asked / RATE
        wait_s = due_s - time.perf_counter() if asked < requests else 5.0
        # select(2) waits to the microsecond, epoll_wait(2) to the millisecond.
        ready = select.select(socks, [], [], max(wait_s, 0.0))[0]
        now_s = time.perf_counter()
        if asked == requests and not ready:
            raise TimeoutError("an answer is missing")
        for sock in ready:
            got[sock] += len(sock.recv(65_536)) or _lost()
            while got[sock] >= answer_bytes:
                got[sock] -= answer_bytes
                times.append((now_s - sent[sock].popleft()) * 1e6)
        if asked < requests and time.perf_counter() >= due_s:
            sock = socks[asked % len(socks)]
            sent[sock].append(time.perf_counter())
            sock.sendall(_REQUEST)
            asked += 1
    return times


def _ask_once(sock: socket.socket) -> int:
    """How long an answer is: all are alike."""
    sock.sendall(_REQUEST)
    return len(sock.recv(65_536)) or _lost()


def _lost() -> int:
    raise ConnectionError("the connection was closed")
