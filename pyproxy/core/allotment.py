"""Giving each of many keys a thing of its own, by what each would like best.

Nobody's order of arrival decides. Choices are given out in rounds: in each, every key that has
nothing yet asks for its next choice, and the smallest key gets it. So who loses a thing moves to
its own next choice, and takes that from nobody who wanted it first.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Protocol, Self, TypeVar


class Ordered(Protocol):
    """What can be sorted."""

    def __lt__(self, other: Self, /) -> bool: ...
    def __hash__(self) -> int: ...


K = TypeVar("K", bound=Ordered)
V = TypeVar("V")


def allot(choices: Mapping[K, Iterator[V | None]], taken: Collection[object] = ()) -> dict[K, V]:
    """Return what each key got. None as a choice sits a round out.

    taken: what nobody gets. A key without a choice left gets nothing, and is not in the answer.
    """
    given: dict[K, V] = {}
    gone: set[object] = set(taken)
    waiting = sorted(choices)
    while waiting:
        still_waiting = []
        for key in waiting:
            try:
                choice = next(choices[key])
            except StopIteration:
                continue
            if choice is None or choice in gone:
                still_waiting.append(key)
            else:
                gone.add(choice)
                given[key] = choice
        waiting = still_waiting
    return given
