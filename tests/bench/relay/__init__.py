"""pyproxy beside HAProxy and nginx stream on one machine: CPU, rate, latency and memory.

    python -m tests.bench.relay [--quick] [--only SCENARIO ...] [--workers N] [--write FILE]

Every proxy is a process of its own in front of the same backends, all on loopback. A round runs all
of them one after the other, in an order that changes with the round; figures are medians over the
rounds, and ratios are medians of the ratio within each round, so that a machine that is slow for a
while is slow for everyone.
"""
