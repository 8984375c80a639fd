"""How each policy spreads connections, and what a consistent hash keeps in place."""

import random
from collections import Counter
from collections.abc import Callable
from math import ceil
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyproxy.core.affinity import EndpointKey
from pyproxy.core.policies import LOAD_BOUND, Policy, policy_of
from pyproxy.core.rendezvous import owner
from pyproxy.model.endpoint import Endpoint
from pyproxy.model.options import Balance

POLICIES: tuple[Balance, ...] = get_args(Balance)
CLIENT = "203.0.113.2"
CLIENTS = [f"10.{a}.{b}.{c}" for a in (1, 7) for b in range(40) for c in range(1, 51)]


def endpoints(count: int) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(f"10.0.0.{n}", 80) for n in range(1, count + 1))


def key(endpoint: Endpoint) -> EndpointKey:
    return endpoint.address, endpoint.port


def picks(policy: Policy, among: tuple[Endpoint, ...], count: int) -> Counter[Endpoint]:
    """How often each is picked when connections end at once."""
    return Counter(policy(among, CLIENTS[n % len(CLIENTS)]) for n in range(count))


def opened(policy: Policy, live: dict[EndpointKey, int], among: tuple[Endpoint, ...]) -> Endpoint:
    """Pick for a connection that stays."""
    found = policy(among, CLIENT)
    live[key(found)] = live.get(key(found), 0) + 1
    return found


@pytest.mark.parametrize("balance", POLICIES)
def test_short_connections_are_spread_evenly(balance: Balance) -> None:
    among = endpoints(5)
    found = picks(policy_of(balance, random.Random(1).random, {}), among, 4000)
    assert set(found) == set(among)
    assert all(700 < count < 900 for count in found.values())


@pytest.mark.parametrize("balance", POLICIES)
def test_the_only_endpoint_is_picked(balance: Balance) -> None:
    among = endpoints(1)
    assert policy_of(balance, random.random, {})(among, CLIENT) is among[0]


def test_round_robin_goes_through_the_list_in_order_from_anywhere() -> None:
    among = endpoints(3)
    policy = policy_of("round-robin", lambda: 0.5, {})
    assert [among.index(policy(among, CLIENT)) for _ in range(7)] == [1, 2, 0, 1, 2, 0, 1]
    assert policy(among[:2], CLIENT) in among[:2]  # the list may get shorter meanwhile


def test_least_connections_takes_the_less_loaded_of_two() -> None:
    a, b = endpoints(2)
    live = {key(a): 1}
    policy = policy_of("least-connections", random.Random(1).random, live)
    assert {policy((a, b), CLIENT) for _ in range(100)} == {b}
    live[key(b)] = 1
    assert {policy((a, b), CLIENT) for _ in range(100)} == {a, b}


def test_least_connections_never_picks_the_most_loaded_of_many() -> None:
    among = endpoints(10)
    live = {key(among[3]): 1}
    policy = policy_of("least-connections", random.Random(1).random, live)
    assert among[3] not in picks(policy, among, 2000)


def test_least_connections_keeps_long_connections_far_more_even_than_random() -> None:
    def spread(balance: Balance) -> int:
        among, live = endpoints(10), dict[EndpointKey, int]()
        policy = policy_of(balance, random.Random(1).random, live)
        for _ in range(1000):
            opened(policy, live, among)
        return max(live.values()) - min(live.values())

    assert spread("least-connections") <= 4
    assert spread("random") > 20


@pytest.mark.parametrize("position", [lambda: 0.0, lambda: 1 - 2**-53], ids=["least", "greatest"])
@pytest.mark.parametrize("balance", POLICIES)
@given(count=st.integers(1, 3000))
@settings(deadline=None, max_examples=30)
def test_the_least_and_greatest_random_numbers_pick_an_endpoint(
    balance: Balance, position: Callable[[], float], count: int
) -> None:
    among = endpoints(count)
    policy = policy_of(balance, position, {})
    assert policy(among, CLIENT) in among
    assert policy(among, CLIENT) in among


# --- rendezvous hashing --------------------------------------------------------------------------


def test_the_owner_is_the_same_in_every_process() -> None:
    """Written down: a change of the hash would move every client at an upgrade."""
    among = (*endpoints(9), Endpoint("2001:db8::1", 443))
    found = [among.index(owner(client, among)) for client in (*CLIENTS[:6], "2001:db8::9")]
    assert found == [3, 5, 8, 8, 2, 9, 9]


def test_the_order_of_the_list_does_not_matter_to_the_owner() -> None:
    among = endpoints(7)
    assert all(owner(c, among) is owner(c, among[::-1]) for c in CLIENTS[:200])


@settings(deadline=None, max_examples=40)
@given(
    st.sets(st.tuples(st.ip_addresses(v=4).map(str), st.integers(1, 65535)), min_size=2, max_size=9)
)
def test_when_an_endpoint_goes_only_its_own_clients_move(found: set[EndpointKey]) -> None:
    among = tuple(Endpoint(*each) for each in sorted(found))
    gone, *rest = among
    for client in CLIENTS[:300]:
        before = owner(client, among)
        assert owner(client, tuple(rest)) is before or before is gone


def test_clients_of_an_endpoint_that_goes_move_to_all_the_others() -> None:
    among = endpoints(6)
    moved = Counter(owner(c, among[1:]) for c in CLIENTS if owner(c, among) is among[0])
    assert set(moved) == set(among[1:])
    assert max(moved.values()) < 2 * min(moved.values())


# --- consistent-hash with bounded load -----------------------------------------------------------


def test_a_client_with_little_load_always_gets_its_owner() -> None:
    among = endpoints(10)
    policy = policy_of("consistent-hash", random.random, {})
    assert all(policy(among, c) is owner(c, among) for c in CLIENTS[:200])


def test_a_client_that_fills_its_endpoint_overflows_to_its_next_one() -> None:
    among, live = endpoints(4), dict[EndpointKey, int]()
    policy = policy_of("consistent-hash", random.random, live)
    mine = owner(CLIENT, among)
    second = owner(CLIENT, tuple(e for e in among if e is not mine))
    order = list(dict.fromkeys(opened(policy, live, among) for _ in range(100)))
    assert order[:2] == [mine, second]
    assert max(live.values()) <= ceil(LOAD_BOUND * 100 / 4)


@settings(deadline=None)
@given(st.integers(1, 8), st.lists(st.integers(0, 3), max_size=60))
def test_no_endpoint_gets_more_than_a_quarter_over_the_mean(count: int, clients: list[int]) -> None:
    among, live = endpoints(count), dict[EndpointKey, int]()
    policy = policy_of("consistent-hash", random.random, live)
    for number, client in enumerate(clients, 1):
        found = policy(among, f"10.0.0.{client}")
        live[key(found)] = live.get(key(found), 0) + 1
        assert live[key(found)] <= ceil(LOAD_BOUND * number / count)
