"""The keys of the live table, and which rows they leave in which order."""

import pytest

from pyproxy.cli.local_choices import SORTS, Choices, keys_of
from pyproxy.cli.local_traffic import Traffic
from pyproxy.core.local_service import Claimant
from pyproxy.core.local_table import Row


def row(name: str, address: str = "127.1.1.1") -> Row:
    return Row(claimant=Claimant("kind", "shop", name), kind="ClusterIP", address=address)


ROWS = (row("api"), row("db", "127.9.9.9"), row("web"))
TOTALS = {
    ROWS[0].claimant: Traffic(active=1, errors=5),
    ROWS[1].claimant: Traffic(active=3),
}
RATES = {ROWS[2].claimant: Traffic(size=7)}


def names(choices: Choices) -> list[str]:
    return [row.claimant.name for row in choices.rows(ROWS, TOTALS, RATES)]


def press(*keys: str) -> Choices:
    choices = Choices()
    for key in keys:
        choices.press(key)
    return choices


def test_a_chunk_of_input_is_keys_and_an_escape_sequence_is_one() -> None:
    assert list(keys_of("q\x1b[A\x1b[5~\x1bOAé\x1b")) == [
        "q",
        "\x1b[A",
        "\x1b[5~",
        "\x1bOA",
        "é",
        "\x1b",
    ]


@pytest.mark.parametrize(
    ("times", "order"),
    [
        (0, ["api", "db", "web"]),
        (1, ["db", "api", "web"]),
        (2, ["web", "api", "db"]),
        (3, ["api", "db", "web"]),
        (len(SORTS), ["api", "db", "web"]),
    ],
)
def test_s_sorts_by_the_next_column_and_the_greatest_comes_first(
    times: int, order: list[str]
) -> None:
    assert names(press(*"s" * times)) == order


def test_a_filter_is_typed_and_kept_with_enter() -> None:
    choices = press(*"/DX\x7fB\n")
    assert (choices.filter, choices.is_typing) == ("DB", False)
    assert names(choices) == ["db"]
    choices.press("q")
    assert choices.has_quit


def test_a_filter_finds_addresses_too() -> None:
    assert names(press(*"/9.9.9")) == ["db"]


def test_while_a_filter_is_typed_other_keys_mean_nothing() -> None:
    choices = press(*"/qs", "\x1b[A")
    assert (choices.filter, choices.sort, choices.has_quit) == ("qs", 0, False)


@pytest.mark.parametrize("keys", ["/db\x1b", "/db\n\x1b"])
def test_escape_drops_the_filter(keys: str) -> None:
    choices = press(*keys)
    assert (choices.filter, choices.is_typing) == ("", False)


def test_scrolling_stays_within_the_rows() -> None:
    choices = press("k")
    assert choices.scrolled(100, 20) == 0
    choices.press("\x1b[6~")
    choices.press("j")
    assert choices.scrolled(100, 20) == 11
    assert choices.scrolled(5, 20) == 0
