"""Giving out: by rounds, never by order of arrival."""

from hypothesis import given
from hypothesis import strategies as st

from pyproxy.core.allotment import allot


def test_who_loses_takes_nothing_from_those_who_wanted_it_first() -> None:
    choices = {"a": [1, 2], "b": [1, 2, 3], "c": [2]}
    got = allot({key: iter(wishes) for key, wishes in choices.items()})
    assert got == {"a": 1, "c": 2, "b": 3}


def test_what_is_taken_goes_to_nobody_and_who_has_no_choice_left_gets_nothing() -> None:
    assert allot({"a": iter([1, 2]), "b": iter([1])}, taken={1}) == {"a": 2}


def test_none_sits_a_round_out() -> None:
    assert allot({"a": iter([None, 1]), "b": iter([1])}) == {"b": 1}


@given(st.dictionaries(st.integers(0, 9), st.lists(st.integers(0, 5), max_size=6)), st.randoms())
def test_the_order_of_the_keys_is_nothing(choices: dict[int, list[int]], random: object) -> None:
    order = list(choices)
    random.shuffle(order)  # type: ignore[attr-defined]
    first = allot({key: iter(choices[key]) for key in choices})
    assert allot({key: iter(choices[key]) for key in order}) == first
    assert len(set(first.values())) == len(first)
    assert all(first[key] in choices[key] for key in first)
