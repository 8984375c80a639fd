"""The UDP flow table: idle times, its bound, eviction, staleness. No clock but numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.core.flows import Flow, FlowTable, is_stale
from pyproxy.model.service import ServicePortName
from pyproxy.model.table import Backend

UNREPLIED_S, REPLIED_S = 30.0, 120.0


def make_table(max_flows: int = 100) -> FlowTable[Flow]:
    return FlowTable(max_flows, UNREPLIED_S, REPLIED_S)


def make_backend(*serving: tuple[str, int]) -> Backend:
    name = ServicePortName("default", "dns", "", "UDP")
    return Backend(name=name, family="IPv4", serving=frozenset(serving))


def test_a_flow_is_found_by_its_key_until_it_is_removed() -> None:
    table = make_table()
    flow = Flow("a", 0)
    assert table.add(flow) is None
    assert table.get("a") is flow
    assert table.get("b") is None
    table.remove(flow)
    table.remove(flow)
    assert table.get("a") is None
    assert len(table) == 0


def test_an_unreplied_flow_expires_after_its_shorter_time() -> None:
    table = make_table()
    flow = Flow("a", 0)
    table.add(flow)
    assert table.expire(UNREPLIED_S - 0.1) == []
    assert table.expire(UNREPLIED_S) == [flow]
    assert table.expire(UNREPLIED_S) == []


def test_a_replied_flow_expires_after_its_longer_time() -> None:
    table = make_table()
    flow = Flow("a", 0)
    table.add(flow)
    table.replied(flow, 10)
    assert table.get("a") is flow
    assert table.expire(10 + REPLIED_S - 0.1) == []
    assert table.expire(10 + REPLIED_S) == [flow]


@pytest.mark.parametrize("is_replied", [False, True])
def test_a_datagram_of_the_client_begins_the_idle_time_anew(is_replied: bool) -> None:
    table = make_table()
    flow = Flow("a", 0)
    table.add(flow)
    if is_replied:
        table.replied(flow, 0)
    table.sent(flow, 29)
    timeout_s = REPLIED_S if is_replied else UNREPLIED_S
    assert table.expire(29 + timeout_s - 0.1) == []
    assert table.expire(29 + timeout_s) == [flow]


def test_a_datagram_of_the_endpoint_begins_the_idle_time_anew() -> None:
    table = make_table()
    flow = Flow("a", 0)
    table.add(flow)
    table.replied(flow, 1)
    table.replied(flow, 50)
    assert table.expire(50 + REPLIED_S - 0.1) == []
    assert flow.is_replied


def test_a_full_table_evicts_the_flow_that_is_idle_longest() -> None:
    table = make_table(max_flows=3)
    first, second, third = Flow("first", 0), Flow("second", 1), Flow("third", 2)
    for flow in (first, second, third):
        table.add(flow)
    table.sent(first, 3)
    assert table.add(Flow("fourth", 4)) is second
    assert len(table) == 3
    assert table.get("first") is first


def test_eviction_asks_for_idleness_not_for_answers() -> None:
    table = make_table()
    replied, unreplied = Flow("replied", 0), Flow("unreplied", 0)
    table.add(replied)
    table.add(unreplied)
    table.replied(replied, 1)
    table.sent(unreplied, 2)
    assert table.evict_oldest() is replied
    assert table.evict_oldest() is unreplied
    assert table.evict_oldest() is None


def test_clear_returns_every_flow() -> None:
    table = make_table()
    replied, unreplied = Flow("replied", 0), Flow("unreplied", 0)
    table.add(replied)
    table.add(unreplied)
    table.replied(replied, 1)
    assert set(table.clear()) == {replied, unreplied}
    assert len(table) == 0


@pytest.mark.parametrize(
    ("serving", "expected"),
    [
        pytest.param([("10.0.0.1", 53)], False, id="its endpoint serves"),
        pytest.param([("10.0.0.2", 53)], True, id="its endpoint left and another serves"),
        pytest.param([("10.0.0.1", 54)], True, id="its endpoint's port changed"),
        pytest.param([], False, id="nothing serves, so it stays"),
    ],
)
def test_a_flow_is_stale_when_its_endpoint_no_longer_serves(
    serving: list[tuple[str, int]], expected: bool
) -> None:
    assert is_stale(("10.0.0.1", 53), make_backend(*serving)) is expected


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["datagram", "answer", "expire", "pass"]),
            st.integers(0, 6),
            st.integers(0, 40),
        )
    )
)
def test_any_history_leaves_the_flows_that_a_plain_list_would_keep(
    history: list[tuple[str, int, int]],
) -> None:
    table = make_table(max_flows=4)
    model: dict[int, tuple[float, bool]] = {}
    now_s = 0.0
    for step, key, seconds in history:
        flow = table.get(key)
        assert (flow is not None) == (key in model)
        if step == "pass":
            now_s += seconds
        elif step == "expire":
            table.expire(now_s)
            model = {
                k: (last, replied)
                for k, (last, replied) in model.items()
                if now_s - last < (REPLIED_S if replied else UNREPLIED_S)
            }
        elif flow is None:
            evicted = table.add(Flow(key, now_s))
            if evicted is not None:
                assert evicted.last_s == min(last for last, _ in model.values())
                del model[int(str(evicted.key))]
            model[key] = (now_s, False)
        elif step == "answer":
            table.replied(flow, now_s)
            model[key] = (now_s, True)
        else:
            table.sent(flow, now_s)
            model[key] = (now_s, model[key][1])
        assert len(table) == len(model) <= 4


def test_the_table_lists_its_flows_answered_or_not() -> None:
    table = make_table()
    flows = [Flow("a", 0), Flow("b", 0)]
    for flow in flows:
        table.add(flow)
    table.replied(flows[0], 1)
    assert set(table) == set(flows)
