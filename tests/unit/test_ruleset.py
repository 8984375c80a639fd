"""Rulesets: the verdict of each frontend, what changes when something changes, and the scripts."""

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyproxy.core.decision import decide
from pyproxy.core.ruleset import (
    GUARD_PREFIX,
    UNKNOWN,
    Guard,
    Planner,
    Ruleset,
    collapsed,
    ruleset,
    target_of,
)
from pyproxy.core.ruleset_diff import diff
from pyproxy.core.ruleset_script import base, fresh, layout, remove
from pyproxy.core.transaction import Transaction, script
from pyproxy.forward.forwarder import may_forward
from pyproxy.model.addresses import parse_cidr
from pyproxy.model.events import Deleted
from pyproxy.model.persistent import PersistentMap
from pyproxy.model.service import Service
from pyproxy.model.table import FrontendKey, VipTable
from tests.support.builders import (
    CLIENT,
    CLIENT_V6,
    CLUSTER_IP,
    CLUSTER_IP_V6,
    EXTERNAL_IP,
    LB_IP,
    NODE_IP,
    NODE_IP_V6,
    NODE_PORT,
    POD,
    POD_V6,
    Json,
    applied,
    load_balancer,
    local,
    make_dual_stack_service,
    make_node,
    make_port,
    make_service,
    make_service_cidr,
    make_slice,
    make_store,
    make_table,
    remote,
)
from tests.support.fake_nft import FakeNft, Packet

MARK = 0x100000
CLUSTER: FrontendKey = (CLUSTER_IP, 80, "TCP")
EXTERNAL: FrontendKey = (EXTERNAL_IP, 80, "TCP")
LB: FrontendKey = (LB_IP, 80, "TCP")
NODE_PORT_KEY: FrontendKey = (NODE_IP, NODE_PORT, "TCP")


def listening(table: VipTable) -> frozenset[FrontendKey]:
    return frozenset(key for key, frontend in table.frontends.items() if may_forward(frontend))


def planned(*objects: Json, **more: Any) -> Ruleset:
    table = make_table(*objects, **more)
    return ruleset(table, listening(table))


def verdicts(*objects: Json, **more: Any) -> list[str]:
    """Those of ClusterIP, external IP, load-balancer IP and node port; "" where there is none."""
    services = planned(*objects, **more).services
    found = [services.get(key, "") for key in (CLUSTER, EXTERNAL, LB, NODE_PORT_KEY)]
    return ["guard" if text.startswith(GUARD_PREFIX) else text for text in found]


RANGES = {"loadBalancerSourceRanges": ["203.0.113.0/25"]}
LOCAL_POLICY = {"externalTrafficPolicy": "Local"}


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        pytest.param(
            [load_balancer(), make_slice(local())], ["steer", "steer", "steer", ""], id="forwarded"
        ),
        pytest.param([load_balancer()], ["refuse", "refuse", "refuse", ""], id="no endpoints"),
        pytest.param(
            [load_balancer(internalTrafficPolicy="Local"), make_slice(remote())],
            ["discard", "steer", "steer", ""],
            id="internal policy Local, none here",
        ),
        pytest.param(
            [load_balancer(**LOCAL_POLICY), make_slice(remote())],
            ["steer", "insiders", "insiders", "insiders"],
            id="external policy Local, none here",
        ),
        pytest.param(
            [load_balancer(**LOCAL_POLICY), make_slice(local())],
            ["steer", "steer", "steer", ""],
            id="external policy Local, one here",
        ),
        pytest.param(
            [load_balancer(**RANGES), make_slice(local())],
            ["steer", "steer", "guard", ""],
            id="source ranges",
        ),
        pytest.param(
            [load_balancer(**RANGES)], ["refuse", "refuse", "guard", ""], id="ranges, no endpoints"
        ),
        pytest.param(
            [
                load_balancer(loadBalancerSourceRanges=["0.0.0.0/1", "128.0.0.0/1"]),
                make_slice(local()),
            ],
            ["steer", "steer", "steer", ""],
            id="ranges that hold everybody",
        ),
    ],
)
def test_target(objects: list[Json], expected: list[str]) -> None:
    assert verdicts(*objects) == expected


def test_a_frontend_without_a_listener_is_refused() -> None:
    table = make_table(load_balancer(), make_slice(local()))
    services = ruleset(table, listening(table) - {CLUSTER, NODE_PORT_KEY}).services
    assert services[CLUSTER] == "refuse"
    assert services[EXTERNAL] == "steer"
    assert NODE_PORT_KEY not in services


def test_an_external_address_on_an_interface_needs_no_steering() -> None:
    objects = [load_balancer(**RANGES), make_slice(local())]
    on_interface = {"local_addresses": (NODE_IP, EXTERNAL_IP, LB_IP, CLUSTER_IP)}
    assert verdicts(*objects, **on_interface) == ["", "", "guard", ""]
    assert verdicts(load_balancer(), **on_interface) == ["", "", "", ""]
    # NodeLocal DNSCache listens on the ClusterIP itself, on ports of its own too.
    assert not planned(*objects, **on_interface).cluster_ips


def test_no_usable_list_is_discarded() -> None:
    """A backend that says otherwise than topology would: usable somewhere, in neither list."""
    table = make_table(load_balancer(), make_slice(local()))
    for key in (CLUSTER, LB):
        frontend = table.frontends[key]
        odd = msgspec.structs.replace(frontend.backend, cluster=(), local=())
        frontend = msgspec.structs.replace(frontend, backend=odd)
        assert target_of(frontend, table.node, is_listening=True) == "discard"
        assert decide(frontend, CLIENT, table.node).action == "drop"


def test_own_addresses_are_let_in_where_the_node_is() -> None:
    """PARITY 7.3."""
    more = {"loadBalancerSourceRanges": [f"{NODE_IP}/32"], "lb_ips": [LB_IP, "1.2.3.5"]}
    (guard,) = planned(load_balancer(**more), make_slice(local())).guards.values()
    assert [str(cidr) for cidr in guard.allowed] == ["1.2.3.4/31", f"{NODE_IP}/32"]


def test_equal_guards_are_one_chain_that_goes_with_its_last_user() -> None:
    first = load_balancer(**RANGES)
    second = load_balancer(
        name="other", cluster_ip="172.30.0.42", lb_ips=["1.2.3.6"], externalIPs=[], ports=[
            make_port()
        ], **RANGES,
    )  # fmt: skip
    store = make_store(first, second, make_slice(local()), make_slice(local(), service="other"))
    planner = Planner()

    def plan() -> Ruleset:
        table = store.table()
        return planner.plan(table, listening(table))

    both = plan()
    (name,) = both.guards
    assert list(both.services.values()).count(name) == 2
    store.apply(Deleted("services", ("default", "web")))
    assert list(plan().guards) == [name]
    store.apply(Deleted("services", ("default", "other")))
    none = plan()
    assert not none.guards
    assert f"delete chain inet pyproxy {name}" in script(diff(both, none).steps)


def test_networks_are_collapsed() -> None:
    texts = ["10.0.0.0/9", "fd00::/64", "10.128.0.0/9", "10.1.0.0/16", "10.96.0.0/12"]
    assert list(map(str, collapsed([*map(parse_cidr, texts)]))) == ["10.0.0.0/8", "fd00::/64"]


def test_an_endpoint_change_that_alters_no_verdict_is_no_transaction() -> None:
    store = make_store(load_balancer(), make_slice(local()))
    planner = Planner()
    table = store.table()
    before = planner.plan(table, listening(table))
    changes = store.apply(applied(make_slice(local(), remote(), local("10.180.0.7"))))
    assert len(changes.frontends) == 6  # all of them lead to other endpoints
    table = store.table()
    after = planner.plan(table, listening(table), changes.frontends)
    assert not diff(before, after)
    assert after.services.differences(before.services) == set()


@pytest.mark.parametrize(
    ("change", "operations"),
    [
        pytest.param(make_service("new", cluster_ip="172.30.0.50"), 2, id="a new Service"),
        pytest.param(make_slice(remote()), 0, id="an endpoint"),
        # Verdicts of three addresses change: each goes and comes.
        pytest.param(make_slice(), 6, id="the last endpoint"),
        pytest.param(make_service_cidr("172.30.0.0/16"), 1, id="a ServiceCIDR"),
    ],
)
def test_number_of_operations(change: Json, operations: int) -> None:
    store = make_store(load_balancer(), make_slice(local()))
    before = ruleset(store.table(), listening(store.table()))
    store.apply(applied(change))
    after = ruleset(store.table(), listening(store.table()))
    assert diff(before, after).operations == operations
    assert not diff(after, after)


def test_a_transaction_is_cut_only_between_whole_verdicts() -> None:
    keys: list[FrontendKey] = [(f"10.96.{i >> 8}.{i & 255}", 80, "TCP") for i in range(1000)]
    before = Ruleset(services=PersistentMap(dict.fromkeys(keys, "steer")))
    after = Ruleset(services=PersistentMap(dict.fromkeys(keys, "refuse")))
    change = diff(before, after)
    assert change.operations == 2000
    for step in change.steps:
        gone, come = script([step]).splitlines()
        assert gone.startswith("delete element")
        assert come.startswith("add element")
        assert gone.count(",") == come.count(",")


def test_overlapping_networks_are_changed_in_one_step() -> None:
    before = Ruleset(pod_networks=frozenset({parse_cidr("10.0.0.0/8"), parse_cidr("fd00::/64")}))
    after = Ruleset(pod_networks=frozenset({parse_cidr("10.244.0.0/16")}))
    assert diff(before, after).steps == (
        "delete element inet pyproxy pods4 { 10.0.0.0/8 }\n"
        "add element inet pyproxy pods4 { 10.244.0.0/16 }",
        "delete element inet pyproxy pods6 { fd00::/64 }",
    )


def test_only_tcp_is_retired() -> None:
    """UDP has no packet that tells an old connection from a new one."""
    keys: list[FrontendKey] = [("10.96.0.1", 53, "TCP"), ("10.96.0.1", 53, "UDP")]
    before = Ruleset(services=PersistentMap(dict.fromkeys(keys, "steer")))
    for key, count in zip(keys, (2, 1), strict=True):
        after = Ruleset(services=before.services.changed({key: None}))
        assert diff(before, after).operations == count
        assert ("retired4" in script(diff(before, after).steps)) == (key[2] == "TCP")


def test_a_guard_of_unknown_content_is_written_again() -> None:
    guard = Guard((parse_cidr("fd00::/64"),), "steer")
    found = Ruleset(guards=PersistentMap({guard.chain: UNKNOWN}))
    known = Ruleset(guards=PersistentMap({guard.chain: guard}))
    (step,) = diff(found, known).steps
    assert isinstance(step, str)
    assert f"flush chain inet pyproxy {guard.chain}" in step
    assert "ip6 saddr != { fd00::/64 } drop" in step
    assert not diff(known, found).operations


def test_the_layout_is_known_by_its_content() -> None:
    assert layout(MARK) == layout(MARK) != layout(MARK << 1)
    assert layout(MARK, checks_pods=False) != layout(MARK)
    assert layout(MARK) in script(base(MARK).steps)
    both = fresh(MARK) + Transaction()
    assert script(both.steps).startswith(
        "add table inet pyproxy\ndelete table inet pyproxy\nadd table"
    )
    assert both
    assert not Transaction()
    assert remove().steps == ("add table inet pyproxy\ndelete table inet pyproxy",)


POLICIES = st.sampled_from(["Cluster", "Local"])


@st.composite
def services(draw: st.DrawFn) -> list[Json]:
    """One or two Services that overlap in their external addresses, and their slices."""
    objects = [make_service_cidr("172.30.0.0/16", "fd00:172:30::/112"), make_node(pod_cidrs=None)]
    for number, name in enumerate(draw(st.sampled_from([["web"], ["web", "api"]]))):
        ranges = draw(st.sampled_from([[], ["10.0.0.0/8"], ["203.0.113.0/25", f"{NODE_IP}/32"]]))
        objects.append(
            make_dual_stack_service(
                name,
                cluster_ip=f"172.30.0.{41 + number}",
                ports=[
                    make_port(80, node_port=NODE_PORT + number),
                    make_port(53, "dns", "UDP", node_port=NODE_PORT),
                ],
                type="LoadBalancer",
                externalIPs=draw(st.sampled_from([[], [EXTERNAL_IP, "2001:db8::99"], [NODE_IP]])),
                lb_ips=draw(st.sampled_from([[], [LB_IP], [LB_IP, "1.2.3.5"]])),
                internalTrafficPolicy=draw(POLICIES),
                externalTrafficPolicy=draw(POLICIES),
                loadBalancerSourceRanges=ranges,
            )
        )
        if number:
            objects[-1]["spec"]["clusterIPs"] = ["172.30.0.42", "fd00:172:30::42"]
        found = draw(
            st.lists(st.sampled_from([local(), remote(), local("10.180.0.3", ready=False)]))
        )
        ports = [
            {"name": "http", "protocol": "TCP", "port": 80},
            {"name": "dns", "protocol": "UDP", "port": 53},
        ]
        objects.append(make_slice(*found, service=name, name=f"{name}-4", ports=ports))
    return objects


CLIENTS = (CLIENT, POD, NODE_IP, "203.0.113.130", CLIENT_V6, POD_V6, NODE_IP_V6, LB_IP)


@settings(max_examples=150, deadline=None)
@given(services(), st.data())
def test_the_kernel_says_what_the_decision_says(objects: list[Json], data: st.DataObject) -> None:
    table = make_table(*objects)
    listeners = listening(table)
    nft = FakeNft()
    change = fresh(MARK) + diff(Ruleset(), ruleset(table, listeners))
    asyncio.run(nft.run(change.steps))
    for key, frontend in table.frontends.items():
        is_local = key[0] in table.node.local_addresses
        for client in CLIENTS:
            if (":" in client) != (":" in key[0]):
                continue
            packet = Packet(
                source=client,
                destination=key[0],
                port=key[1],
                protocol=key[2],
                from_node=client in table.node.local_addresses,
                local=table.node.local_addresses,
            )
            action = decide(frontend, client, table.node).action
            expected = {"forward": "steer", "reject": "refuse", "drop": "discard"}[action]
            found = nft.trace(packet)
            # The kernel needs no word for what it does by itself.
            assert found == expected or (is_local and found == "accept" and action != "drop")
    for address in (CLUSTER_IP, CLUSTER_IP_V6):
        assert nft.trace(Packet(source=POD, destination=address, port=81)) == "refuse"
    for address in ("172.30.9.9", "fd00:172:30::9"):
        assert nft.trace(Packet(source=POD, destination=address)) == "discard"


@settings(max_examples=100, deadline=None)
@given(st.lists(services(), min_size=2, max_size=5), st.booleans(), st.data())
def test_a_plan_by_changes_equals_a_whole_one(
    steps: list[list[Json]], with_hint: bool, data: st.DataObject
) -> None:
    store, planner, nft = make_store(), Planner(), FakeNft()
    applied_before = Ruleset()
    asyncio.run(nft.run(fresh(MARK).steps))
    heard: frozenset[FrontendKey] = frozenset()
    for objects in steps:
        changed: set[FrontendKey] = set()
        wanted = {(o["kind"], o["metadata"]["name"]) for o in objects}
        for value in list(store.services().values()):
            if isinstance(value, Service) and ("Service", value.name) not in wanted:
                changed |= store.apply(
                    Deleted("services", (value.namespace, value.name))
                ).frontends.keys()
        for found in objects:
            changed |= store.apply(applied(found)).frontends.keys()
        table = store.table()
        faults = data.draw(st.sampled_from([frozenset(), frozenset({LB, CLUSTER})]))
        now = listening(table) - faults
        hint = changed | (now ^ heard) if with_hint else None
        heard = now
        wanted_now = planner.plan(table, now, hint)
        assert wanted_now == ruleset(table, now)
        change = diff(applied_before, wanted_now)
        assert change == diff(applied_before, ruleset(table, now))
        asyncio.run(nft.run(change.steps))
        kernel = asyncio.run(nft.read())
        assert kernel is not None
        assert kernel.ruleset.services == wanted_now.services
        assert kernel.ruleset.guards.keys() == wanted_now.guards.keys()
        applied_before = wanted_now


def test_the_same_table_again_changes_nothing() -> None:
    table = make_table(load_balancer(), make_slice(local()))
    planner, listeners = Planner(), listening(table)
    first = planner.plan(table, listeners)
    assert first == ruleset(table, listeners)
    assert not diff(first, planner.plan(table, listeners))


def test_a_cluster_ip_on_the_loopback_network_is_left_to_the_host() -> None:
    """All of 127.0.0.0/8 is local: packets arrive by themselves, and nothing of it is refused."""
    table = make_table(make_service(cluster_ip="127.96.0.10"), make_slice(local()))
    key: FrontendKey = ("127.96.0.10", 80, "TCP")
    made = ruleset(table, frozenset({key}))
    assert key not in made.services
    assert "127.96.0.10" not in made.cluster_ips
