"""The live counts of several processes, in memory that they share.

A row for each Service that has a slot, a cell in it for each process. A process writes its own
cells only, so nothing is locked: an aligned store of 8 bytes is seen whole or not at all. What two
processes publish at the same moment, both see or one of them: a limit may be missed by as many
connections as there are processes, and the next one sees it.
"""

import mmap
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyproxy.model.service import ServiceName

# Services with a slot at once; further ones are counted by each process alone. The pages of slots
# that nobody uses take no memory.
SLOTS = 16_384
_CELL_BYTES = 8


class SharedMemory:
    """The cells, `SLOTS` rows of `processes` each. `fd`: of the memory, for other processes."""

    def __init__(self, processes: int, fd: int | None = None) -> None:
        self.processes = processes
        size = SLOTS * processes * _CELL_BYTES
        if fd is None:
            # Nameless, and gone with the last process that has it (memfd_create(2)).
            fd = os.memfd_create("pyproxy-live-counts")
            os.ftruncate(fd, size)
        self.fd = fd
        self._memory = mmap.mmap(fd, size)
        self.cells = memoryview(self._memory).cast("q")

    def clear(self, process: int) -> None:
        """Zero the cells of a process that is gone."""
        self.cells[process :: self.processes] = memoryview(bytearray(SLOTS * _CELL_BYTES)).cast("q")

    def close(self) -> None:
        """Give the memory back. May be called twice."""
        self.cells.release()
        if not self._memory.closed:
            self._memory.close()
            os.close(self.fd)


class SharedCounts:
    """The live counts as one of the processes sees them. process: its number, from 0 on."""

    def __init__(self, memory: SharedMemory, process: int) -> None:
        self._cells = memory.cells
        self._processes = memory.processes
        self._process = process
        self._rows: dict[ServiceName, int] = {}

    def assign(self, slots: "Iterable[tuple[ServiceName, int | None]]") -> None:
        """Take these slots for these Services; None: it has none any more."""
        for service, slot in slots:
            before = self._rows.pop(service, None)
            if before is not None:
                self._cells[before + self._process] = 0
            if slot is not None:
                row = self._rows[service] = slot * self._processes
                self._cells[row + self._process] = 0  # what the slot's last Service left

    def publish(self, service: "ServiceName", live: int) -> int:
        """Tell how many connections of a Service this process holds; return those of all."""
        row = self._rows.get(service)
        if row is None:
            return live
        self._cells[row + self._process] = live
        return sum(self._cells[row : row + self._processes])


class Slots:
    """Which Service has which slot. Kept by the one process that gives them out."""

    def __init__(self) -> None:
        self._free = list(reversed(range(SLOTS)))
        self.taken: dict[ServiceName, int] = {}

    def take(self, service: "ServiceName") -> int | None:
        """Give a Service a slot. None when it has one already, or none is left."""
        if service in self.taken or not self._free:
            return None
        slot = self.taken[service] = self._free.pop()
        return slot

    def free(self, service: "ServiceName") -> None:
        """Take the slot of a Service back."""
        self._free.append(self.taken.pop(service))
