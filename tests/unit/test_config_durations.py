"""Durations as Go reads and writes them (time.ParseDuration, Duration.String)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.config.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("-0", 0),
        ("0s", 0),
        ("1m30s", 90),
        ("24h0m0s", 86400),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("1.s", 1),
        ("250ms", 0.25),
        ("3us", 3e-6),
        ("3µs", 3e-6),
        ("4ns", 4e-9),
        ("-1m", -60),
        ("+1m", 60),
        ("1s1h", 3601),
    ],
)
def test_it_is_read_as_go_reads_it(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "1", "s", ".s", "1 s", "1d", "1m 30s", "--1s", "1S", "\u0661s", "1s\n", "1e3s"]
)
def test_what_go_does_not_read_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration such as 1m30s"):
        parse_duration(text)


def test_what_go_has_no_room_for_is_none() -> None:
    assert parse_duration("2562047h") > 9e9
    with pytest.raises(ValueError, match="more than 292 years"):
        parse_duration("2562048h")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.05, "50ms"),
        (0.000_25, "0.25ms"),
        (1, "1s"),
        (1.5, "1.5s"),
        (90, "1m30s"),
        (120, "2m0s"),
        (3600, "1h0m0s"),
        (86400.25, "24h0m0.25s"),
        (59.999_999_9, "1m0s"),
        (1e-9, "0s"),
    ],
)
def test_it_is_written_as_go_writes_it(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, 10**12))
def test_what_is_written_reads_as_the_same(micros: int) -> None:
    assert round(parse_duration(format_duration(micros / 1e6)) * 1e6) == micros
