"""What holds for the store after any events in any order.

The universe is small on purpose: few names and few addresses, so that Services contest each other's
addresses, slices change hands, and events undo each other.
"""

import random
from collections.abc import Iterable

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from pyproxy.core.explanation import REASONS
from pyproxy.core.store import Changes, Store
from pyproxy.model.events import (
    RESOURCES,
    Applied,
    Deleted,
    Event,
    Listed,
    Object,
    ObjectKey,
    Resource,
    key_of,
)
from pyproxy.model.service import ServiceName
from pyproxy.model.table import Frontend, FrontendKey, VipTable
from tests.support.builders import (
    CONFIG,
    NODE,
    NODE_IP,
    NODE_IP_ALT,
    Json,
    decoded,
    explained,
    make_endpoint,
    make_node,
    make_port,
    make_service,
    make_service_cidr,
    make_slice,
)

NAMES = ["a", "b", "c"]
FLAGS = st.booleans()
POLICIES = st.sampled_from(["Cluster", "Local"])
# Shared by all Services: ClusterIPs, external IPs and load-balancer IPs meet on the same addresses.
ADDRESSES = ["172.30.0.1", "172.30.0.2", "1.2.3.4", "fd00:172:30::1"]
AGES = ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]

# A set of local addresses stands for set_local_addresses.
Step = Event | frozenset[str]


@st.composite
def services(draw: st.DrawFn, ages: list[str]) -> Object:
    some_addresses = st.lists(st.sampled_from(ADDRESSES), max_size=2)
    port_count = draw(st.integers(0, 2))
    ports = [
        make_port(
            draw(st.sampled_from([80, 81])),
            name,
            draw(st.sampled_from(["TCP", "UDP", "SCTP"])),
            draw(st.sampled_from([0, 30080, 30081])),
        )
        for name in ["http", "admin"][:port_count]
    ]
    families = draw(st.sampled_from([None, ["IPv4", "IPv6"]]))
    more: Json = {"ipFamilies": families, "clusterIPs": ["172.30.0.1", "fd00:172:30::1"]}
    return decoded(
        make_service(
            draw(st.sampled_from(NAMES)),
            cluster_ip=draw(st.sampled_from([*ADDRESSES, "", "None"])),
            type=draw(st.sampled_from(["ClusterIP", "LoadBalancer", "ExternalName"])),
            ports=ports,
            externalIPs=draw(some_addresses),
            lb_ips=draw(some_addresses),
            labels=draw(st.sampled_from([{}, {"service.kubernetes.io/service-proxy-name": "x"}])),
            internalTrafficPolicy=draw(POLICIES),
            externalTrafficPolicy=draw(POLICIES),
            created=draw(st.sampled_from(ages)),
            **(more if families else {}),
        )
    )


@st.composite
def slices(draw: st.DrawFn) -> Object:
    family = draw(st.sampled_from(["IPv4", "IPv6"]))
    endpoints = [
        make_endpoint(
            draw(st.sampled_from(["10.0.0.1", "10.0.0.2"] if family == "IPv4" else ["fd00::1"])),
            ready=draw(FLAGS),
            terminating=draw(FLAGS),
            node=draw(st.sampled_from([NODE, "node-2"])),
            zones=draw(st.sampled_from([(), ("zone-a",), ("zone-b",)])),
        )
        for _ in range(draw(st.integers(0, 3)))
    ]
    return decoded(
        make_slice(
            *endpoints,
            service=draw(st.sampled_from([*NAMES, None])),
            name=draw(st.sampled_from(["s1", "s2", "s3"])),
            address_type=family,
            ports=[
                {"name": name, "protocol": protocol, "port": draw(st.sampled_from([80, 8080]))}
                for name, protocol in draw(
                    st.sampled_from([[("http", "TCP")], [("http", "UDP"), ("admin", "TCP")], []])
                )
            ],
            labels=draw(st.sampled_from([{}, {}, {"service.kubernetes.io/headless": ""}])),
        )
    )


def nodes() -> st.SearchStrategy[Object]:
    return st.builds(
        lambda name, zone, address: decoded(make_node(name, zone=zone, addresses=[address])),
        st.sampled_from([NODE, NODE, "node-2"]),
        st.sampled_from(["zone-a", "zone-b", None]),
        st.sampled_from([NODE_IP, NODE_IP_ALT]),
    )


def service_cidrs() -> st.SearchStrategy[Object]:
    return st.builds(
        lambda name, cidr: decoded(make_service_cidr(cidr, name=name)),
        st.sampled_from(["kubernetes", "second"]),
        st.sampled_from(["172.30.0.0/16", "10.99.0.0/24"]),
    )


@st.composite
def steps(draw: st.DrawFn, ages: list[str]) -> Step:
    resource = draw(st.sampled_from([*RESOURCES, "services", "endpointslices", None]))
    if resource is None:
        return frozenset(draw(st.lists(st.sampled_from([NODE_IP, NODE_IP_ALT, "127.0.0.1"]))))
    values: dict[Resource, st.SearchStrategy[Object]] = {
        "services": services(ages),
        "endpointslices": slices(),
        "nodes": nodes(),
        "servicecidrs": service_cidrs(),
    }
    match draw(st.sampled_from(["applied", "applied", "deleted", "listed"])):
        case "applied":
            return Applied(resource, draw(values[resource]))
        case "deleted":
            return Deleted(resource, key_of(draw(values[resource])))
        case _:
            return Listed(resource, tuple(draw(st.lists(values[resource], max_size=3))))


def histories(ages: list[str] = AGES) -> st.SearchStrategy[list[Step]]:
    return st.lists(steps(ages), max_size=12)


def take(store: Store, step: Step) -> Changes:
    return store.set_local_addresses(step) if isinstance(step, frozenset) else store.apply(step)


def what_is_left(history: Iterable[Step]) -> tuple[dict[Resource, list[Object]], frozenset[str]]:
    """The objects and local addresses after a history: the store's job, done the obvious way."""
    objects: dict[Resource, dict[ObjectKey, Object]] = {resource: {} for resource in RESOURCES}
    local_addresses: frozenset[str] = frozenset()
    for step in history:
        match step:
            case Applied(resource=resource, value=value):
                objects[resource][key_of(value)] = value
            case Deleted(resource=resource, key=key):
                objects[resource].pop(key, None)
            case Listed(resource=resource, values=values):
                objects[resource] = {key_of(value): value for value in values}
            case frozenset():
                local_addresses = step
    return {resource: list(found.values()) for resource, found in objects.items()}, local_addresses


def content(table: VipTable) -> tuple[object, ...]:
    return (dict(table.frontends), dict(table.cluster_ips), table.service_cidrs, table.node)


@settings(max_examples=150, deadline=None)
@given(histories(), st.randoms(use_true_random=False))
def test_any_history_gives_the_table_of_what_is_left_in_any_order(
    history: list[Step], order: random.Random
) -> None:
    store = Store(CONFIG)
    for step in history:
        take(store, step)
    objects, local_addresses = what_is_left(history)
    fresh = Store(CONFIG, local_addresses)
    resources = list(RESOURCES)
    order.shuffle(resources)
    for resource in resources:
        order.shuffle(objects[resource])
        for value in objects[resource]:
            fresh.apply(Applied(resource, value))
    assert content(store.table()) == content(fresh.table())
    for name in NAMES:
        key = ServiceName("default", name)
        assert store.slices_of(key) == fresh.slices_of(key)
        assert store.frontends_of(key) == fresh.frontends_of(key)
    for frontend_key in store.table().frontends:
        assert store.rivals(frontend_key) == fresh.rivals(frontend_key)


@settings(max_examples=150, deadline=None)
@given(histories())
def test_changes_applied_to_the_old_table_give_exactly_the_new_one(history: list[Step]) -> None:
    store = Store(CONFIG)
    followed: dict[FrontendKey, Frontend] = {}
    for step in history:
        before = store.table()
        changes = take(store, step)
        for key, frontend in changes.frontends.items():
            if frontend is None:
                del followed[key]  # never told of one that is not there
            else:
                assert frontend.key == key
                followed[key] = frontend
        after = store.table()
        assert followed == after.frontends
        assert all(followed[key] is after.frontends[key] for key in followed)
        if changes.is_visible:
            assert after.generation == before.generation + 1
        else:
            assert after is before
            assert not changes.frontends


@settings(max_examples=150, deadline=None)
@given(histories())
def test_an_old_table_never_changes(history: list[Step]) -> None:
    store = Store(CONFIG)
    tables = []
    for step in history:
        take(store, step)
        table = store.table()
        tables.append((table, msgspec.msgpack.encode(list(table.frontends.values())), repr(table)))
    for table, encoded, text in tables:
        assert msgspec.msgpack.encode(list(table.frontends.values())) == encoded
        assert repr(table) == text


TARGETS = [
    f"{f'[{address}]' if ':' in address else address}:{port}/{protocol}"
    for address in [*ADDRESSES, NODE_IP, "127.0.0.1"]
    for port in (80, 81, 30080)
    for protocol in ("TCP", "UDP", "SCTP")
] + ["default/a", "default/b:http", "default/c:80", "other/a"]


@settings(max_examples=40, deadline=None)
@given(histories(), st.sampled_from(["", "10.0.0.1", NODE_IP, "203.0.113.2", "fd00::1"]))
def test_explain_answers_every_target_and_agrees_with_itself(
    history: list[Step], client: str
) -> None:
    store = Store(CONFIG)
    for step in history:
        take(store, step)
    for target in TARGETS:
        answer = explained(store, target, client)
        for part in answer.get("frontends", [answer]):
            is_forwarded = part["action"] == "forward"
            assert (part["reason"] == "Forwarded") == is_forwarded
            assert bool(part["endpoints"]) == is_forwarded
            assert (part["source"] is not None) == is_forwarded
            assert part["reason"] in REASONS
            # The first check that fails is the last one, and only what is forwarded has none.
            assert [check["ok"] for check in part["checks"]][-1] == is_forwarded
            assert all(check["ok"] for check in part["checks"][:-1])


@settings(max_examples=150, deadline=None)
@given(histories(ages=AGES[:1]))
def test_what_did_not_change_is_shared_and_not_told(history: list[Step]) -> None:
    store = Store(CONFIG)
    for step in history:
        before = store.table().frontends
        changes = take(store, step)
        after = store.table().frontends
        for key, frontend in before.items():
            if after.get(key) == frontend:
                assert after[key] is frontend
                assert key not in changes.frontends
