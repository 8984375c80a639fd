"""The data plane in processes of its own: a forwarding that hands everything on to workers.

Each worker listens on every frontend (SO_REUSEPORT); the kernel spreads the clients. The agent
keeps what outlives a worker: the newest table, the counters, the clients' affinity. One that dies
is replaced, and the new one is told all of it; the others do not notice.
"""

import asyncio
import contextlib
import itertools
import logging
import random
import time
from collections import ChainMap
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from pyproxy.app.questions import Questions, Told, What
from pyproxy.app.uses import Uses
from pyproxy.app.worker_counts import CountsSum
from pyproxy.app.worker_process import WorkerProcess, cause_of_death
from pyproxy.app.worker_settings import WorkersSettings, hello_for
from pyproxy.app.worker_table import packed
from pyproxy.app.worker_wire import (
    Answer,
    Ask,
    Counts,
    Done,
    Drain,
    EndpointCounts,
    LogLevel,
    Order,
    Ping,
    Pins,
    Records,
    Retire,
    StopListening,
    Table,
    ToAgent,
    frame,
)
from pyproxy.core.affinity import AffinityTable, Pin
from pyproxy.core.backoff import Backoff
from pyproxy.errors import PyproxyError
from pyproxy.forward.binding import log_faults
from pyproxy.forward.forwarder import changes, may_forward
from pyproxy.forward.shared_counts import SharedMemory, Slots
from pyproxy.metrics import Metrics
from pyproxy.model.ended import Ended
from pyproxy.model.node import NodeView
from pyproxy.model.service import ServiceName
from pyproxy.model.table import Frontend, FrontendKey, VipTable

log = logging.getLogger(__name__)

# How often each worker is asked whether it is still there.
PING_INTERVAL_S = 2.0
# One that lives for so long was no bad start.
_STEADY_S = 5.0
_STOP_LISTENING_S = 1.0
_PINS_AT_ONCE = 10_000
# Updates wait for no worker longer than for this many times a worker's patience.
_PATIENCES = 4


class Workers:
    """Starts the workers, keeps them going and up to date, and adds up what they tell.

    on_ended: is told what the access log is to have, and how many were left out already.

    Invariant: what was sent to a worker, snapshot and changes, amounts to `_table`.
    """

    def __init__(
        self,
        settings: WorkersSettings,
        metrics: Metrics,
        on_ended: Callable[[list[Ended], int], None],
    ) -> None:
        self._on_ended = on_ended
        self._settings = settings
        self._metrics = metrics
        self._clock: Callable[[], float] = time.monotonic
        self._memory = SharedMemory(settings.count)
        self._slots = Slots()
        self._sum = CountsSum(metrics)
        self._uses = Uses()
        self._questions = Questions()
        self._affinity = AffinityTable()
        self._table = VipTable(node=NodeView())
        self._workers: dict[int, WorkerProcess] = {}
        self._freed: list[ServiceName] = []
        self._order = 0
        self._has_served = False
        self._is_stopping = False
        self._progress = asyncio.Event()

    # Serving

    async def stop_listening(self, *, has_successor: bool = False) -> int:
        """Take no new clients; return how many connections are live.

        has_successor: whether others listen on the same ports, and take over the UDP flows.
        A stuck worker is not waited for; its connections are those that it told of last.
        """
        self._is_stopping = True
        self._order += 1
        self._tell(StopListening(self._order, has_successor))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_LISTENING_S):
                await self._settle()
        return sum(worker.live_connections for worker in self._workers.values())

    def pins(self) -> list[Pin]:
        """Where clients stick, for another agent."""
        return list(self._affinity.pins(self._clock()))

    def adopt(self, pins: Iterable[Pin]) -> None:
        """Take over where clients stick, for all workers; before the first table, or later."""
        told = iter(pins)
        now_s = self._clock()
        while some := list(itertools.islice(told, _PINS_AT_ONCE)):
            for pin in some:
                self._affinity.adopt(pin, now_s)
            data = frame(Pins(some))
            for worker in self._workers.values():
                worker.send(data)

    async def extend(self, table: VipTable, touched: Collection[FrontendKey] | None = None) -> None:
        """Forward by this table; return once every worker does.

        A worker that dies meanwhile is waited for no more; the others serve. Raises PyproxyError
        when there is none.
        """
        before, self._table = self._table, table
        gone, new = changes(before.frontends, table.frontends, touched)
        if gone or new or table.node != before.node or not self._order:
            slots = self._slots_for(new)
            node = None if table.node == before.node else table.node
            keys = [frontend.key for frontend in gone]
            self._order += 1
            self._tell(Table(self._order, table.generation, node, keys, *packed(new), slots))
            self._uses.change(gone, new, before.frontends)
            for frontend in new:
                if may_forward(frontend):  # its series are there before its first client
                    self._metrics.service_port(frontend.backend.name)
            for backend in {id(f.backend): f.backend for f in new}.values():
                self._affinity.keep_only(backend)
        self._metrics.table_generation = table.generation
        self._metrics.frontends = len(table.frontends)
        await self._settle()
        self._has_served = True

    async def retire(self) -> None:
        """Stop listening on what the newest table does not want; return once no worker does."""
        self._order += 1
        self._tell(Retire(self._order))
        await self._settle()
        for name, family in self._uses.take_unused():
            self._affinity.remove(name, family)
            if name not in self._uses:
                self._sum.forget(name)
        self._free_slots()

    def is_listening(self, key: FrontendKey) -> bool:
        """Whether some worker takes new clients of a frontend now."""
        return any(key in worker.listening for worker in self._workers.values())

    def listening(self) -> frozenset[FrontendKey]:
        """The frontends that take new clients now."""
        return frozenset().union(*(worker.listening for worker in self._workers.values()))

    def bind_faults(self) -> Mapping[FrontendKey, str]:
        """Why each frontend that should be listened on is not, by one worker or by all."""
        return ChainMap(*(worker.faults for worker in self._workers.values()))

    def detail(self) -> list[dict[str, Any]]:
        """The workers, for the health port."""
        return [
            {
                "worker": number,
                "pid": worker.pid,
                "serving": worker.acknowledged > 0,
                "connections": worker.live_connections,
            }
            for number, worker in sorted(self._workers.items())
        ]

    async def live(self, what: What, of: ServiceName | None, limit: int) -> Told:
        """What is live, of one Service or of all: so many rows at most from each worker."""
        number = self._questions.put(self._workers.keys())
        data = frame(Ask(number, what, of, limit))
        for worker in self._workers.values():
            worker.send(data)
        return await self._questions.answer(number)

    def set_log_level(self, level: int) -> None:
        """Let the workers log from this level on; those to come are told by their Hello."""
        data = frame(LogLevel(level))
        for worker in self._workers.values():
            worker.send(data)

    def count_ejected(self) -> None:
        """They do so by themselves."""

    def _slots_for(self, frontends: list[Frontend]) -> list[tuple[ServiceName, int | None]]:
        """Give slots to Services that are limited and have none; tell which were taken back."""
        limited = {
            frontend.backend.name.service
            for frontend in frontends
            if frontend.backend.options.max_connections is not None
        }
        freed, self._freed = self._freed, []
        given: list[tuple[ServiceName, int | None]] = [(service, None) for service in freed]
        for service in limited:
            slot = self._slots.take(service)
            if slot is not None:
                given.append((service, slot))
        return given

    def _free_slots(self) -> None:
        """Take back the slots of Services that are gone; workers are told before the next use."""
        gone = [s for s in self._slots.taken if not self._uses.has_service(s)]
        for service in gone:
            self._slots.free(service)
        self._freed += gone

    # Orders

    def _tell(self, order: Order) -> None:
        """Send an order to all workers, encoded once."""
        data = frame(order)
        for worker in self._workers.values():
            worker.order(data, order.order)

    async def _settle(self) -> None:
        """Wait until every worker has carried out the newest order. Raises PyproxyError."""
        order, limit_s = self._order, self._settings.patience_s * _PATIENCES
        try:
            async with asyncio.timeout(limit_s):
                while not self._is_settled(order):
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            serving = sum(w.acknowledged >= order for w in self._workers.values())
            raise PyproxyError(
                f"{serving} of {self._settings.count} workers took the newest table within"
                f" {limit_s:g} s; the log tells why the others did not"
            ) from None

    def _is_settled(self, order: int) -> bool:
        needed = int(not self._is_stopping) if self._has_served else self._settings.count
        workers = self._workers.values()
        return len(workers) >= needed and all(w.acknowledged >= order for w in workers)

    # What workers say

    def _receive(self, worker: WorkerProcess, message: ToAgent) -> None:
        match message:
            case Done():
                self._note_state(worker, message)
                self._progress.set()
            case Counts():
                worker.live_connections = message.live_connections
                self._metrics.pins_dropped += message.pins_dropped
                self._sum.add(worker.number, message, self._uses)
                if message.vitals is not None:
                    self._metrics.vitals[f"worker-{worker.number}"] = message.vitals
            case Answer() as part:
                rows = part.connections, part.endpoints
                self._questions.told(
                    part.question, worker.number, part.total, *rows, is_last=part.is_last
                )
            case EndpointCounts():
                self._sum.add_endpoints(worker.number, message)
            case Records():
                self._on_ended(message.ended, message.left_out)
            case Pins(pins=pins):
                self._spread(worker, [pin for pin in pins if pin.name in self._uses])

    def _note_state(self, worker: WorkerProcess, state: Done) -> None:
        worker.listening.difference_update(state.lost)
        worker.listening.update(state.bound)
        news = []
        known = self.bind_faults()
        for key, reason in state.faults:
            before = known.get(key)
            if reason:
                worker.faults[key] = reason
            else:
                worker.faults.pop(key, None)
            frontend, after = self._table.frontends.get(key), known.get(key)
            if frontend is None or after == before:
                continue
            if after is not None:
                news.append((frontend, after))
            elif self.is_listening(key):
                log.info("listening on %s after all", frontend)
        log_faults(news)

    def _spread(self, worker: WorkerProcess, pins: list[Pin]) -> None:
        """Let the other workers know, and those to come, where clients stick."""
        if not pins:
            return
        now_s = self._clock()
        for pin in pins:
            self._affinity.adopt(pin, now_s)
        data = frame(Pins(pins))
        for other in self._workers.values():
            if other is not worker and not other.offer(data):
                self._metrics.pins_dropped += len(pins)

    # Lives of workers

    async def run(self) -> None:
        """Keep the workers going, until cancelled; then end them at once."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._settings.count):
                group.create_task(self._keep(number))
            while True:
                await asyncio.sleep(PING_INTERVAL_S)
                self._order += 1
                self._tell(Ping(self._order))

    async def drain(self, timeout_s: float) -> None:
        """Let the workers take no new clients, drain and end."""
        self._is_stopping = True
        data = frame(Drain(timeout_s))
        for worker in self._workers.values():
            worker.send(data)
        # They cut by themselves what is left; one that does not is ended with `run`.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s + self._settings.patience_s):
                while self._workers:
                    self._progress.clear()
                    await self._progress.wait()

    def close(self) -> None:
        """Give the shared memory back. The workers end with `run`."""
        self._is_stopping = True
        self._memory.close()

    async def _keep(self, number: int) -> None:
        """Have a worker of this number, one after the other."""
        backoff, deaths = Backoff(base_s=0.5, cap_s=10.0), 0
        while True:
            started_s = self._clock()
            try:
                how = await self._live(number)
            except OSError as fault:
                how = f"cannot start worker {number}: {fault.strerror}"
            if self._is_stopping:
                return
            deaths = 0 if self._clock() - started_s >= _STEADY_S else deaths + 1
            if deaths <= 1:  # at once; only who keeps dying is given time
                backoff.reset()
                delay_s = 0.0
            else:
                delay_s = backoff.next_delay_s(random.random())  # noqa: S311  no secret
            when = f"in {delay_s:.1f} s" if delay_s else "at once"
            log.error("%s; another one is started %s", how, when)
            await asyncio.sleep(delay_s)
            self._metrics.worker_restarts += 1

    async def _live(self, number: int) -> str:
        """Start a worker and wait for its end; say how it ended. Raises OSError."""
        worker, status = WorkerProcess(number, self._receive, self._settings.patience_s), None
        try:
            level = log.getEffectiveLevel()
            await worker.start(hello_for(self._settings, number, self._memory.fd, level))
            self._introduce(worker)
            status = await worker.ended()
        finally:
            self._workers.pop(number, None)
            self._questions.lost(number)
            self._metrics.vitals.pop(f"worker-{number}", None)
            self._memory.clear(number)
            lost = self._sum.lost(number)
            self._progress.set()
            await worker.end()
        return f"{worker} ended: {cause_of_death(status)}; it had {lost} connections and UDP flows"

    def _introduce(self, worker: WorkerProcess) -> None:
        """Tell a new worker all that the others know, and from now on what changes."""
        self._workers[worker.number] = worker
        pins = self._affinity.pins(self._clock())
        while some := list(itertools.islice(pins, _PINS_AT_ONCE)):
            worker.send(frame(Pins(some)))
        if not self._order:
            return
        table, order = self._table, self._order
        what = packed(table.frontends.values())
        slots: list[tuple[ServiceName, int | None]] = list(self._slots.taken.items())
        snapshot = Table(order, table.generation, table.node, [], *what, slots)
        worker.order(frame(snapshot), order, is_first=True)
