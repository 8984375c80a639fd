"""The command."""

import argparse
import os
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.relay import report
from tests.bench.relay.proxies import MANY_SERVICES, Setup, Target, find
from tests.bench.relay.scenarios import DIRECT, HAPROXY, MANY, NGINX, PYPROXY, SCENARIOS, Scenario
from tests.bench.relay.udp import FLOWS

if TYPE_CHECKING:
    from collections.abc import Callable

_PAGE = """\
# Benchmarks

pyproxy beside HAProxy and nginx stream, and no proxy at all, on one machine. Written by
`make bench`: run it on yours, since figures differ from machine to machine, and ratios less so.

{conditions}

{table}

How to read it:

- All are in front of the same backends, on loopback, with as many processes or threads each. A
  round runs all of them one after the other, in changing order. Figures are medians over the
  rounds; a ratio is the median of the ratios within each round.
- CPU is the user and system time of all the proxy's processes, pyproxy's agent included. What the
  backend and the client use is not in it, but they share the cores with the proxy: rates say how
  much the whole of client, proxy and backend gets done.
- Kept and short connections: wrk with 64 connections and an answer of 128 bytes from nginx. Bulk:
  iperf3, one connection, client to server; HAProxy and nginx as they come, without splicing.
- Added latency: what comes on top of the answer time without a proxy, at 1,000 requests a second,
  sent at their time whatever the answers do.
- UDP: {flows} flows with 8 datagrams of 64 bytes on their way each; HAProxy forwards no UDP.
"""


def main() -> None:
    """Measure, print, and write the page when asked to."""
    options = _arguments()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted = [s for s in SCENARIOS if not options.only or s.name in options.only]
    rounds = options.rounds or (3 if options.quick else 5)
    began_s = time.monotonic()
    results = []
    with Setup() as setup:
        fleet = Fleet(setup, options.workers)
        for scenario in wanted:
            if missing := [name for name in scenario.needs if find(name) is None]:
                print(f"{scenario.name}: left out, not installed: {', '.join(missing)}")
                continue
            duration_s = options.seconds or (1 if options.quick else scenario.duration_s)
            asked = scenario.rounds or rounds
            results.append((scenario, measured(scenario, fleet, asked, duration_s)))
    lines = report.table(results)
    print(report.as_text(lines))
    print(f"in {time.monotonic() - began_s:.0f} s; load {os.getloadavg()[0]:.1f}")
    if options.write is not None:
        conditions = report.conditions(_command(options), rounds, options.workers)
        table = report.as_markdown(lines)
        page = _PAGE.format(conditions=conditions, table=table, flows=FLOWS)
        options.write.write_text(page, encoding="utf-8")


class Fleet:
    """The targets, each started when it is first asked for."""

    def __init__(self, setup: Setup, workers: int) -> None:
        threads = max(workers, 1)
        self._starters: dict[str, Callable[[], Target | None]] = {
            PYPROXY: lambda: setup.pyproxy(workers),
            HAPROXY: lambda: setup.haproxy(threads),
            NGINX: lambda: setup.nginx(threads),
            MANY: lambda: setup.pyproxy(workers, MANY_SERVICES),
        }
        self._started: dict[str, Target | None] = {DIRECT: setup.backends()}

    def get(self, name: str) -> Target | None:
        """A target, or None when its program is missing."""
        if name not in self._started:
            found = self._started[name] = self._starters[name]()
            if found is None:
                print(f"{name}: left out, it is not installed")
        return self._started[name]


def measured(scenario: Scenario, fleet: Fleet, rounds: int, duration_s: int) -> report.Rounds:
    """Run a scenario on all of its targets, in turn."""
    targets = [found for name in scenario.targets if (found := fleet.get(name)) is not None]
    results: report.Rounds = {target.name: [] for target in targets}
    for number in range(rounds):
        first = number % len(targets)
        for target in (*targets[first:], *targets[:first]):
            results[target.name].append(scenario.measure(target, duration_s))
        print(f"{scenario.name}: round {number + 1} of {rounds}", file=sys.stderr)
    return results


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.relay", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 rounds of a second each")
    parser.add_argument("--rounds", type=int, help="else 5, or 3 if quick")
    parser.add_argument("--seconds", type=int, help="of each run")
    parser.add_argument("--only", nargs="+", choices=[s.name for s in SCENARIOS])
    parser.add_argument(
        "--workers",
        type=int,
        default=min(os.cpu_count() or 1, 8),
        help="of pyproxy, and threads of the others; else one for each core",
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="the page to write")
    return parser.parse_args()


def _command(options: argparse.Namespace) -> str:
    """What measures this again; where the page goes is the Makefile's business."""
    arguments = [text for text in sys.argv[1:] if text not in {"--write", str(options.write)}]
    return "make bench" + (f' BENCH_ARGS="{" ".join(arguments)}"' if arguments else "")


if __name__ == "__main__":
    main()
