"""Which endpoint a new connection goes to (PARITY 3.14, 10, 21.12)."""

import random
from collections import Counter
from collections.abc import Callable
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyproxy.core.balancer import Balancer, Pool
from pyproxy.core.rendezvous import owner
from pyproxy.model.endpoint import Endpoint
from pyproxy.model.options import DEFAULT_OPTIONS, Balance, ServiceOptions
from pyproxy.model.service import ServicePortName
from pyproxy.model.table import Backend

ENDPOINTS = tuple(Endpoint(f"10.0.0.{n}", 80) for n in range(1, 5))
A, B, C, D = ENDPOINTS
CLIENTS = [f"203.0.113.{n}" for n in range(256)]
CLIENT = CLIENTS[2]
BALANCES: tuple[Balance, ...] = get_args(Balance)


def backend(
    *cluster: Endpoint,
    affinity: int | None = None,
    local: tuple[Endpoint, ...] = (),
    options: ServiceOptions = DEFAULT_OPTIONS,
) -> Backend:
    return Backend(
        name=ServicePortName("default", "web", "http", "TCP"),
        family="IPv4",
        cluster=cluster,
        local=local,
        serving=frozenset((e.address, e.port) for e in (*cluster, *local)),
        affinity_seconds=affinity,
        options=options,
    )


PLAIN = backend(*ENDPOINTS)
STICKY = backend(*ENDPOINTS, affinity=100)


def pool_of(made: Backend, draw: Callable[[], float] | None = None) -> Pool:
    return Balancer(draw or random.Random(1).random).pool(made)


def first() -> float:
    return 0.0


def picked(pool: Pool, now_s: float = 0, client: str = CLIENT, *tried: Endpoint) -> Endpoint:
    """The endpoint of a new connection that stays, of all those that the pool has."""
    keys = [(e.address, e.port) for e in tried]
    found = pool.pick(pool.backend.cluster, client, now_s, keys)
    assert found is not None
    return found


def spread(
    pool: Pool, now_s: float = 0, count: int = 4000, clients: list[str] = CLIENTS
) -> Counter[Endpoint]:
    """How often each endpoint is picked for connections that end at once."""
    found = Counter[Endpoint]()
    for number in range(count):
        endpoint = picked(pool, now_s, clients[number % len(clients)])
        pool.released(endpoint)
        found[endpoint] += 1
    return found


def refuse(pool: Pool, endpoint: Endpoint, times: int = 3, now_s: float = 0) -> bool:
    """Let attempts to connect an endpoint fail; say if the last one ejects it."""
    return [pool.failed(CLIENT, endpoint, now_s) for _ in range(times)][-1]


# --- flows of datagrams --------------------------------------------------------------------------


def flow_picked(pool: Pool, flow: str) -> Endpoint:
    found = pool.pick(pool.backend.cluster, CLIENT, 0, (), flow)
    assert found is not None
    return found


@pytest.mark.parametrize("count", [4, 16, 17, 40])
@pytest.mark.parametrize("balance", ["least-connections", "random"])
def test_a_flow_has_one_endpoint_in_every_process_where_lots_would_be_drawn(
    balance: Balance, count: int
) -> None:
    endpoints = [Endpoint(f"10.0.0.{n}", 80) for n in range(count)]
    made = backend(*endpoints, options=ServiceOptions(balance=balance))
    one, other = pool_of(made), pool_of(made, first)
    flows = [f"{CLIENT}|{port}" for port in range(1000, 1000 + 100 * count)]
    found = [flow_picked(one, flow) for flow in flows]
    assert found == [flow_picked(other, flow) for flow in flows]
    shares = Counter(found)
    assert shares.keys() == set(endpoints)
    assert all(50 < share < 150 for share in shares.values())


def test_flows_take_turns_where_connections_do() -> None:
    made = backend(*ENDPOINTS, options=ServiceOptions(balance="round-robin"))
    pool = pool_of(made, first)
    assert [flow_picked(pool, "the same") for _ in range(5)] == [A, B, C, D, A]


# --- another process -----------------------------------------------------------------------------


def test_clients_stick_in_a_process_that_has_adopted_another_one_s_pins() -> None:
    here, there = Balancer(random.Random(1).random), Balancer(random.Random(2).random)
    alone = backend(A, affinity=100)
    for client in CLIENTS:
        assert picked(here.pool(alone), 0, client) is A
    there.adopt(here.pins(0), 1000)
    there.updated(STICKY, 1000)
    assert all(picked(there.pool(STICKY), 1000, client) is A for client in CLIENTS)


# --- the policy ----------------------------------------------------------------------------------


def test_without_endpoints_there_is_nothing_to_pick() -> None:
    for each in (PLAIN, STICKY):
        assert pool_of(each).pick((), CLIENT, 0) is None


@pytest.mark.parametrize("balance", BALANCES)
def test_the_service_says_how_endpoints_are_chosen(balance: Balance) -> None:
    pool = pool_of(backend(*ENDPOINTS, options=ServiceOptions(balance=balance)))
    busy = owner(CLIENT, ENDPOINTS)
    idle = next(client for client in CLIENTS if owner(client, ENDPOINTS) is not busy)
    pool.pick((busy,), CLIENT, 0)
    found = spread(pool)
    expected = {
        "least-connections": lambda: found[busy] == 0,
        "round-robin": lambda: set(found.values()) == {1000},
        "random": lambda: 900 < found[busy] < 1100 and found[busy] != 1000,
        "consistent-hash": lambda: spread(pool, 0, 9, [idle]) == {owner(idle, ENDPOINTS): 9},
    }
    assert expected[balance]()


def test_a_policy_that_changes_holds_for_the_next_connection() -> None:
    pool = pool_of(PLAIN)
    busy = picked(pool)
    pool.update(backend(*ENDPOINTS, options=ServiceOptions(balance="consistent-hash")), 0)
    assert {picked(pool, 0, c) for c in CLIENTS[:50]} == set(ENDPOINTS)
    for _ in range(100):
        pool.update(PLAIN, 0)
    assert pool.live(busy) >= 1  # what is live stays known


def test_without_affinity_nothing_is_remembered_of_a_client() -> None:
    assert len({picked(pool_of(PLAIN, random.Random(n).random)) for n in range(20)}) == 4


# --- live connections ----------------------------------------------------------------------------


def test_the_loaded_endpoint_is_avoided_until_its_connections_end() -> None:
    pool = pool_of(backend(A, B))
    stays = picked(pool)
    other = B if stays is A else A
    assert spread(pool, count=100) == {other: 100}
    pool.released(stays)
    assert set(spread(pool, count=100)) == {A, B}


@pytest.mark.parametrize("balance", BALANCES)
def test_every_pick_counts_until_it_is_released(balance: Balance) -> None:
    pool = pool_of(backend(*ENDPOINTS, options=ServiceOptions(balance=balance)))
    found = [picked(pool) for _ in range(20)]
    assert {e: pool.live(e) for e in ENDPOINTS} == {e: found.count(e) for e in ENDPOINTS}
    pool.update(backend(A, options=ServiceOptions(balance=balance)), 0)
    for endpoint in found:  # also of those that have left meanwhile
        pool.released(endpoint)
    assert pool._live == {}
    pool.released(A)
    assert pool.live(A) == 0


# --- session affinity ----------------------------------------------------------------------------


def test_with_affinity_a_client_goes_where_it_went() -> None:
    pool = pool_of(STICKY)
    mine = owner(CLIENT, ENDPOINTS)
    assert [picked(pool, now_s) for now_s in (0, 99, 198)] == [mine] * 3
    pool.update(backend(mine, Endpoint("10.0.0.9", 80), affinity=100), 198)
    assert {picked(pool, now_s) for now_s in range(199, 260)} == {mine}


def test_pools_of_several_processes_agree_on_a_clients_first_endpoint() -> None:
    one, other = pool_of(STICKY, random.Random(1).random), pool_of(STICKY, random.Random(2).random)
    assert [picked(one, 0, c) for c in CLIENTS] == [picked(other, 0, c) for c in CLIENTS[::-1]][
        ::-1
    ]
    assert all(50 <= one.live(e) <= 80 for e in ENDPOINTS)  # and spread clients evenly


def test_a_pin_goes_before_the_endpoint_that_the_address_belongs_to() -> None:
    mine = owner(CLIENT, ENDPOINTS)
    rest = tuple(e for e in ENDPOINTS if e is not mine)
    pool = pool_of(backend(*rest, affinity=100))
    pinned = picked(pool)
    pool.update(STICKY, 1)
    assert [picked(pool, now_s) for now_s in (1, 100)] == [pinned] * 2
    assert picked(pool, 200) is mine


def test_an_endpoint_that_failed_is_not_tried_again_and_loses_the_client() -> None:
    pool = pool_of(STICKY)
    mine = picked(pool)
    pool.failed(CLIENT, mine, 0)
    other = picked(pool, 0, CLIENT, mine)
    assert other is not mine
    assert picked(pool, 1) is other


def test_policies_share_the_records_but_each_picks_from_its_own_list() -> None:
    mine = owner(CLIENT, ENDPOINTS)
    rest = tuple(e for e in ENDPOINTS if e is not mine)
    pool = pool_of(backend(*ENDPOINTS, affinity=100, local=rest))
    assert pool.pick(ENDPOINTS, CLIENT, 0) is mine
    found = pool.pick(rest, CLIENT, 1)
    assert found in rest
    assert pool.pick(rest, CLIENT, 2) is found
    assert pool.pick(ENDPOINTS, CLIENT, 3) is min(mine, found, key=ENDPOINTS.index)


def test_a_client_is_rebalanced_when_its_endpoint_is_gone() -> None:
    balancer = Balancer(first)
    pool = balancer.pool(STICKY)
    mine = picked(pool)
    balancer.updated(backend(*(e for e in ENDPOINTS if e is not mine), affinity=100), 0)
    other = picked(pool)
    balancer.updated(STICKY, 0)  # the endpoint comes back, and its clients do not
    assert picked(pool, 1) is other


def test_turning_affinity_off_forgets_and_on_starts_anew() -> None:
    balancer = Balancer(first)
    pool = balancer.pool(backend(D, affinity=100))
    assert picked(pool) is D
    balancer.updated(backend(D), 0)
    balancer.updated(STICKY, 0)
    assert picked(pool, 1) is owner(CLIENT, ENDPOINTS)


def test_a_removed_service_port_is_forgotten() -> None:
    balancer = Balancer(first)
    pool = balancer.pool(backend(D, affinity=100))
    assert picked(pool) is D
    balancer.removed(STICKY)
    pool.update(STICKY, 0)
    assert picked(pool, 1) is owner(CLIENT, ENDPOINTS)


def test_a_pool_lasts_while_it_is_held() -> None:
    balancer = Balancer(first)
    pool = balancer.pool(PLAIN)
    assert balancer.pool(PLAIN) is pool
    assert balancer.pool(STICKY) is pool
    other = backend(A)
    balancer.updated(other, 0)
    assert pool.backend is other
    del pool
    balancer.updated(PLAIN, 0)
    assert balancer.pool(PLAIN).backend is PLAIN


# --- ejection ------------------------------------------------------------------------------------


@pytest.mark.parametrize("affinity", [None, 100])
@pytest.mark.parametrize("balance", BALANCES)
def test_an_ejected_endpoint_gets_no_connections_and_comes_back_by_one_probe(
    balance: Balance, affinity: int | None
) -> None:
    pool = pool_of(backend(*ENDPOINTS, affinity=affinity, options=ServiceOptions(balance=balance)))
    assert refuse(pool, A)
    assert (pool.ejections, pool.ejected()) == (1, [(("10.0.0.1", 80), 10.0)])
    assert pool.has_ejected
    assert A not in spread(pool, 9, clients=CLIENTS[::3])
    assert spread(pool, 10, clients=CLIENTS[1::3])[A] == 1  # the probe
    pool.connected(A)
    assert pool.ejected() == []
    assert spread(pool, 11, clients=CLIENTS[2::3])[A] > 500


def test_a_probe_that_fails_ejects_again_for_longer() -> None:
    pool = pool_of(PLAIN)
    refuse(pool, A)
    assert spread(pool, 10)[A] == 1
    assert pool.failed(CLIENT, A, 11)
    assert A not in spread(pool, 30.9)
    assert spread(pool, 31)[A] == 1
    assert pool.ejections == 2


def test_where_only_ejected_endpoints_are_left_they_are_used() -> None:
    pool = pool_of(backend(A, B))
    assert refuse(pool, A)
    assert picked(pool, 0, CLIENT, B) is A
    assert pool.pick((A,), CLIENT, 0) is A  # the local one, say


def test_a_success_in_between_begins_anew() -> None:
    pool = pool_of(PLAIN)
    pool.connected(A)
    assert not refuse(pool, A, 2)
    pool.connected(A)
    assert not refuse(pool, A, 2)


def test_where_the_service_wants_none_nothing_is_ejected() -> None:
    pool = pool_of(backend(*ENDPOINTS, options=ServiceOptions(ejects=False)))
    assert not refuse(pool, A, 50)
    pool.update(PLAIN, 0)
    assert refuse(pool, A)
    pool.update(backend(*ENDPOINTS, options=ServiceOptions(ejects=False)), 0)
    assert pool.ejected() == []


def test_an_ejected_endpoint_that_leaves_comes_back_with_a_clean_slate() -> None:
    pool = pool_of(PLAIN)
    refuse(pool, A)
    pool.update(backend(B, C, D), 1)
    assert pool.ejected() == []
    pool.update(PLAIN, 2)
    assert A in spread(pool, 2)


# --- slow start ----------------------------------------------------------------------------------

WARMING = ServiceOptions(slow_start_s=30)


def joined(balance: Balance) -> Pool:
    """A pool whose fourth endpoint came at 100 s."""
    options = ServiceOptions(slow_start_s=30, balance=balance)
    pool = pool_of(backend(A, B, C, options=options))
    pool.update(backend(*ENDPOINTS, options=options), 100)
    return pool


@pytest.mark.parametrize("balance", ["round-robin", "random"])
@pytest.mark.parametrize(("age_s", "part"), [(0, 0.1), (15, 0.55), (30, 1.0)])
def test_the_share_of_a_new_endpoint_grows_to_the_whole(
    balance: Balance, age_s: float, part: float
) -> None:
    found = spread(joined(balance), 100 + age_s)
    assert found[D] == pytest.approx(part * 1000, abs=120)
    assert max(found[e] for e in (A, B, C)) < 1.15 * min(found[e] for e in (A, B, C))


def test_least_connections_does_not_flood_a_new_endpoint_that_has_none() -> None:
    pool = joined("least-connections")
    for endpoint in (A, B, C):
        for _ in range(100):
            pool.pick((endpoint,), CLIENT, 0)
    found = spread(pool, 100, 1000)
    assert found[D] < 0.1 * 1000  # of all those for which it takes part, half are its own
    assert spread(pool, 130, 1000)[D] > 400


def test_a_consistent_hash_and_affinity_know_no_slow_start() -> None:
    pool = joined("consistent-hash")
    for client in CLIENTS:
        assert spread(pool, 100, 1, [client]) == {owner(client, ENDPOINTS): 1}
    sticky = pool_of(backend(A, B, C, affinity=100, options=WARMING))
    sticky.update(backend(*ENDPOINTS, affinity=100, options=WARMING), 100)
    assert [picked(sticky, 100, c) for c in CLIENTS] == [owner(c, ENDPOINTS) for c in CLIENTS]


def test_the_first_endpoints_of_a_pool_are_whole_at_once() -> None:
    found = spread(pool_of(backend(*ENDPOINTS, options=WARMING)))
    assert min(found.values()) > 900


# --- what holds for all --------------------------------------------------------------------------

_CHOICES = st.lists(st.sampled_from(range(9)), unique=True)


@settings(deadline=None)
@given(
    _CHOICES,
    _CHOICES,
    st.lists(
        st.tuples(
            st.sampled_from("ab"),
            st.floats(0, 1, exclude_max=True),
            st.integers(0, 60),
            st.sampled_from(["live", "ended", "refused"]),
        ),
        max_size=12,
    ),
    st.sampled_from([None, 1, 100]),
    st.sampled_from(BALANCES),
    st.integers(1, 9),
)
def test_pick_returns_a_member_that_was_not_tried_or_none_when_all_were(
    listed: list[int],
    tried: list[int],
    earlier: list[tuple[str, float, int, str]],
    affinity: int | None,
    balance: Balance,
    already: int,
) -> None:
    everything = tuple(Endpoint("10.0.0.1", number) for number in range(9))
    endpoints = tuple(everything[number] for number in listed)
    options = ServiceOptions(balance=balance, slow_start_s=50)
    draws = iter([number for _, number, _, _ in earlier])
    pool = pool_of(
        backend(*everything[:already], affinity=affinity, options=options), lambda: next(draws, 0.3)
    )
    pool.update(backend(*everything, affinity=affinity, options=options), 0)
    now = 0
    for client, _, wait, end in earlier:
        now += wait
        endpoint = pool.pick(everything, client, now)
        assert endpoint is not None
        if end == "refused":
            for _ in range(3):
                pool.failed(client, endpoint, now)
        if end != "live":
            pool.released(endpoint)
    found = pool.pick(endpoints, "a", now, [("10.0.0.1", number) for number in tried])
    if set(listed) <= set(tried):
        assert found is None
    else:
        assert found in endpoints
        assert found.port not in tried


def test_the_pools_tell_what_their_endpoints_have() -> None:
    balancer = Balancer(first)
    pool = balancer.pool(PLAIN)
    endpoint = picked(pool)
    assert balancer.pools() == [pool]
    told = pool.live_counts()
    assert told == {(endpoint.address, endpoint.port): 1}
    pool.released(endpoint)
    assert told  # a copy
    assert pool.live_counts() == {}


def test_the_pools_of_a_service_are_those_of_its_ports_that_are_held() -> None:
    balancer = Balancer(first)
    name = PLAIN.name
    other = backend_named(name._replace(name="another"))
    held = [balancer.pool(made) for made in (PLAIN, backend_named(name._replace(port="b")), other)]
    balancer.pool(backend_named(name._replace(port="not-held")))
    assert balancer.pools_of(name.service) == held[:2]
    assert balancer.pools_of(other.name.service) == held[2:]


def backend_named(name: ServicePortName) -> Backend:
    return Backend(name=name, family="IPv4")
