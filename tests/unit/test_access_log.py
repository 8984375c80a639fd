"""Which ends the access log tells of: modes, samples, and what happens when there are too many."""

from typing import get_args

import pytest

from pyproxy.core.access_log import AccessRules, Choice, Limiter, told_reasons
from pyproxy.model.ended import AccessMode
from pyproxy.model.reasons import CloseReason, DatagramDrop, FlowEnd
from pyproxy.model.service import ServicePortName

WEB = ServicePortName("shop", "web", "http", "TCP")
CART = ServicePortName("shop", "cart", "http", "TCP")


def never() -> float:
    return 0.999999


def passed(limiter: Limiter, name: ServicePortName, reason: str, count: int, now_s: float) -> int:
    return sum(limiter.allows(name, reason, now_s) for _ in range(count))


def test_mode_off_tells_of_nothing_and_all_of_every_reason() -> None:
    every = {*get_args(CloseReason), *get_args(FlowEnd), *get_args(DatagramDrop)}
    assert told_reasons("off") == frozenset()
    assert told_reasons("all") == told_reasons("sampled") == every


@pytest.mark.parametrize(
    ("reason", "is_error"),
    [
        ("finished", False),
        ("client_reset", False),
        ("client_gone", False),
        ("idle", False),
        ("aged", False),
        ("drained", False),
        ("endpoint_removed", False),
        ("evicted", False),
        ("service_gone", False),
        ("endpoint_reset", True),
        ("no_endpoint", True),
        ("not_allowed", True),
        ("connect_failed", True),
        ("over_limit", True),
        ("over_budget", True),
        ("error", True),
        ("exhausted", True),
    ],
)
def test_errors_are_what_went_wrong_and_a_sample_has_all_of_them(
    reason: str, *, is_error: bool
) -> None:
    for mode in get_args(AccessMode):
        wanted = mode == "all" or (is_error and mode != "off")
        choice = Choice(AccessRules(mode=mode), never)
        assert choice.tells(WEB, reason, 0.0) is wanted


def test_one_in_so_many_of_the_rest_is_sampled() -> None:
    draws = iter([0.0, 0.24, 0.25, 0.5, 0.99])
    choice = Choice(AccessRules(mode="sampled", sample=4), lambda: next(draws))
    assert [choice.tells(WEB, "finished", 0.0) for _ in range(5)] == [True, True, *[False] * 3]
    assert choice.limiter.left_out == 0  # a sample leaves nothing out


def test_a_sample_of_one_in_one_is_all() -> None:
    choice = Choice(AccessRules(mode="sampled", sample=1), never)
    assert choice.tells(WEB, "finished", 0.0)


def test_one_service_may_have_the_whole_rate_when_the_others_are_quiet() -> None:
    limiter = Limiter(100)
    told = sum(passed(limiter, WEB, "connect_failed", 10, step / 100) for step in range(1000))
    assert 10 * 100 <= told <= 11 * 100
    assert told + limiter.left_out == 10_000


@pytest.mark.parametrize("other", [(CART, "connect_failed"), (WEB, "endpoint_reset")])
def test_a_flood_of_one_service_and_reason_hides_no_other(
    other: tuple[ServicePortName, str],
) -> None:
    limiter = Limiter(100)
    now_s = 0.0
    for step in range(2000):
        now_s = step / 100
        passed(limiter, WEB, "connect_failed", 50, now_s)
        if step % 20 == 0:  # five a second: less than its share, of ten
            assert limiter.allows(*other, now_s)


def test_many_floods_together_stay_within_the_rate() -> None:
    limiter = Limiter(100)
    names = [WEB._replace(name=f"web-{n}") for n in range(50)]
    told = sum(
        limiter.allows(name, "connect_failed", step / 100) for step in range(1000) for name in names
    )
    assert told <= 100 * 10 + 100
    assert told + limiter.left_out == 50 * 1000


def test_a_rate_of_one_lets_one_pass_each_second() -> None:
    limiter = Limiter(1)
    times = [0.0, 0.5, 1.0, 1.5, 2.0]
    assert [limiter.allows(WEB, "error", t) for t in times] == [True, False, True, False, True]


def test_records_that_come_late_do_not_turn_back_the_clock() -> None:
    limiter = Limiter(10)
    assert limiter.allows(WEB, "error", 5.0)
    assert limiter.allows(WEB, "error", 1.0)
    passed(limiter, WEB, "error", 100, 5.0)
    assert not passed(limiter, WEB, "error", 100, 1.0)
    assert not passed(limiter, WEB, "error", 100, 5.0)


def test_the_shares_of_services_are_bounded() -> None:
    limiter = Limiter(1_000_000)
    for number in range(5000):
        limiter.allows(WEB._replace(name=f"web-{number}"), "error", 0.0)
    assert len(limiter._shares) == 4096
