"""Who holds a contested key does not depend on the order in which the claims came."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyproxy.core.claims import Claims


@pytest.fixture
def claims() -> Claims[str, str]:
    return Claims()


def test_the_lowest_rank_holds_the_key_whenever_it_comes(claims: Claims[str, str]) -> None:
    claims.put("k", (2,), "second")
    assert claims.holders == {"k": "second"}
    claims.put("k", (1,), "first")
    claims.put("k", (3,), "third")
    assert claims.holders == {"k": "first"}
    assert list(claims.rivals("k")) == ["first", "second", "third"]


def test_the_next_in_rank_takes_over(claims: Claims[str, str]) -> None:
    for rank in (3, 1, 2):
        claims.put("k", (rank,), f"v{rank}")
    claims.remove("k", (1,))
    assert claims.holders == {"k": "v2"}
    claims.remove("k", (3,))
    assert claims.holders == {"k": "v2"}
    assert list(claims.rivals("k")) == []
    claims.remove("k", (2,))
    assert claims.holders == {}


def test_a_claim_is_replaced_in_place(claims: Claims[str, str]) -> None:
    claims.put("k", (1,), "old")
    claims.put("k", (1,), "new")
    assert claims.holders == {"k": "new"}
    assert list(claims.rivals("k")) == []
    claims.put("k", (2,), "rival")
    claims.put("k", (1,), "newer")
    claims.put("k", (2,), "newer rival")
    assert list(claims.rivals("k")) == ["newer", "newer rival"]


def test_keys_have_nothing_to_do_with_each_other(claims: Claims[str, str]) -> None:
    claims.put("a", (2,), "x")
    claims.put("b", (1,), "y")
    assert claims.holders == {"a": "x", "b": "y"}
    claims.remove("a", (2,))
    assert claims.holders == {"b": "y"}


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 4), st.booleans())))
def test_any_history_gives_what_the_present_claims_give(steps: list[tuple[str, int, bool]]) -> None:
    claims: Claims[str, int] = Claims()
    present: dict[tuple[str, int], int] = {}
    for number, (key, rank, is_put) in enumerate(steps):
        if is_put:
            claims.put(key, (rank,), number)
            present[key, rank] = number
        elif (key, rank) in present:
            claims.remove(key, (rank,))
            del present[key, rank]
        by_key = {
            k: [present[pair] for pair in sorted(present) if pair[0] == k]
            for k in {key for key, _ in present}
        }
        assert claims.holders == {k: values[0] for k, values in by_key.items()}
        for k, values in by_key.items():
            assert list(claims.rivals(k)) == (values if len(values) > 1 else [])
