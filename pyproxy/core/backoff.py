"""How long to wait before the next try. No clock and no randomness of its own: both are arguments.

Full jitter: a wait is drawn evenly from 0 to a ceiling that doubles with each failure. Of the usual
forms it spreads many clients best after an outage that hit them all at once (Amazon's Builders'
Library, "Timeouts, retries, and backoff with jitter").
"""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# 2**16 times any base is beyond any cap; without a bound a long outage would grow huge integers.
_MAX_DOUBLINGS = 16


class Backoff:
    """The waits between the tries of one thing.

    base_s, cap_s: seconds; the first ceiling and the last.
    failures: how many in a row, until `reset`.
    """

    def __init__(self, base_s: float = 1.0, cap_s: float = 30.0) -> None:
        self._base_s = base_s
        self._cap_s = cap_s
        self.failures = 0

    def next_delay_s(self, random: float, at_least_s: float = 0.0) -> float:
        """Count a failure and return the seconds to wait.

        random: in [0, 1). at_least_s: what the server asked for; the jitter comes on top of it, so
        that clients which were told the same time do not come back at the same moment.
        """
        doublings = min(self.failures, _MAX_DOUBLINGS)
        ceiling_s = min(self._cap_s, self._base_s * (1 << doublings))
        self.failures += 1
        return at_least_s + random * ceiling_s

    def reset(self) -> None:
        """Start over: it works again."""
        self.failures = 0


def parse_retry_after(text: str, now: datetime) -> float | None:
    """Return the seconds that a Retry-After header asks to wait, at least 0 (RFC 9110 10.2.3).

    text: a number of seconds or an HTTP date. None when it is neither. now: with a time zone.
    """
    text = text.strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    if when.tzinfo is None:  # "-0000": a time in UTC that says nothing of its origin (RFC 5322 3.3)
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - now).total_seconds())
