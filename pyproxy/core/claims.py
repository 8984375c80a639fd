"""Who holds a key that several may claim: always the same one, in whatever order they came.

The claim of the lowest rank holds it. kube-proxy lets the last writer win, which depends on the
order of events; here two proxies that know the same objects serve the same table.
"""

from collections.abc import Hashable, Iterator, Mapping
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Claims(Generic[K, V]):
    """Claims by key. A rank is any tuple that sorts, and is unique among the claims of a key."""

    def __init__(self) -> None:
        self._holders: dict[K, V] = {}
        # Only keys that are contested stand here too: nearly none, so they cost nearly nothing.
        self._contested: dict[K, dict[tuple[Any, ...], V]] = {}
        self._ranks: dict[K, tuple[Any, ...]] = {}

    @property
    def holders(self) -> Mapping[K, V]:
        """The value of the claim that holds each key. Live: copy it to keep it."""
        return self._holders

    def put(self, key: K, rank: tuple[Any, ...], value: V) -> None:
        """Claim a key, or replace the value of the claim of this rank."""
        held = self._ranks.get(key)
        if held is None or (held == rank and key not in self._contested):
            self._holders[key], self._ranks[key] = value, rank
            return
        claims = self._contested.setdefault(key, {held: self._holders[key]})
        claims[rank] = value
        self._settle(key, claims)

    def remove(self, key: K, rank: tuple[Any, ...]) -> None:
        """Give up the claim of this rank; the next in rank holds the key then."""
        claims = self._contested.get(key)
        if claims is None:
            del self._holders[key], self._ranks[key]
            return
        del claims[rank]
        self._settle(key, claims)

    def rivals(self, key: K) -> Iterator[V]:
        """The values of all claims of a contested key, the holder's first."""
        claims = self._contested.get(key, {})
        return iter([claims[rank] for rank in sorted(claims)])

    def _settle(self, key: K, claims: dict[tuple[Any, ...], V]) -> None:
        rank = min(claims)
        self._holders[key], self._ranks[key] = claims[rank], rank
        if len(claims) == 1:
            del self._contested[key]
