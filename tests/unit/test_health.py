"""kube-proxy's health rule: unhealthy is who has had an update waiting for too long."""

from datetime import UTC, datetime, timedelta

import pytest

from pyproxy.core.health import ProxyHealth, rfc3339
from tests.support.clock import Clock

START = datetime(2026, 1, 1, tzinfo=UTC)
TIMEOUT_S = 60
SECOND = timedelta(seconds=1)


class Health(ProxyHealth):
    """One whose clock the test sets."""

    def __init__(self) -> None:
        self.clock = Clock()
        super().__init__(TIMEOUT_S, self.clock)


def test_before_the_first_update_it_is_healthy_and_tells_no_status() -> None:
    status, body = Health().healthz(START)
    assert status == 200
    assert body == {
        "lastUpdated": "2026-01-01T00:00:00Z",
        "currentTime": "2026-01-01T00:00:00Z",
        "nodeEligible": True,
        "healthy": True,
    }


def test_an_update_that_waits_for_the_time_out_makes_it_unhealthy() -> None:
    health = Health()
    health.queued()
    health.clock.now_s += TIMEOUT_S - 1
    assert health.healthz(START)[0] == 200
    health.clock.now_s += 1
    status, body = health.healthz(START)
    assert status == 503
    assert body["healthy"] is False
    assert health.livez(START)[0] == 503


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_jump_of_the_wall_clock_neither_ends_nor_lengthens_the_wait(hours: int) -> None:
    health = Health()
    health.queued()
    after = START + timedelta(hours=hours)
    health.clock.now_s += TIMEOUT_S - 1
    assert health.livez(after)[0] == 200
    health.clock.now_s += 1
    assert health.livez(after)[0] == 503


def test_later_requests_do_not_put_the_first_one_off() -> None:
    health = Health()
    health.queued()
    health.clock.now_s += TIMEOUT_S - 1
    health.queued()
    health.clock.now_s += 1
    assert health.healthz(START)[0] == 503


def test_an_update_that_is_applied_clears_what_waited() -> None:
    health = Health()
    health.queued()
    health.updated(START + SECOND)
    health.clock.now_s += 2_592_000
    status, body = health.healthz(START + timedelta(days=30))
    assert status == 200
    assert body["status"] == {
        family: {"lastUpdated": "2026-01-01T00:00:01Z", "healthy": True}
        for family in ("IPv4", "IPv6")
    }


def test_last_updated_is_now_when_well_and_the_last_real_update_when_not() -> None:
    health = Health()
    health.updated(START)
    health.queued()
    assert health.healthz(START + 2 * SECOND)[1]["lastUpdated"] == "2026-01-01T00:00:02Z"
    health.clock.now_s += TIMEOUT_S
    assert health.healthz(START + 2 * SECOND)[1]["lastUpdated"] == "2026-01-01T00:00:00Z"


def test_without_any_update_last_updated_is_the_zero_time_of_go() -> None:
    health = Health()
    health.queued()
    health.clock.now_s += TIMEOUT_S
    assert health.livez(START)[1]["lastUpdated"] == "0001-01-01T00:00:00Z"


def test_a_node_that_leaves_fails_healthz_and_not_livez() -> None:
    health = Health()
    health.is_node_eligible = False
    status, body = health.healthz(START)
    assert (status, body["healthy"], body["nodeEligible"]) == (503, True, False)
    status, body = health.livez(START)
    assert status == 200
    assert "nodeEligible" not in body


def test_stopping_fails_healthz_and_not_livez() -> None:
    health = Health()
    health.is_stopping = True
    status, body = health.healthz(START)
    assert (status, body["healthy"], body["stopping"]) == (503, True, True)
    assert health.livez(START)[0] == 200


def test_times_have_go_s_form() -> None:
    assert rfc3339(datetime(2026, 1, 1, 1, 2, 3, 45000, UTC)) == "2026-01-01T01:02:03.045000Z"
