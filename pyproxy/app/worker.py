"""A worker: a process that forwards, as the agent which started it says over an inherited socket.

Run as `python -m pyproxy.app.worker DESCRIPTOR LOOP`. It decides nothing itself: its table, when to
stop listening, when to drain and when to end all come from the agent. When the agent is gone it
serves for a while, in which another one may start, stops listening, drains, and ends. Signals are
for the agent: ctrl-C in a terminal and the end of a container reach every process, and would
otherwise cut what the agent lets drain.
"""

import asyncio
import contextlib
import gc
import itertools
import logging
import os
import random
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator

from pyproxy.aio.direct_loop import DirectLoop
from pyproxy.app import logs, privileges
from pyproxy.app.questions import rows_for
from pyproxy.app.vitals import vitals_now
from pyproxy.app.worker_channel import Channel
from pyproxy.app.worker_counts import CountsSource, Increments
from pyproxy.app.worker_table import applied, unpacked
from pyproxy.app.worker_wire import (
    Answer,
    Ask,
    Counts,
    Done,
    Drain,
    EndpointCounts,
    Hello,
    LogLevel,
    Ping,
    Pins,
    Records,
    Retire,
    Stop,
    StopListening,
    Table,
    frame,
    read_by_worker,
)
from pyproxy.core.affinity import AffinityTable, Pin
from pyproxy.core.balancer import Balancer
from pyproxy.forward.forwarder import Forwarder
from pyproxy.forward.live import ROWS_IN_A_TURN, LiveConnection, LiveEndpoint
from pyproxy.forward.records import Ends
from pyproxy.forward.shared_counts import SharedCounts, SharedMemory
from pyproxy.metrics import Metrics, Vitals
from pyproxy.model.node import NodeView
from pyproxy.model.persistent import PersistentMap
from pyproxy.model.service import ServicePortName
from pyproxy.model.table import Frontend, FrontendKey, VipTable

log = logging.getLogger(__name__)

REPORT_INTERVAL_S = 0.5
# Every so many reports it is looked at all pools for ejected endpoints: 4 ms for 10,000 Services.
_REPORTS_TO_A_LOOK = 4
# Pins that wait to be sent; more new clients than this at one time are not all told of.
_MAX_PINS = 10_000
_ROOM_RETRY_S = 0.1
# For the last counters to be sent, when the agent may be stuck.
_FAREWELL_S = 2.0
# After the agent was killed, a third of the drain time, but no longer than this: a supervisor
# starts another one in less, which listens beside this worker. What changes is not known here.
_MOST_ORPHANED_S = 60.0


class Worker:
    """Carries out what the agent says. Made by its Hello, in the running loop."""

    def __init__(self, hello: Hello, channel: Channel) -> None:
        self._channel = channel
        self._clock = time.monotonic
        self._metrics = Metrics()
        self._counts = CountsSource(self._metrics)
        self._affinity = AffinityTable(observer=self._pinned)
        self._memory = SharedMemory(hello.processes, hello.counts_fd)
        self._live_counts = SharedCounts(self._memory, hello.number)
        self._ends = Ends(hello.ends, random.random, self._clock)
        self._forwarder = Forwarder(
            hello.forward,
            Balancer(random.random, self._affinity),
            self._metrics,
            self._clock,
            self._live_counts,
            ends=self._ends,
        )
        self._frontends: PersistentMap[FrontendKey, Frontend] = PersistentMap()
        self._table = VipTable(node=NodeView())
        self._has_table = False
        self._listening: set[FrontendKey] = set()
        self._faults: dict[FrontendKey, str] = {}
        self._touched: set[FrontendKey] = set()  # since the last Retire
        self._order = 0
        self._pins: deque[Pin] = deque(maxlen=_MAX_PINS)
        self._pins_dropped = 0
        self._records_dropped = 0
        self._endpoints_told = EndpointCounts([], [])
        self._vitals: Vitals | None = None
        self._drain_timeout_s = hello.drain_timeout_s
        self._leaving: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._stopped = asyncio.Event()

    def receive(self, payload: bytes) -> None:
        """Carry out one message. A fault ends this worker: its table may not be whole."""
        try:
            self._carry_out(payload)
        except Exception as fault:  # it is raised again by `run`
            if self._leaving.done():
                raise
            self._leaving.set_exception(fault)

    def _carry_out(self, payload: bytes) -> None:
        match read_by_worker(payload):
            case Table() as message:
                self._serve(message)
            case Retire(order=order):
                self._forwarder.retire()
                touched, self._touched = self._touched, set()
                self._done(order, touched)
            case Ping(order=order):
                self._done(order, ())
            case StopListening(order=order, has_successor=has_successor):
                self._forwarder.stop_listening(has_successor=has_successor)
                self._send_counts()
                self._done(order, tuple(self._listening))
            case Pins(pins=pins):
                now_s = self._clock()
                for pin in pins:
                    self._affinity.adopt(pin, now_s)
            case LogLevel(level=level):
                logging.getLogger().setLevel(level)
            case Ask() as question:
                total, rows = rows_for(self._forwarder.live, question.what, question.of)
                self._answer(question, total, itertools.islice(rows, question.limit))
            case Drain(timeout_s=timeout_s):
                self._leave(timeout_s)
            case Stop():
                self._leave(0.0)
                self._stopped.set()
            case Hello():
                raise AssertionError("a second Hello")

    async def run(self) -> None:
        """Forward until told to end, or until the agent is gone; then drain."""
        async with asyncio.TaskGroup() as group:
            report = group.create_task(self._report())
            watch = group.create_task(self._watch_agent())
            timeout_s = await self._leaving
            drain = group.create_task(self._forwarder.drain(timeout_s))
            stopped = group.create_task(self._stopped.wait())
            await asyncio.wait((drain, stopped), return_when=asyncio.FIRST_COMPLETED)
            for task in (report, watch, drain, stopped):
                task.cancel()
        self._forwarder.close()
        self._send_counts()
        self._send_records()
        self._send_endpoint_counts(is_last=True)
        self._memory.close()

    def _serve(self, message: Table) -> None:
        self._live_counts.assign(message.slots)
        new = unpacked(message.backends, message.frontends)
        self._frontends = applied(self._frontends, message.gone, new)
        self._table = VipTable(
            frontends=self._frontends,
            node=message.node or self._table.node,
            generation=message.generation,
        )
        touched = [*message.gone, *(frontend.key for frontend in new)]
        self._forwarder.extend(self._table, touched)
        self._touched.update(touched)
        self._done(message.order, touched)
        if not self._has_table:
            self._has_table = True
            # As in the agent: the table stays, and a full collection of it would hold up traffic.
            gc.collect()
            gc.freeze()

    def _leave(self, timeout_s: float) -> None:
        if not self._leaving.done():
            self._leaving.set_result(timeout_s)

    async def _watch_agent(self) -> None:
        await self._channel.lost.wait()
        serves_s = min(_MOST_ORPHANED_S, self._drain_timeout_s / 3)
        log.warning(
            "the agent is gone: serving for %g s, in which another one may start, and then"
            " draining, for up to %g s",
            *(serves_s, self._drain_timeout_s),
        )
        await asyncio.sleep(serves_s)
        self._forwarder.stop_listening(has_successor=True)
        self._leave(self._drain_timeout_s)

    # What the agent is told

    def _done(self, order: int, touched: Iterable[FrontendKey]) -> None:
        """Answer an order, with what it changed of what is listened on."""
        self._order = order
        self._channel.send(frame(self._state(touched)))

    def _state(self, touched: Iterable[FrontendKey]) -> Done:
        """What has changed since it was last told: of these frontends, and of the faulty ones."""
        before, self._faults = self._faults, dict(self._forwarder.bind_faults())
        faults = [(key, r) for key, r in self._faults.items() if before.get(key) != r]
        mended = [key for key in before if key not in self._faults]
        is_listening, known = self._forwarder.is_listening, self._listening
        looked_at = {*touched, *mended, *(key for key, _ in faults)}
        bound = [key for key in looked_at if is_listening(key) and key not in known]
        lost = [key for key in looked_at if key in known and not is_listening(key)]
        known.update(bound)
        known.difference_update(lost)
        return Done(self._order, bound, lost, [*faults, *((key, "") for key in mended)])

    async def _report(self) -> None:
        """Tell now and then what was counted, and what could be bound after all."""
        for number in itertools.count():
            due_s = self._clock() + REPORT_INTERVAL_S
            await asyncio.sleep(REPORT_INTERVAL_S)
            self._vitals = vitals_now(self._clock() - due_s)
            if number % _REPORTS_TO_A_LOOK == 0:
                self._forwarder.count_ejected()
            self._send_records()
            self._send_endpoint_counts()
            for part in self._counts.service_ports():
                if part:
                    self._send_part(part)
                await asyncio.sleep(0)
            self._send_part([])
            if self._faults:
                state = self._state(())
                if state.faults:
                    self._channel.send(frame(state))

    def _send_counts(self) -> None:
        """Tell all that was counted, at once."""
        for part in self._counts.service_ports():
            self._send_part(part)
        self._send_part([])

    def _send_part(self, service_ports: list[tuple[ServicePortName, Increments]]) -> None:
        forwarder, dropped = self._forwarder, self._pins_dropped
        self._pins_dropped = 0
        counts = Counts(
            service_ports,
            self._counts.process(),
            forwarder.live_connections,
            forwarder.live_flows,
            dropped,
            self._vitals,
        )
        self._channel.send(frame(counts))

    def _send_endpoint_counts(self, *, is_last: bool = False) -> None:
        """Tell what was counted of endpoints, if that is wanted, and differs from the last time."""
        endpoints = self._ends.endpoints
        if endpoints is None or not (is_last or endpoints.is_due(self._clock())):
            return
        if self._channel.has_room:
            counts = EndpointCounts(endpoints.take(), self._forwarder.live.in_use())
            if counts.ended or counts.live != self._endpoints_told.live:
                self._endpoints_told = counts
                self._channel.send(frame(counts))

    def _send_records(self) -> None:
        """Tell what has ended, unless the agent does not keep up."""
        records, left_out = self._ends.take()
        if not self._channel.has_room:
            self._records_dropped += len(records) + left_out
        elif records or left_out or self._records_dropped:
            dropped, self._records_dropped = self._records_dropped, 0
            self._channel.send(frame(Records(records, left_out + dropped)))

    def _answer(
        self, question: Ask, total: int, rows: Iterator[LiveConnection | LiveEndpoint]
    ) -> None:
        """Send a part of an answer, and go on with the next when traffic has had its turn."""
        loop = asyncio.get_running_loop()
        if self._channel.lost.is_set():
            return
        if not self._channel.has_room:
            loop.call_later(_ROOM_RETRY_S, self._answer, question, total, rows)
            return
        part = list(itertools.islice(rows, ROWS_IN_A_TURN))
        answer = Answer(
            question.question,
            total,
            [row for row in part if isinstance(row, LiveConnection)],
            [row for row in part if isinstance(row, LiveEndpoint)],
            is_last=len(part) < ROWS_IN_A_TURN,
        )
        self._channel.send(frame(answer))
        if not answer.is_last:
            loop.call_soon(self._answer, question, total, rows)

    def _pinned(self, pin: Pin) -> None:
        if not self._pins:
            asyncio.get_running_loop().call_soon(self._send_pins)
        self._pins_dropped += len(self._pins) == _MAX_PINS
        self._pins.append(pin)

    def _send_pins(self) -> None:
        if self._channel.has_room:
            self._channel.send(frame(Pins(list(self._pins))))
            self._pins.clear()
        elif not self._channel.lost.is_set():
            asyncio.get_running_loop().call_later(_ROOM_RETRY_S, self._send_pins)


class _Session:
    """The channel to the agent, and the worker that its first message makes."""

    def __init__(self) -> None:
        self.channel = Channel(self._receive)
        self._worker: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Work until told to end."""
        async with asyncio.TaskGroup() as group:
            lost = group.create_task(self.channel.lost.wait())
            await asyncio.wait((lost, self._worker), return_when=asyncio.FIRST_COMPLETED)
            lost.cancel()
        if self._worker.done():
            await self._worker.result().run()
        self.channel.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_S):
                await self.channel.lost.wait()

    def _receive(self, payload: bytes) -> None:
        if self._worker.done():
            self._worker.result().receive(payload)
            return
        hello = read_by_worker(payload)
        assert isinstance(hello, Hello)
        level, process = logging.getLevelName(hello.log_level), f"worker {hello.number}"
        logs.set_up(level, hello.log_format, process)
        # The agent reports what cannot be bound, once for all workers.
        logging.getLogger("pyproxy.forward.binding").setLevel(logging.ERROR)
        self._worker.set_result(Worker(hello, self.channel))


async def _work(sock: socket.socket) -> None:
    session = _Session()
    await session.channel.open(sock)
    await session.run()


def main() -> int:
    """Run as the command line says; return the exit status."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    # What is typed in a terminal is for the agent, which lets connections drain. Not a session of
    # its own: where the kernel shares the CPU out by session (sched(7), the autogroup feature), a
    # worker would not use its share up, and so displace at each event whom it waits for. It found
    # one event at a time then, and a request took 20 % more CPU.
    os.setpgid(0, 0)
    privileges.keep(privileges.WORKER)
    (fd,) = sys.argv[1:]
    try:
        # With uvloop, whose epoll cannot be had, every wake-up takes two: 4 % more CPU a request.
        with asyncio.Runner(loop_factory=DirectLoop) as runner:
            runner.run(_work(socket.socket(fileno=int(fd))))
    except Exception:
        log.exception("a fault of this worker; another one takes its place")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
