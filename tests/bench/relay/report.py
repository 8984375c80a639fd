"""From what was measured to a table: medians, ratios, and whether a target is met."""

import datetime
import os
import platform
import statistics
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from pyproxy import __version__
from tests.bench.relay.proxies import version
from tests.bench.relay.scenarios import DIRECT, HAPROXY, NGINX, PYPROXY, Measured, Row, Scenario

# For each target, what was measured in each round.
Rounds = Mapping[str, list[Measured]]

_CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")
_COLUMNS = (DIRECT, PYPROXY, HAPROXY, NGINX)
_HEAD = ("", *_COLUMNS, "ratio", "target", "met")


def table(results: Iterable[tuple[Scenario, Rounds]]) -> list[tuple[str, ...]]:
    """A head, and a line for each row of each scenario."""
    lines = [line(row, rounds) for scenario, rounds in results for row in scenario.rows]
    return [_HEAD, *lines]


def line(row: Row, rounds: Rounds) -> tuple[str, ...]:
    """A row's title, its figures, the ratio, what it should be, and whether it is."""
    figures = {name: values(row, rounds, name) for name in rounds}
    subject = figures.get(row.subject, [])
    cells = [figures.get(name, []) for name in _COLUMNS]
    cells[_COLUMNS.index(PYPROXY)] = subject
    if row.metric == "cpu" or row.is_added:
        cells[_COLUMNS.index(DIRECT)] = []  # nothing stands between
    ratio = _ratio(subject, figures.get(row.other, [])) if row.other else None
    judged = ratio if row.other else _median(subject)
    return (
        row.title,
        *(shown(_median(cell), row.digits) for cell in cells),
        shown(ratio, 2),
        _target(row),
        _met(row, judged),
    )


def values(row: Row, rounds: Rounds, name: str) -> list[float]:
    """The figure of each round."""
    found = [measured[row.metric] * row.scale for measured in rounds[name]]
    if not row.is_added:
        return found
    direct = [measured[row.metric] * row.scale for measured in rounds.get(DIRECT, [])]
    return [figure - base for figure, base in zip(found, direct, strict=True)]


def shown(figure: float | None, digits: int) -> str:
    return "" if figure is None else f"{figure:,.{digits}f}"


def _median(figures: list[float]) -> float | None:
    return statistics.median(figures) if figures else None


def _ratio(subject: list[float], other: list[float]) -> float | None:
    return _median([a / b for a, b in zip(subject, other, strict=False)])


def _target(row: Row) -> str:
    if row.wanted is None:
        return ""
    sign, limit = row.wanted
    if row.other is None:
        return f"{sign} {limit:g}"
    return f"{sign} {limit:g} x {'one Service' if row.other == PYPROXY else row.other}"


def _met(row: Row, judged: float | None) -> str:
    if row.wanted is None or judged is None:
        return ""
    sign, limit = row.wanted
    # As it is shown: 1.0501 is not told as "1.05, not met".
    judged = round(judged, 2)
    return "yes" if (judged <= limit if sign == "<=" else judged >= limit) else "**no**"


def as_text(lines: list[tuple[str, ...]]) -> str:
    """For a terminal."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number in (0, 6) else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).replace("**", "")
        for cells in lines
    )


def as_markdown(lines: list[tuple[str, ...]]) -> str:
    """For a page."""
    rule = ("---", *["---:"] * 5, "---", "---")
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [lines[0], rule, *lines[1:]])


def conditions(command: str, rounds: int, workers: int) -> str:
    """On what, with what, when and how it was measured, as a list."""
    threads = max(workers, 1)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    today = datetime.datetime.now(datetime.UTC).date()
    facts = {
        "Machine": f"{_cpu_model()}, {os.cpu_count()} cores, {memory:.0f} GiB"
        + ("; a virtual machine" if "hypervisor" in _cpu_info() else ""),
        "Kernel": f"{platform.system()} {platform.release().partition('-')[0]}; TCP congestion"
        f" control: {_CONGESTION.read_text().strip()}",
        "pyproxy": f"{__version__}, workers: {workers}; CPython"
        f" {platform.python_version()}, uvloop {metadata.version('uvloop')}",
        "HAProxy": f"{version('haproxy').partition(' - ')[0]}; mode tcp, threads: {threads}",
        "nginx": f"{version('nginx').rpartition('/')[2]}; stream, workers: {threads}",
        "wrk, iperf3": f"{version('wrk').partition(' [')[0]}; {version('iperf3')}",
        "Date": f"{today}; load average after it {os.getloadavg()[0]:.1f}",
        "Command": f"`{command}`, {rounds} rounds",
    }
    return "\n".join(f"- {name}: {fact}" for name, fact in facts.items())


def _cpu_info() -> str:
    return Path("/proc/cpuinfo").read_text(encoding="utf-8")


def _cpu_model() -> str:
    names = [text for text in _cpu_info().splitlines() if text.startswith("model name")]
    return names[0].partition(":")[2].strip() if names else platform.machine()
