"""Whether the soak's claims hold, by what was counted and measured. It asks nobody."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.soak.processes import Holdings
from tests.soak.tally import Failure, Tally
from tests.soak.trouble import Kill

# How long after a worker's end its connections may still be found broken: by clients that are slow
# to look. A connection that was begun later than the kernel may have given it to the dead worker
# has no such excuse.
WINDOW_S = 5.0
_DYING_S = 0.1
# Idle pipes are kept, for the next bulk data (pyproxy.forward.pipes.MAX_PIPES, two ends each).
_MOST_PIPES = 64
# Of the agent only: kept HTTP connections, of the API client and of who looks at its ports.
_MORE_FILES = 8
# Above what was held when warm: the allocator's, and as much again for what load leaves in it.
_MORE_BYTES = 48 << 20


# The most flows (ForwardSettings.max_udp_flows), and some more.
_FLOOD_FILES = 16_384 + 2_000
# Two for each of 20,000 connections, were one worker to have all of them.
_CROWD_FILES = 40_000 + 2_000
# What a process may hold while very many clients are there.
_CROWD_BYTES = 256 << 20


def is_excused(failure: Failure, kills: Iterable[Kill]) -> bool:
    """Whether a worker's death explains a failure: its connection was open then, and broke then."""
    return any(
        failure.began_s <= kill.ended_s + _DYING_S
        and kill.told_s <= failure.failed_s <= kill.ended_s + WINDOW_S
        for kill in kills
    )


@dataclass
class Crowd:
    """Very many clients: how many, how many got through, and the most that a process held then.

    loss: the share of them that may be lost.
    """

    name: str
    most_allowed_files: int
    loss: float
    clients: int = 0
    passed_on: int = 0
    most_files: int = 0
    most_bytes: int = 0

    def violations(self) -> list[str]:
        found = []
        if self.passed_on < self.clients * (1 - self.loss):
            found.append(f"only {self.passed_on} of {self.clients} {self.name} came through")
        if self.most_files > self.most_allowed_files:
            found.append(f"a process had {self.most_files} descriptors for {self.name}")
        if self.most_bytes > _CROWD_BYTES:
            found.append(f"a process held {self.most_bytes >> 20} MiB for {self.name}")
        return found


@dataclass
class Evidence:
    """All that a run has found.

    cut: requests that endpoints saw breaking off. before: what the agent and each worker held
    before the load; warm: the most memory that any process held while warm, by its role; after:
    when all was over. left: counts that should be zero at the end.
    """

    tally: Tally = field(default_factory=Tally)
    cut: list[Failure] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    before: dict[str, Holdings] = field(default_factory=dict)
    warm: dict[str, int] = field(default_factory=dict)
    after: dict[str, list[Holdings]] = field(default_factory=dict)
    left: Counter[str] = field(default_factory=Counter)
    flood: Crowd = field(default_factory=lambda: Crowd("UDP clients", _FLOOD_FILES, loss=0.5))
    crowd: Crowd = field(default_factory=lambda: Crowd("silent clients", _CROWD_FILES, loss=0))
    exit_status: int | None = None
    left_processes: list[int] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    metrics: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)

    def excused(self) -> list[Failure]:
        """The failures of clients that a worker's death explains."""
        return [one for one in self.tally.failures if is_excused(one, self.kills)]

    def violations(self) -> list[str]:
        """Every claim that does not hold, in words; none: all is well."""
        failures = Counter(
            f"{one.kind}: {one.reason}"
            for one in (*self.tally.failures, *self.cut)
            if not is_excused(one, self.kills)
        )
        found = [f"{count} failed requests, {what}" for what, count in failures.items()]
        found += [f"{count} times {what}" for what, count in Counter(self.broken).items()]
        found += [*self.faults, *self.flood.violations(), *self.crowd.violations()]
        found += [f"{count} {what} left" for what, count in self.left.items() if count]
        for role, processes in self.after.items():
            for held in processes:
                found += [f"a process ({role}) {what}" for what in self._leaks(role, held)]
        if self.exit_status != 0:
            found.append(f"the agent's exit status is {self.exit_status}")
        found += [f"the process {pid} outlives the agent" for pid in self.left_processes]
        found += [f"in the log: {line}" for line in self.log if "Traceback" in line]
        if not sum(self.tally.ok.values()):
            found.append("no request has succeeded")
        return found

    def _leaks(self, role: str, held: Holdings) -> list[str]:
        before, found = self.before[role], []
        for kind, count in held.files.items():
            most = before.files[kind] + (_MORE_FILES if role == "agent" else 0)
            if count > (max(most, _MOST_PIPES) if kind == "pipe" else most):
                found.append(f"has {count} descriptors of kind {kind}, not {before.files[kind]}")
        if held.threads > before.threads:
            found.append(f"has {held.threads} threads, not {before.threads}")
        if held.rss_bytes > self.warm[role] + _MORE_BYTES:
            found.append(f"holds {held.rss_bytes >> 20} MiB, {self.warm[role] >> 20} when warm")
        return found
