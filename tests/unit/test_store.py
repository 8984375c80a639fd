"""The store: one event in, what it changed out; a table that never changes."""

import time
from typing import Any

import msgspec
import pytest

from pyproxy.config import ProxyConfig
from pyproxy.core.store import Changes, Store
from pyproxy.model.events import RESOURCES, Deleted, Listed
from pyproxy.model.service import ServiceName
from pyproxy.model.table import FrontendKey
from tests.support.builders import (
    CLUSTER_IP,
    CONFIG,
    EXTERNAL_IP,
    LB_IP,
    NODE,
    NODE_IP,
    NODE_IP_ALT,
    NODE_PORT,
    VIP,
    Json,
    applied,
    decoded,
    endpoint_slice,
    hinted,
    load_balancer,
    make_node,
    make_port,
    make_service,
    make_service_cidr,
    make_slice,
    make_store,
    node_ports,
    outcome,
    service,
    with_config,
)

WEB: FrontendKey = (CLUSTER_IP, 80, "TCP")
NAME = ServiceName("default", "web")
NOTHING = Changes({}, is_visible=False)


def endpoints(store: Store, key: FrontendKey = WEB) -> list[str]:
    return [str(endpoint) for endpoint in store.table().frontends[key].backend.cluster]


# --- events ------------------------------------------------------------------------------------


def test_it_is_synced_when_every_resource_was_listed() -> None:
    store = Store(CONFIG)
    for resource in RESOURCES:
        assert not store.is_synced
        store.apply(Listed(resource, ()))
    assert store.is_synced
    assert store.config is CONFIG


@pytest.mark.parametrize("refuses", [True, False])
def test_loopback_endpoints_are_for_those_who_trust_who_writes_them(refuses: bool) -> None:
    store = make_store(
        make_service(), config=msgspec.structs.replace(CONFIG, refuses_loopback=refuses)
    )
    changes = store.apply(applied(make_slice("127.0.0.1", "10.0.0.3")))
    assert endpoints(store) == ["10.0.0.3:80"] + ["127.0.0.1:80"] * (not refuses)
    told = ["loopback addresses are no endpoints" in note.text for note in changes.notes]
    assert told == [True] * refuses
    store.apply(applied(make_slice("10.0.0.4")))
    assert endpoints(store) == ["10.0.0.4:80"]


def test_an_event_names_the_frontends_that_changed() -> None:
    store = make_store()
    changes = store.apply(applied(make_service()))
    assert changes.is_visible
    assert changes.frontends == {WEB: store.table().frontends[WEB]}
    changes = store.apply(applied(make_slice("10.180.0.1")))
    assert changes.frontends == {WEB: store.table().frontends[WEB]}
    assert endpoints(store) == ["10.180.0.1:80"]
    changes = store.apply(Deleted("services", NAME))
    assert changes.frontends == {WEB: None}
    assert store.table().frontends == {}
    assert store.table().cluster_ips == {}


def test_objects_may_come_in_any_order() -> None:
    store = make_store()
    assert store.apply(applied(make_slice("10.180.0.1"))) == NOTHING
    store.apply(applied(make_service()))
    assert endpoints(store) == ["10.180.0.1:80"]


def test_endpoints_outlive_their_service() -> None:
    store = make_store(make_service(), make_slice("10.180.0.1"))
    store.apply(Deleted("services", NAME))
    store.apply(applied(make_service()))
    assert endpoints(store) == ["10.180.0.1:80"]


def test_saying_the_same_twice_changes_nothing() -> None:
    objects = [load_balancer(), make_slice("10.180.0.1"), make_node(), make_service_cidr("::/64")]
    store = make_store(*objects)
    table = store.table()
    for data in objects:
        assert store.apply(applied(data)) == NOTHING
    assert store.apply(Listed("services", (decoded(objects[0]),))) == NOTHING
    assert store.apply(Deleted("services", ("default", "unknown"))) == NOTHING
    assert store.table() is table


def test_a_difference_that_is_not_visible_changes_no_table() -> None:
    store = make_store(make_service(), make_slice("10.180.0.1"))
    table = store.table()
    data = make_slice("10.180.0.1", annotations={"x": "y"}, labels={"a": "b"})
    assert store.apply(applied(data)) == NOTHING
    assert store.apply(applied(make_service(type="NodePort"))) == NOTHING
    assert store.table() is table


def test_a_list_removes_what_is_not_in_it() -> None:
    store = make_store(
        make_service(), make_service("old", cluster_ip="172.30.0.42"), make_slice("10.180.0.1")
    )
    changes = store.apply(
        Listed("services", (service(), service(name="new", cluster_ip="172.30.0.43")))
    )
    assert changes.frontends == {
        ("172.30.0.42", 80, "TCP"): None,
        ("172.30.0.43", 80, "TCP"): store.table().frontends["172.30.0.43", 80, "TCP"],
    }
    changes = store.apply(Listed("endpointslices", ()))
    assert set(changes.frontends) == {WEB}
    assert outcome(store, VIP) == "reject NoEndpointSlice"


def test_deleting_one_of_several_slices_removes_its_endpoints_only() -> None:
    store = make_store(
        make_service(), make_slice("10.180.0.1", name="a"), make_slice("10.180.0.2", name="b")
    )
    assert store.slices_of(NAME) == (
        endpoint_slice("10.180.0.1", name="a"),
        endpoint_slice("10.180.0.2", name="b"),
    )
    store.apply(Deleted("endpointslices", ("default", "a")))
    assert endpoints(store) == ["10.180.0.2:80"]
    store.apply(Deleted("endpointslices", ("default", "b")))
    assert endpoints(store) == []
    assert store.slices_of(NAME) == ()


def test_a_slice_may_move_to_another_service_or_to_none() -> None:
    store = make_store(
        make_service(),
        make_service("other", cluster_ip="172.30.0.42"),
        make_slice("10.180.0.1", name="s"),
    )
    other: FrontendKey = ("172.30.0.42", 80, "TCP")
    changes = store.apply(applied(make_slice("10.180.0.1", name="s", service="other")))
    assert set(changes.frontends) == {WEB, other}
    assert (endpoints(store), endpoints(store, other)) == ([], ["10.180.0.1:80"])
    store.apply(applied(make_slice("10.180.0.1", name="s", service=None)))
    assert endpoints(store, other) == []
    headless = {"service.kubernetes.io/headless": ""}
    store.apply(applied(make_slice("10.180.0.1", name="s", labels=headless)))
    assert endpoints(store) == []
    store.apply(applied(make_slice("10.180.0.1", name="s")))
    assert endpoints(store) == ["10.180.0.1:80"]


def test_removing_or_renaming_a_port_removes_that_entry_only() -> None:
    ports = [make_port(80, "http"), make_port(81, "admin")]
    store = make_store(make_service(ports=ports), make_slice("10.180.0.1"))
    kept = store.table().frontends[WEB]
    changes = store.apply(applied(make_service(ports=ports[:1])))
    assert changes.frontends == {(CLUSTER_IP, 81, "TCP"): None}
    assert store.table().frontends == {WEB: kept}
    changes = store.apply(applied(make_service(ports=[make_port(80, "web")])))
    renamed = changes.frontends[WEB]
    assert renamed is not None
    assert renamed.backend.name.port == "web"


def test_a_service_comes_and_goes_by_its_type_and_by_its_label() -> None:
    store = make_store(make_service(), make_slice("10.180.0.1"))
    away: list[dict[str, Any]] = [
        {"type": "ExternalName"},
        {"cluster_ip": "None"},
        {"cluster_ip": ""},
        {"labels": {"service.kubernetes.io/service-proxy-name": ""}},
    ]
    for more in away:
        assert store.apply(applied(make_service(**more))).frontends == {WEB: None}
        assert store.table().cluster_ips == {}
        assert store.frontends_of(NAME) == ()
        assert set(store.apply(applied(make_service())).frontends) == {WEB}
        assert store.table().cluster_ips == {CLUSTER_IP: NAME}


def test_a_recreated_service_with_another_cluster_ip_is_served_there_only() -> None:
    store = make_store(make_service(), make_slice("10.180.0.1"))
    changes = store.apply(applied(make_service(cluster_ip="172.30.0.99")))
    assert changes.frontends[WEB] is None
    assert set(store.table().frontends) == {("172.30.0.99", 80, "TCP")}
    assert set(store.table().cluster_ips) == {"172.30.0.99"}


def test_sharing_one_event_touches_its_own_service_only() -> None:
    store = make_store(
        make_service(),
        make_service("other", cluster_ip="172.30.0.42", externalIPs=[EXTERNAL_IP]),
        make_slice("10.180.0.1"),
        make_slice("10.180.0.2", service="other"),
    )
    before = store.table()
    store.apply(applied(make_slice("10.180.0.3")))
    after = store.table()
    assert after is not before
    for key in after.frontends.keys() - {WEB}:
        assert after.frontends[key] is before.frontends[key]
    assert [str(e) for e in before.frontends[WEB].backend.cluster] == ["10.180.0.1:80"]


def test_all_frontends_of_a_port_share_its_backend() -> None:
    store = make_store(load_balancer(), make_slice("10.180.0.1"))
    backends = {id(frontend.backend) for frontend in store.table().frontends.values()}
    assert len(store.table().frontends) > 3
    assert len(backends) == 1
    kept = store.table().frontends[WEB]
    changes = store.apply(applied(load_balancer(externalIPs=[])))
    assert changes.frontends == {(EXTERNAL_IP, 80, "TCP"): None}
    assert store.table().frontends[WEB] is kept


def test_the_generation_grows_by_one_with_every_visible_change() -> None:
    store = make_store()
    seen = [store.table().generation]
    for data in (make_service(), make_slice("10.180.0.1"), make_service_cidr("172.30.0.0/16")):
        store.apply(applied(data))
        seen.append(store.table().generation)
        store.apply(applied(data))
        assert store.table().generation == seen[-1]
    assert seen == list(range(seen[0], seen[0] + 4))


# --- the node ----------------------------------------------------------------------------------


def test_a_zone_change_recomputes_and_other_label_changes_do_not() -> None:
    store = make_store(make_service(), make_slice(*hinted(("zone-a", ""), ("zone-b", ""))))
    assert endpoints(store) == ["10.180.0.1:80"]
    data = make_node()
    data["metadata"]["labels"]["other"] = "x"
    assert store.apply(applied(data)) == NOTHING
    changes = store.apply(applied(make_node(zone="zone-b")))
    assert set(changes.frontends) == {WEB}
    assert endpoints(store) == ["10.180.0.2:80"]
    assert store.table().node.zone == "zone-b"
    store.apply(Deleted("nodes", ("", NODE)))
    assert endpoints(store) == ["10.180.0.1:80", "10.180.0.2:80"]


def test_other_nodes_do_not_matter() -> None:
    store = make_store(make_service(), make_slice(*hinted(("zone-a", ""), ("zone-b", ""))))
    assert store.apply(applied(make_node("node-2", zone="zone-b"))) == NOTHING
    assert store.apply(Deleted("nodes", ("", "node-2"))) == NOTHING


def test_new_local_addresses_serve_node_ports() -> None:
    store = make_store(
        make_service(ports=[make_port(node_port=NODE_PORT)]), local_addresses=(NODE_IP,)
    )
    key: FrontendKey = (NODE_IP_ALT, NODE_PORT, "TCP")
    assert key not in store.table().frontends
    addresses = frozenset({NODE_IP, NODE_IP_ALT})
    changes = store.set_local_addresses(addresses)
    assert set(changes.frontends) == {
        key,
        ("127.0.0.1", NODE_PORT, "TCP"),
    }
    assert changes.frontends["127.0.0.1", NODE_PORT, "TCP"] is None
    assert store.table().node.local_addresses == addresses
    assert store.set_local_addresses(addresses) == NOTHING


def test_local_addresses_are_a_visible_change_even_without_frontends() -> None:
    store = make_store(config=with_config(node_port_addresses=node_ports("172.16.0.0/12")))
    changes = store.set_local_addresses(frozenset({"10.0.0.9"}))
    assert (changes.is_visible, changes.frontends) == (True, {})


def test_the_service_cidrs_of_all_objects_count() -> None:
    store = make_store(make_service_cidr("172.30.0.0/16"))
    changes = store.apply(applied(make_service_cidr("10.99.0.0/24", name="second")))
    assert (changes.is_visible, changes.frontends) == (True, {})
    assert {str(cidr) for cidr in store.table().service_cidrs} == {"172.30.0.0/16", "10.99.0.0/24"}
    store.apply(Deleted("servicecidrs", ("", "kubernetes")))
    assert {str(cidr) for cidr in store.table().service_cidrs} == {"10.99.0.0/24"}


def test_beside_another_proxy_service_cidrs_do_not_count() -> None:
    store = make_store(config=with_config(proxy_name="mine"))
    assert store.apply(applied(make_service_cidr("172.30.0.0/16"))) == NOTHING
    assert store.table().service_cidrs == frozenset()


# --- contests ----------------------------------------------------------------------------------

CONTESTED: FrontendKey = (EXTERNAL_IP, 80, "TCP")


def claimant(name: str, number: int, created: str, **more: Any) -> Json:
    more = {"externalIPs": [EXTERNAL_IP], **more}
    return make_service(name, cluster_ip=f"172.30.0.{number}", created=created, **more)


def holder(store: Store, key: FrontendKey = CONTESTED) -> str:
    return store.table().frontends[key].backend.name.name


def test_the_older_of_two_services_holds_an_external_ip_until_it_goes() -> None:
    young = claimant("a-young", 1, "2026-02-01T00:00:00Z")
    old = claimant("z-old", 2, "2026-01-01T00:00:00Z")
    store = make_store()
    store.apply(applied(young))
    assert holder(store) == "a-young"
    changes = store.apply(applied(old))
    assert holder(store) == "z-old"
    assert CONTESTED in changes.frontends
    assert [note.text for note in changes.notes] == [
        f"{EXTERNAL_IP}:80/TCP is claimed by default/z-old:http, default/a-young:http;"
        " default/z-old:http holds it, the others are not reached there: give each Service an"
        " address or port of its own",
    ]
    names = [rival.backend.name.name for rival in store.rivals(CONTESTED)]
    assert names == ["z-old", "a-young"]
    assert len(store.frontends_of(ServiceName("default", "a-young"))) == 2
    changes = store.apply(Deleted("services", ("default", "z-old")))
    assert holder(store) == "a-young"
    assert changes.frontends[CONTESTED] is store.table().frontends[CONTESTED]
    assert store.rivals(CONTESTED) == ()


def test_of_two_services_of_one_age_the_name_decides() -> None:
    store = make_store(
        claimant("b", 1, "2026-01-01T00:00:00Z"), claimant("a", 2, "2026-01-01T00:00:00Z")
    )
    assert holder(store) == "a"


def test_an_external_ip_takes_over_neither_a_cluster_ip_nor_a_load_balancer_ip() -> None:
    """CVE-2020-8554: whoever may write a Service may write any external IP into it."""
    store = make_store(
        make_service("victim", lb_ips=[LB_IP], created="2026-02-01T00:00:00Z"),
        claimant("thief", 9, "2026-01-01T00:00:00Z", externalIPs=[CLUSTER_IP, LB_IP]),
    )
    assert holder(store, WEB) == "victim"
    assert holder(store, (LB_IP, 80, "TCP")) == "victim"


def test_a_service_that_loses_a_contest_changes_nothing_there() -> None:
    store = make_store(
        claimant("old", 1, "2026-01-01T00:00:00Z"), claimant("new", 2, "2026-02-01T00:00:00Z")
    )
    held = store.table().frontends[CONTESTED]
    changes = store.apply(applied(make_slice("10.180.0.1", service="new")))
    assert set(changes.frontends) == {("172.30.0.2", 80, "TCP")}
    assert store.table().frontends[CONTESTED] is held
    changes = store.apply(applied(make_slice("10.180.0.1", service="old")))
    assert set(changes.frontends) == {("172.30.0.1", 80, "TCP"), CONTESTED}
    changes = store.apply(Deleted("services", ("default", "new")))
    assert changes.frontends == {("172.30.0.2", 80, "TCP"): None}
    assert holder(store) == "old"


def test_an_address_that_is_external_and_load_balancer_ip_of_one_service_is_no_contest() -> None:
    store = make_store()
    changes = store.apply(applied(make_service(externalIPs=[LB_IP], lb_ips=[LB_IP])))
    assert changes.notes == ()
    assert store.table().frontends[LB_IP, 80, "TCP"].kind == "LoadBalancer"


def test_two_services_with_one_cluster_ip_share_it_by_port() -> None:
    store = make_store(
        make_service("b", ports=[make_port(80)]), make_service("a", ports=[make_port(443)])
    )
    assert holder(store, WEB) == "b"
    assert holder(store, (CLUSTER_IP, 443, "TCP")) == "a"
    store.apply(Deleted("services", ("default", "a")))
    assert store.table().cluster_ips == {CLUSTER_IP: ServiceName("default", "b")}


# --- bad input, big input ----------------------------------------------------------------------


def test_a_service_with_a_bad_port_serves_its_other_ports() -> None:
    store = make_store()
    changes = store.apply(applied(make_service(ports=[make_port(0, "zero"), make_port(80)])))
    assert set(changes.frontends) == {WEB}
    assert [note.text for note in changes.notes] == [
        "Service default/web: spec.ports: port 0 is not within 1 to 65535"
    ]


def test_a_slice_for_an_unknown_service_harms_nobody() -> None:
    store = make_store(make_service(), make_slice("10.180.0.1"))
    assert store.apply(applied(make_slice("10.180.0.9", service="ghost"))) == NOTHING
    assert endpoints(store) == ["10.180.0.1:80"]


def test_ten_thousand_services_without_slices_are_listed_quickly() -> None:
    services = tuple(
        service(name=f"s{n}", cluster_ip=f"10.{96 + n // 65536}.{n // 256 % 256}.{n % 256}")
        for n in range(10_000)
    )
    store = Store(ProxyConfig(node_name=NODE))
    began = time.monotonic()
    changes = store.apply(Listed("services", services))
    assert len(changes.frontends) == len(store.table().frontends) == 10_000
    assert not any(frontend.backend.has_any for frontend in store.table().frontends.values())
    assert store.apply(Listed("services", services)) == NOTHING
    assert time.monotonic() - began < 20  # about 0.5 s; a quadratic step would take minutes


def test_services_are_all_there_proxied_or_not() -> None:
    store = make_store(make_service(), make_service("x", type="ExternalName"))
    assert set(store.services()) == {("default", "web"), ("default", "x")}
    assert store.frontends_of(ServiceName("default", "nobody")) == ()
