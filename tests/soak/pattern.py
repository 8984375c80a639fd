"""Bytes that tell where in which stream they belong, so that any slice of one can be checked.

Each stream reads one block of random bytes over and over, from a start of its own. The block's size
is prime: a piece that is lost, doubled or misplaced by the size of any buffer does not match.
"""

import random

PATTERN_BYTES = 1_048_583  # the first above 1 MiB, which is the most that is read at once
# Twice, so that any piece of up to the block's size is in one part.
_PATTERN = random.Random(1).randbytes(PATTERN_BYTES) * 2
# Bytes that occur nowhere else in it, as good as surely.
_ENOUGH = 16
_VIEW = memoryview(_PATTERN)


def piece(seed: int, offset: int, size: int) -> memoryview:
    """Return `size` bytes, at most PATTERN_BYTES, of stream `seed` from `offset` on."""
    start = _start(seed, offset)
    return _VIEW[start : start + size]


def matches(seed: int, offset: int, data: memoryview) -> bool:
    """Whether this is what stream `seed` has at `offset`."""
    return _PATTERN.startswith(data, _start(seed, offset))


def difference(seed: int, offset: int, data: memoryview) -> str:
    """Say from where on this is not what stream `seed` has at `offset`, and what it is instead."""
    # Halving: the longest part from the beginning that matches.
    good, bad = 0, len(data)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if matches(seed, offset, data[:middle]) else (good, middle)
    text = f"from byte {offset + good} on, of {len(data)} read at {offset}: "
    found = _PATTERN.find(data[good : good + _ENOUGH])
    if len(data) - good < _ENOUGH or found < 0:
        return text + "bytes of no stream"
    return text + f"bytes of this stream {(found - _start(seed, offset + good)) % PATTERN_BYTES} on"


def _start(seed: int, offset: int) -> int:
    return (seed * 7919 + offset) % PATTERN_BYTES
