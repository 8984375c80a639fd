"""Which parts of a Service get a local address."""

from pyproxy.core.local_service import Claimant, LocalService, Wanted, wanted_of
from pyproxy.model.service import ServicePort
from tests.support.builders import Json, endpoint_slice, make_endpoint, make_port, service

HTTP = ServicePort("http", "TCP", 80)
MIXED = [make_port(53, "dns", "UDP"), make_port(53, "dns-tcp"), make_port(9, "s", "SCTP")]


def pod(name: str, address: str, **more: object) -> Json:
    return make_endpoint(address, targetRef={"kind": "Pod", "name": name}, **more)  # type: ignore[arg-type]


def headless(*slices: object) -> LocalService:
    found = service(name="db", cluster_ip="None")
    return LocalService(context="kind", service=found, slices=slices)  # type: ignore[arg-type]


def test_a_service_gets_one_address_with_its_own_ports() -> None:
    local = LocalService(context="kind", service=service())
    assert local.kind == "ClusterIP"
    assert wanted_of(local) == (Wanted(Claimant("kind", "default", "web"), (HTTP,)),)


def test_ports_of_protocols_that_nobody_forwards_are_left_out() -> None:
    local = LocalService(service=service(ports=MIXED))
    (both,) = wanted_of(local)
    assert [(port.port, port.protocol) for port in both.ports] == [(53, "UDP"), (53, "TCP")]
    (one,) = wanted_of(local, frozenset({"TCP"}))
    assert [port.name for port in one.ports] == ["dns-tcp"]


def test_an_external_name_is_a_name_only() -> None:
    local = LocalService(service=service(type="ExternalName", externalName="example.com"))
    assert local.kind == "ExternalName"
    assert wanted_of(local) == ()


def test_each_ready_pod_of_a_headless_service_gets_an_address_with_the_pods_own_ports() -> None:
    local = headless(
        endpoint_slice(
            pod("db-1", "10.0.0.2"),
            pod("db-0", "10.0.0.1"),
            pod("db-2", "10.0.0.3", ready=False),
            service="db",
            ports=[
                {"name": "sql", "protocol": "TCP", "port": 5432},
                {"name": "s", "protocol": "SCTP", "port": 9},
            ],
        )
    )
    assert local.kind == "Headless"
    assert local.ready_count == 2
    sql = (ServicePort("sql", "TCP", 5432),)
    assert wanted_of(local) == (
        Wanted(Claimant("kind", "default", "db", "db-0"), sql, ("10.0.0.1",)),
        Wanted(Claimant("kind", "default", "db", "db-1"), sql, ("10.0.0.2",)),
    )


def test_a_pod_in_slices_of_both_families_is_one_pod() -> None:
    local = headless(
        endpoint_slice(pod("db-0", "10.0.0.1"), service="db", name="db-b"),
        endpoint_slice(pod("db-0", "fd00::1"), service="db", name="db-a", address_type="IPv6"),
    )
    assert local.ready_count == 1
    (only,) = wanted_of(local)
    assert only == Wanted(
        Claimant("kind", "default", "db", "db-0"), (HTTP,), ("10.0.0.1", "fd00::1")
    )


def test_an_endpoint_without_a_name_that_dns_can_carry_goes_by_its_address() -> None:
    local = headless(
        endpoint_slice("10.0.0.1", pod("my.pod", "10.0.0.2"), service="db"),
        endpoint_slice("fd00::1", service="db", name="db-6", address_type="IPv6"),
    )
    names = [want.claimant.pod for want in wanted_of(local)]
    assert names == ["10-0-0-1", "10-0-0-2", "fd00--1"]


def test_a_claimant_reads_as_a_person_writes_it() -> None:
    claimant = Claimant("kind", "default", "db", "db-0")
    assert str(claimant) == "default/db/db-0"
    assert str(claimant.service) == "default/db"
