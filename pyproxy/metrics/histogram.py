"""Histograms as lists of ints: cheap to add to, and to send from one process to another.

A list has the count of each bucket, that of what is above all bounds, and the sum in microseconds.
"""

from bisect import bisect_left

# Of getting a client to an endpoint: within a node, across a rack, and up to the deadline.
CONNECT_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
# Of a connection: one request of 10 ms, or one that a database client keeps for a day.
DURATION_BOUNDS_S = (0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 21600.0, 86400.0)


def empty(bounds: tuple[float, ...]) -> list[int]:
    """A histogram without observations."""
    return [0] * (len(bounds) + 2)


def observe(histogram: list[int], bounds: tuple[float, ...], seconds: float) -> None:
    """Add an observation."""
    histogram[bisect_left(bounds, seconds)] += 1
    histogram[-1] += int(seconds * 1e6)


def cumulative(histogram: list[int], bounds: tuple[float, ...]) -> tuple[list[int], float]:
    """Return the counts of all up to each bound, the last without one, and the sum in seconds."""
    counts, total = [], 0
    for count in histogram[: len(bounds) + 1]:
        total += count
        counts.append(total)
    return counts, histogram[-1] / 1e6
