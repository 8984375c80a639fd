"""asyncio's loop with a way past it: nothing of the loop's own may wait for that, or be lost."""

import asyncio
import os
import select
import socket

import pytest

from pyproxy.aio.direct_loop import DirectLoop, Events


class Echo:
    """Answers on direct descriptors, and counts the wake-ups."""

    def __init__(self, loop: DirectLoop) -> None:
        self.sockets: dict[int, socket.socket] = {}
        self.batches = 0
        self._loop = loop
        loop.set_dispatch(self.dispatch)

    def add(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sockets[sock.fileno()] = sock
        self._loop.epoll.register(sock.fileno(), select.EPOLLIN | select.EPOLLET)

    def dispatch(self, ready: Events) -> Events:
        self.batches += 1
        others: Events = []
        for fd, events in ready:
            sock = self.sockets.get(fd)
            if sock is None:
                others.append((fd, events))
            else:
                self.answer(sock)
        return others

    def answer(self, sock: socket.socket) -> None:
        sock.send(sock.recv(100))


@pytest.fixture
def loop() -> DirectLoop:
    return DirectLoop()


def run(loop: DirectLoop, main: object) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main)  # type: ignore[arg-type]  # a coroutine


def test_direct_descriptors_and_the_loops_own_are_served_together(loop: DirectLoop) -> None:
    async def main() -> None:
        echo = Echo(loop)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            echo.add(theirs)
            ours.setblocking(False)
            for number in range(100):
                await loop.sock_sendall(ours, bytes([number]))
                assert await loop.sock_recv(ours, 10) == bytes([number])
        loop.set_dispatch(None)

    run(loop, main())


def test_timers_and_callbacks_of_a_dispatch_are_not_waited_past(loop: DirectLoop) -> None:
    async def main() -> None:
        done = loop.create_future()
        echo = Echo(loop)

        def answer(_: socket.socket) -> None:
            # The loop waits for nothing else, and would wait for an hour.
            loop.call_soon(loop.call_later, 0.001, done.set_result, None)

        echo.answer = answer  # type: ignore[assignment,method-assign]
        ours, theirs = socket.socketpair()
        with ours, theirs:
            echo.add(theirs)
            hour = loop.call_later(3600, done.cancel)
            ours.send(b"x")
            await done
            hour.cancel()
        loop.set_dispatch(None)

    run(loop, main())


def test_a_timer_comes_although_direct_descriptors_are_never_quiet(loop: DirectLoop) -> None:
    async def main() -> None:
        echo = Echo(loop)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            echo.add(ours)
            echo.add(theirs)
            ours.send(b"for ever")
            await asyncio.sleep(0.02)
            assert echo.batches > 10
        loop.set_dispatch(None)

    run(loop, main())


def test_another_thread_and_a_signal_wake_it(loop: DirectLoop) -> None:
    async def main() -> None:
        Echo(loop)
        assert await asyncio.to_thread(lambda: 7) == 7
        heard = loop.create_future()
        loop.add_signal_handler(10, heard.set_result, None)
        os.kill(os.getpid(), 10)
        await heard
        loop.set_dispatch(None)

    run(loop, main())
