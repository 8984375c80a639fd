"""Mappings and sets that never change; the next one shares with them nearly all that is the same.

Each event at the API server makes another table. To copy 10,000 entries for it takes 25 to 200 µs,
to compare them 500. So the entries stand in shards, by their hash: a change copies the shards that
it touches, and only those that are not shared are compared. That takes a few µs at 100 entries and
at 100,000.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Set
from typing import Any, TypeVar, overload

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
D = TypeVar("D")

# A change copies this many references, and 1/256 of the entries.
_SHARDS = 256
_MASK = _SHARDS - 1
_EMPTY: tuple[dict[Any, Any], ...] = ({},) * _SHARDS
_MISSING = object()


class PersistentMap(Mapping[K, V]):
    """A mapping that never changes. Its values are not None. No order is kept."""

    __slots__ = ("_length", "_shards")

    def __init__(self, entries: Mapping[K, V] | None = None) -> None:
        self._shards: tuple[dict[K, V], ...] = _EMPTY
        self._length = 0
        if entries:
            made = self.changed(entries)
            self._shards, self._length = made._shards, made._length

    def __getitem__(self, key: K) -> V:
        return self._shards[hash(key) & _MASK][key]

    @overload
    def get(self, key: K, /) -> V | None: ...
    @overload
    def get(self, key: K, /, default: V | D) -> V | D: ...
    def get(self, key: K, /, default: Any = None) -> Any:
        """As of any mapping; that of Mapping takes an exception for each key that is not there."""
        return self._shards[hash(key) & _MASK].get(key, default)

    def __contains__(self, key: object) -> bool:
        return key in self._shards[hash(key) & _MASK]

    def __iter__(self) -> Iterator[K]:
        for shard in self._shards:
            yield from shard

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f"{type(self).__name__}({dict(self)!r})"

    def changed(self, changes: Mapping[K, V | None]) -> "PersistentMap[K, V]":
        """Return the mapping with these entries put; None removes one, if it is there."""
        shards, length = list(self._shards), self._length
        copied: set[int] = set()
        for key, value in changes.items():
            number = hash(key) & _MASK
            if number not in copied:
                copied.add(number)
                shards[number] = dict(shards[number])
            shard = shards[number]
            length -= len(shard)
            if value is None:
                shard.pop(key, None)
            else:
                shard[key] = value
            length += len(shard)
        made: PersistentMap[K, V] = PersistentMap()
        made._shards, made._length = tuple(shards), length
        return made

    def differences(self, other: "PersistentMap[K, V]") -> set[K]:
        """Return the keys that only one of the two has, or that have other values."""
        found: set[K] = set()
        for ours, theirs in zip(self._shards, other._shards, strict=True):
            if ours is not theirs:
                found.update(key for key in ours if key not in theirs)
                found.update(k for k, v in theirs.items() if ours.get(k, _MISSING) != v)
        return found


class PersistentSet(Set[K]):
    """A set that never changes. No order is kept."""

    __slots__ = ("_items",)

    def __init__(self, items: Iterable[K] = ()) -> None:
        self._items: PersistentMap[K, bool] = PersistentMap(dict.fromkeys(items, True))

    def __contains__(self, item: object) -> bool:
        return item in self._items

    def __iter__(self) -> Iterator[K]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({set(self)!r})"

    def changed(self, items: Mapping[K, bool]) -> "PersistentSet[K]":
        """Return the set with the items that are True, and without those that are False."""
        made: PersistentSet[K] = PersistentSet()
        made._items = self._items.changed({item: is_in or None for item, is_in in items.items()})
        return made

    def differences(self, other: "PersistentSet[K]") -> set[K]:
        """Return the items that only one of the two has."""
        return self._items.differences(other._items)
