"""Persistent maps and sets: a change makes another one, and leaves the one before as it was."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pyproxy.model.persistent import PersistentMap, PersistentSet

KEYS = st.integers(0, 600)  # more than there are shards
CHANGES = st.lists(st.dictionaries(KEYS, st.none() | st.text(max_size=2), max_size=20))


@settings(deadline=None)
@given(CHANGES)
def test_a_map_is_what_a_dict_would_be(history: list[dict[int, str | None]]) -> None:
    model: dict[int, str] = {}
    made: PersistentMap[int, str] = PersistentMap()
    seen: list[tuple[PersistentMap[int, str], dict[int, str]]] = []
    for changes in history:
        before = dict(model)
        for key, value in changes.items():
            if value is None:
                model.pop(key, None)
            else:
                model[key] = value
        known, made = made, made.changed(changes)
        seen.append((made, dict(model)))
        different = {k for k in before.keys() | model.keys() if before.get(k) != model.get(k)}
        assert known.differences(made) == made.differences(known) == different
    for persistent, expected in seen:  # at the end: later changes have left it alone
        assert persistent == expected == PersistentMap(expected)
        assert len(persistent) == len(expected)
        assert all(key in persistent and persistent[key] == expected[key] for key in expected)


def test_a_map_says_what_it_does_not_have() -> None:
    made = PersistentMap({"a": 1})
    assert (made.get("a"), made.get("b"), made.get("b", 2)) == (1, None, 2)
    assert "b" not in made
    assert repr(made) == "PersistentMap({'a': 1})"


def test_only_touched_parts_are_looked_at() -> None:
    """Values that cannot be compared stand for all that is shared."""

    class Incomparable:
        def __eq__(self, other: object) -> bool:
            raise AssertionError

        __hash__ = None  # type: ignore[assignment]  # as for whoever defines __eq__

    before: PersistentMap[int, object] = PersistentMap({n: Incomparable() for n in range(200)})
    assert before.differences(before.changed({200: 1})) == {200}


@settings(deadline=None)
@given(st.sets(KEYS), st.dictionaries(KEYS, st.booleans()))
def test_a_set_is_what_a_set_would_be(items: set[int], changes: dict[int, bool]) -> None:
    before = PersistentSet(items)
    after = before.changed(changes)
    expected = items - changes.keys() | {item for item, is_in in changes.items() if is_in}
    assert set(before) == items
    assert set(after) == expected
    assert len(after) == len(expected)
    assert before.differences(after) == items ^ expected
    assert repr(PersistentSet("a")) == "PersistentSet({'a'})"
