"""Full jitter, and what Retry-After says."""

from datetime import UTC, datetime

import pytest

from pyproxy.core.backoff import Backoff, parse_retry_after

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_the_ceiling_doubles_with_each_failure_up_to_the_cap() -> None:
    backoff = Backoff(base_s=1.0, cap_s=30.0)
    assert [backoff.next_delay_s(0.5) for _ in range(7)] == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]


def test_the_wait_may_be_nothing() -> None:
    assert Backoff().next_delay_s(0.0) == 0.0


def test_a_reset_starts_over() -> None:
    backoff = Backoff(base_s=1.0, cap_s=30.0)
    for _ in range(5):
        backoff.next_delay_s(0.5)
    assert backoff.failures == 5
    backoff.reset()
    assert backoff.failures == 0
    assert backoff.next_delay_s(0.5) == 0.5


def test_what_the_server_asks_for_is_waited_at_least_and_still_jittered() -> None:
    backoff = Backoff(base_s=1.0, cap_s=30.0)
    assert backoff.next_delay_s(0.0, at_least_s=10.0) == 10.0
    assert backoff.next_delay_s(0.5, at_least_s=10.0) == 11.0


def test_an_outage_of_weeks_does_not_overflow() -> None:
    backoff = Backoff(base_s=1.0, cap_s=30.0)
    backoff.failures = 10**6
    assert backoff.next_delay_s(0.5) == 15.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("Fri, 02 Jan 2026 03:05:05 GMT", 60.0),
        ("Friday, 02-Jan-26 03:05:05 GMT", 60.0),  # the obsolete form of RFC 850
        ("Fri, 02 Jan 2026 03:05:05 -0000", 60.0),
        ("Fri, 02 Jan 2026 02:00:00 GMT", 0.0),  # in the past
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("٣", None),
        ("soon", None),
        ("Fri, 42 Jan 2026 03:05:05 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str, seconds: float | None) -> None:
    assert parse_retry_after(text, NOW) == seconds
