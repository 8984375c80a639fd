"""What a soak has found, as text."""

from collections.abc import Iterable

from tests.soak.run import Plan
from tests.soak.verdict import Crowd, Evidence, is_excused

_MIB = 1 << 20
_FULL_BYTES = 10_000_000_000


def report(plan: Plan, evidence: Evidence) -> str:
    """The tables, and the verdict."""
    violations = evidence.violations()
    parts = [
        _table(_requests(evidence)),
        _table([("what happened", "times"), *((n, str(c)) for n, c in _events(evidence))]),
        _table(_processes(evidence)),
        _crowd(evidence.flood),
        _crowd(evidence.crowd),
        _integrity(evidence),
        "every claim holds" if not violations else "NOT AS CLAIMED:",
        *(f"  {violation}" for violation in violations),
    ]
    if violations:
        killed = ", ".join(f"{kill.told_s:.1f}" for kill in evidence.kills)
        parts.append(f"workers were killed at {killed or 'no time'} (monotonic clock)")
        parts += ["the agent's log ends:", *evidence.log[-20:]]
        parts.append(f"again: python -m tests.soak --seed {plan.seed} --minutes {plan.minutes:g}")
    return "\n".join(["", *parts])


def _requests(evidence: Evidence) -> Iterable[tuple[str, ...]]:
    yield ("requests", "ok", "failed", "by a killed worker", "MB up", "MB down")
    tally = evidence.tally
    for kind in sorted({*tally.ok, *(one.kind for one in tally.failures)}):
        failures = [one for one in tally.failures if one.kind == kind]
        excused = sum(is_excused(one, evidence.kills) for one in failures)
        yield (
            kind,
            f"{tally.ok[kind]:,}",
            str(len(failures) - excused),
            str(excused),
            f"{tally.uploaded[kind] / 1e6:,.1f}",
            f"{tally.downloaded[kind] / 1e6:,.1f}",
        )


def _events(evidence: Evidence) -> Iterable[tuple[str, int]]:
    metrics = evidence.metrics
    yield from sorted(evidence.events.items())
    yield "workers restarted by the agent", metrics["pyproxy_worker_restarts_total"]
    yield "watches begun anew", metrics["pyproxy_watch_restarts_total"]
    yield "connect attempts", metrics["pyproxy_connect_attempts_total"]
    yield "UDP flows moved", metrics["pyproxy_udp_flows_moved_total"]
    yield "UDP requests sent again", evidence.tally.udp_retries


def _processes(evidence: Evidence) -> Iterable[tuple[str, ...]]:
    yield ("process", "descriptors before", "after", "MiB before", "warm", "after")
    for role, processes in evidence.after.items():
        before = evidence.before[role]
        for held in processes:
            yield (
                role,
                str(before.files.total()),
                str(held.files.total()),
                f"{before.rss_bytes / _MIB:.0f}",
                f"{evidence.warm[role] / _MIB:.0f}",
                f"{held.rss_bytes / _MIB:.0f}",
            )


def _crowd(crowd: Crowd) -> str:
    return (
        f"{crowd.clients:,} {crowd.name} at the end, {crowd.passed_on:,} passed on; the most in one"
        f" process: {crowd.most_files:,} descriptors, {crowd.most_bytes / _MIB:.0f} MiB"
    )


def _integrity(evidence: Evidence) -> str:
    tally = evidence.tally
    moved = sum(tally.uploaded.values()) + sum(tally.downloaded.values())
    of_full = "" if moved >= _FULL_BYTES else ", as far as the time went: a full soak has 10 GB"
    return f"{moved / 1e9:.2f} GB checked byte by byte{of_full}\n"


def _table(lines: Iterable[tuple[str, ...]]) -> str:
    rows = list(lines)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return (
        "\n".join(
            "  ".join(
                cell.rjust(width) if number else cell.ljust(width)
                for number, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        )
        + "\n"
    )
