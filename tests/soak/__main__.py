"""python -m tests.soak --minutes N [--workers W] [--seed S]: run a soak and print its table."""

import argparse
import asyncio
import random
import sys

from tests.soak.report import report
from tests.soak.run import Plan, soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--flood", type=int, default=None, metavar="SOURCES")
    parser.add_argument("--crowd", type=int, default=20_000, metavar="CLIENTS")
    arguments = parser.parse_args()
    is_full = arguments.minutes >= 10
    flood = (1_000_000 if is_full else 50_000) if arguments.flood is None else arguments.flood
    plan = Plan(arguments.minutes, arguments.workers, arguments.seed, flood, arguments.crowd)
    print(f"soaking for {plan.minutes:g} minutes, {plan.workers} workers, seed {plan.seed}")
    evidence = asyncio.run(soak(plan, lambda line: print(line, flush=True)))
    print(report(plan, evidence))
    return 1 if evidence.violations() else 0


if __name__ == "__main__":
    sys.exit(main())
