"""The agent's end of the access log: takes what has ended, and has lines of it written.

Workers know an endpoint by its address only; the agent knows its pod and node. It names them, and
limits the rate over all workers. Where the lines go is a thread's business (pyproxy.ops.line_file).
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from pyproxy.core.access_line import json_line, record_of, text_line
from pyproxy.core.access_log import AccessRules, Limiter
from pyproxy.core.store import Store
from pyproxy.metrics import Metrics
from pyproxy.model.ended import Ended
from pyproxy.model.service import ServiceName
from pyproxy.ops.line_file import LineFile, Tally

log = logging.getLogger(__name__)

# How long a record waits in the process that forwards, and again here, at most.
TAKE_INTERVAL_S = 0.5
# How often the log tells how much was left out.
_TELL_INTERVAL_S = 60.0


class AccessLogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """path: of the file; None: standard output."""

    rules: AccessRules = AccessRules()
    format: Literal["text", "json"] = "text"
    path: str | None = None


class AccessLog:
    """take: of a forwarder in this process; its records come without being sent."""

    def __init__(
        self,
        settings: AccessLogSettings,
        store: Store,
        metrics: Metrics,
        unix_clock: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.take: Callable[[], tuple[list[Ended], int]] | None = None
        self._rules = settings.rules
        self._store = store
        self._counted = metrics.access_log
        self._clock, self._unix_clock = clock, unix_clock
        self._limiter = Limiter(settings.rules.records_per_second)
        self._line = json_line if settings.format == "json" else text_line
        self._file: LineFile | None = None
        if settings.rules.mode != "off":
            self._file = LineFile(settings.path, clock)
        self._tally = Tally(0, 0)
        self._told = Counter[str]()

    async def run(self) -> None:
        """Take and count now and then, until cancelled."""
        if self._file is not None:
            self._file.start()
        next_tell_s = self._clock() + _TELL_INTERVAL_S
        while True:
            await asyncio.sleep(TAKE_INTERVAL_S)
            self._take()
            if self._clock() >= next_tell_s:
                next_tell_s += _TELL_INTERVAL_S
                self._tell()

    def add(self, records: Sequence[Ended], left_out: int) -> None:
        """Write these within the rate; so many were left out already where they come from."""
        if self._file is None:
            return
        offset_s = self._unix_clock() - self._clock()
        named: dict[ServiceName, dict[str, tuple[str, str]]] = {}
        lines = []
        for ended in records:
            if self._limiter.allows(ended.service_port, ended.reason, ended.ended_s):
                pod, node = self._names(ended, named)
                lines.append(self._line(record_of(ended, ended.ended_s + offset_s, pod, node)))
        self._counted["limited"] += left_out + self._limiter.left_out
        self._limiter.left_out = 0
        self._file.write(lines)

    def close(self) -> None:
        """Write what there is, if that can be done soon."""
        if self._file is not None:
            self._take()
            self._file.close()
            self._count()

    def _take(self) -> None:
        if self.take is not None:
            self.add(*self.take())
        self._count()

    def _names(
        self, ended: Ended, named: dict[ServiceName, dict[str, tuple[str, str]]]
    ) -> tuple[str, str]:
        """Pod and node of its endpoint, as long as that is in a slice of the Service."""
        if ended.endpoint is None:
            return "", ""
        service = ended.service_port.service
        if service not in named:
            named[service] = {
                e.address: (e.pod, e.node_name)
                for endpoint_slice in self._store.slices_of(service)
                for e in endpoint_slice.endpoints
            }
        return named[service].get(ended.endpoint[0], ("", ""))

    def _count(self) -> None:
        if self._file is not None:
            before, self._tally = self._tally, self._file.tally
            self._counted["written"] += self._tally.written - before.written
            self._counted["dropped"] += self._tally.lost - before.lost

    def _tell(self) -> None:
        limited = self._counted["limited"] - self._told["limited"]
        self._told = self._counted.copy()
        if limited:
            log.warning(
                "the access log left out %d records of the last minute: more than %d a second"
                " (accessLog.recordsPerSecond)",
                limited,
                self._rules.records_per_second,
            )
