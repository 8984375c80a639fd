"""When a connection ends by silence or by age."""

import pytest

from pyproxy.core.lifetime import overdue
from pyproxy.model.options import ServiceOptions

IDLE = ServiceOptions(idle_timeout_s=60)
AGED = ServiceOptions(max_connection_age_s=1000)


def why(
    options: ServiceOptions,
    *,
    age_s: float = 0,
    quiet_s: float = 0,
    has_pending: bool = False,
    client_port: int = 0,
) -> str | None:
    return overdue(
        options,
        age_s=age_s,
        quiet_s=quiet_s,
        has_pending=has_pending,
        client_port=client_port,
        grace_s=30,
    )


def test_without_limits_a_connection_lasts() -> None:
    assert why(ServiceOptions(), age_s=1e9, quiet_s=1e9) is None


def test_a_silent_connection_ends_after_the_idle_time_out() -> None:
    assert why(IDLE, age_s=1e9, quiet_s=59.9) is None
    assert why(IDLE, quiet_s=60) == "idle"


@pytest.mark.parametrize("port", [1024, 1025, 40_000, 65_535])
def test_the_age_is_spread_by_a_tenth_either_way(port: int) -> None:
    assert why(AGED, age_s=899, quiet_s=1, client_port=port) is None
    assert why(AGED, age_s=1100, quiet_s=1, client_port=port) == "aged"


def test_neighbouring_ports_age_at_different_times() -> None:
    ports = range(40_000, 40_100)
    aged = [p for p in ports if why(AGED, age_s=1000, quiet_s=1, client_port=p) == "aged"]
    assert 35 < len(aged) < 65


def test_an_old_connection_ends_in_a_pause_if_there_is_one_in_time() -> None:
    # Port 0 ages a tenth early.
    assert why(AGED, age_s=900, quiet_s=0) is None
    assert why(AGED, age_s=900, quiet_s=0.5) == "aged"
    assert why(AGED, age_s=900, quiet_s=0.5, has_pending=True) is None
    assert why(AGED, age_s=930, quiet_s=0, has_pending=True) == "aged"
