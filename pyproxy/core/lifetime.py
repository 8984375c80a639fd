"""When a live connection has lasted for long enough: by silence, or by age."""

from typing import Literal

from pyproxy.model.options import ServiceOptions

# Connections that were opened together must not all come back together: a tenth either way.
_SPREAD = 0.1
# Knuth's multiplicative hash of 16 bits: neighbouring ports end up far apart.
_MULTIPLIER = 40_503


def overdue(
    options: ServiceOptions,
    *,
    age_s: float,
    quiet_s: float,
    has_pending: bool,
    client_port: int,
    grace_s: float,
) -> Literal["idle", "aged"] | None:
    """Return why a connection has to end now, or None.

    quiet_s: since the last byte was seen to move. has_pending: bytes wait for a slow reader.
    client_port: 0 to 65535; spreads the age. grace_s: how long to wait for a pause between two
    requests, when nothing is under way.
    """
    if options.idle_timeout_s is not None and quiet_s >= options.idle_timeout_s:
        return "idle"
    if options.max_connection_age_s is None:
        return None
    share = (client_port * _MULTIPLIER & 0xFFFF) / 0xFFFF
    over_s = age_s - options.max_connection_age_s * (1 - _SPREAD + 2 * _SPREAD * share)
    if over_s >= 0 and ((quiet_s > 0 and not has_pending) or over_s >= grace_s):
        return "aged"
    return None
