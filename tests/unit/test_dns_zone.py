"""What DNS says: the cluster's records with local places, and nothing of others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.core.dns_zone import Answer, Zone, zone_of
from pyproxy.core.local_names import Scope, names_of
from pyproxy.core.local_service import Claimant, LocalService
from pyproxy.core.loopback import LocalPort, Placement, Placements
from tests.support.builders import service

D = "cluster.local"
WEB = Claimant("", "default", "web")
DB = Claimant("", "default", "db")
PORTS = (LocalPort("http", "TCP", 80, 8080), LocalPort("", "TCP", 81, 8081))


def external(name: str, target: str) -> LocalService:
    return LocalService(service=service(name=name, type="ExternalName", externalName=target))


def zone(*more: LocalService, shared: bool = False) -> Zone:
    services = (
        LocalService(service=service()),
        LocalService(service=service(name="db", cluster_ip="None")),
        LocalService(service=service(name="empty", cluster_ip="None")),
        external("ext", "Example.com."),
        external("inside", f"web.default.svc.{D}"),
        *more,
    )
    sql = (LocalPort("sql", "TCP", 5432, 5432),)
    placed: list[Placement] = [
        Placement(DB._replace(pod="db-1"), "127.5.6.9", sql),
        Placement(DB._replace(pod="db-0"), "127.5.6.9" if shared else "127.5.6.8", sql),
        Placement(WEB, "127.5.6.7", PORTS),
    ]
    placements: Placements = {p.claimant: p for p in placed}
    names = names_of([*(local.claimant for local in services), *placements], Scope())
    return zone_of(services, placements, names, D)


def ask(name: str, kind: str = "A") -> Answer:
    return zone().answer(name, kind)


def said(name: str, kind: str = "A") -> list[str]:
    answer = ask(name, kind)
    assert answer.rcode == "NOERROR"
    return [f"{record.type} {record.data}" for record in answer.answers]


@pytest.mark.parametrize(
    "name", ["web", "web.default", "web.default.svc", "web.default.svc.cluster.local"]
)
def test_a_service_has_its_address_in_every_form_of_its_name(name: str) -> None:
    assert said(name) == ["A 127.5.6.7"]
    assert ask(name).answers[0].name == name


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("db", ["A 127.5.6.8", "A 127.5.6.9"]),
        ("db.default.svc.cluster.local", ["A 127.5.6.8", "A 127.5.6.9"]),
        ("db-0.db", ["A 127.5.6.8"]),
        ("db-1.db.default.svc.cluster.local", ["A 127.5.6.9"]),
    ],
)
def test_a_headless_service_has_those_of_its_pods_and_each_pod_its_own(
    name: str, addresses: list[str]
) -> None:
    assert said(name) == addresses


def test_a_headless_service_without_a_ready_pod_is_not_there() -> None:
    assert ask(f"empty.default.svc.{D}").rcode == "NXDOMAIN"


@pytest.mark.parametrize("host", ["web", "web.default.svc", f"web.default.svc.{D}"])
def test_a_named_port_has_a_srv_record_with_the_local_port_and_the_address(host: str) -> None:
    answer = ask(f"_http._tcp.{host}", "SRV")
    assert said(f"_http._tcp.{host}", "SRV") == [f"SRV 0 100 8080 web.default.svc.{D}."]
    assert answer.additional == ((f"web.default.svc.{D}", "A", "127.5.6.7"),)


def test_a_named_port_of_a_headless_service_is_at_each_pod() -> None:
    assert said(f"_sql._tcp.db.default.svc.{D}", "SRV") == [
        f"SRV 0 100 5432 db-0.db.default.svc.{D}.",
        f"SRV 0 100 5432 db-1.db.default.svc.{D}.",
    ]
    assert len(ask(f"_sql._tcp.db.default.svc.{D}", "SRV").additional) == 2


@pytest.mark.parametrize("port", ["_http._udp", "_https._tcp", "_._tcp", "_.x", "_http"])
def test_a_port_that_is_not_there_has_no_name(port: str) -> None:
    assert ask(f"{port}.web.default.svc.{D}", "SRV").rcode == "NXDOMAIN"
    assert ask(f"_http._tcp.ext.default.svc.{D}", "SRV").rcode == "NXDOMAIN"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (f"web.default.svc.{D}", "AAAA"),
        (f"web.default.svc.{D}", "MX"),
        (f"_http._tcp.web.default.svc.{D}", "A"),
        (f"_tcp.web.default.svc.{D}", "A"),
        (f"default.svc.{D}", "A"),
        (f"svc.{D}", "A"),
        (D, "A"),
    ],
)
def test_a_name_that_is_there_has_no_data_of_other_types(name: str, kind: str) -> None:
    answer = ask(name, kind)
    assert (answer.rcode, answer.answers) == ("NOERROR", ())
    assert [record.type for record in answer.authority] == ["SOA"]


@pytest.mark.parametrize("name", ["web", "web.default.svc", "default.svc"])
def test_a_short_name_has_no_data_either_but_no_soa_above_it(name: str) -> None:
    assert ask(name, "AAAA") == Answer("NOERROR")


@pytest.mark.parametrize("name", [f"nope.default.svc.{D}", f"x.{D}", "nope.default.svc", "a.svc"])
def test_what_nobody_else_can_have_and_is_not_there_does_not_exist(name: str) -> None:
    assert ask(name).rcode == "NXDOMAIN"
    assert bool(ask(name).authority) == name.endswith(D)


@pytest.mark.parametrize(
    "name", ["", "nope", "nope.default", "example.com", "local", "cluster.local.com", "xsvc"]
)
def test_what_is_not_ours_is_refused(name: str) -> None:
    assert ask(name) == Answer("REFUSED")


def test_an_external_name_is_an_alias_for_every_type() -> None:
    for kind in ("A", "AAAA", "CNAME", "ANY"):
        assert said(f"ext.default.svc.{D}", kind) == ["CNAME example.com."]


def test_an_alias_for_a_service_of_ours_comes_with_its_address() -> None:
    assert said("inside") == [f"CNAME web.default.svc.{D}.", "A 127.5.6.7"]
    assert said("inside", "CNAME") == [f"CNAME web.default.svc.{D}."]


def test_aliases_may_go_round_in_circles() -> None:
    circle = zone(external("a", f"b.default.svc.{D}"), external("b", f"a.default.svc.{D}"))
    answer = circle.answer("a.default", "A")
    assert [record.data for record in answer.answers] == [
        f"b.default.svc.{D}.",
        f"a.default.svc.{D}.",
        f"b.default.svc.{D}.",
    ]


def test_an_alias_that_is_no_host_name_is_left_out() -> None:
    bad = zone(external("bad", "not a name"))
    assert bad.answer(f"bad.default.svc.{D}", "A").rcode == "NXDOMAIN"


def test_an_address_has_the_full_name_of_who_is_there() -> None:
    assert said("7.6.5.127.in-addr.arpa", "PTR") == [f"PTR web.default.svc.{D}."]
    assert said("8.6.5.127.in-addr.arpa", "PTR") == [f"PTR db-0.db.default.svc.{D}."]
    for name in ("1.0.0.127.in-addr.arpa", "x.in-addr.arpa", "in-addr.arpa"):
        assert ask(name, "PTR").rcode == "REFUSED"


def test_an_address_that_several_share_has_no_name() -> None:
    assert zone(shared=True).answer("9.6.5.127.in-addr.arpa", "PTR").rcode == "REFUSED"


def test_the_zone_itself_has_soa_and_ns() -> None:
    assert said(D, "SOA") == [f"SOA ns.dns.{D}. hostmaster.{D}. 1 7200 1800 86400 5"]
    assert said(D, "NS") == [f"NS ns.dns.{D}."]
    assert ask(f"ns.dns.{D}").rcode == "NOERROR"


def test_any_means_all_there_is() -> None:
    assert said("web", "ANY") == ["A 127.5.6.7"]
    assert len(said(D, "ANY")) == 2


WORDS = st.sampled_from(["", "_tcp", "_udp", "_http", "web", "ext", "default", "svc", "cluster"])


@given(
    st.lists(WORDS | st.sampled_from(["local", "in-addr", "arpa", "127"]), max_size=8),
    st.sampled_from(["A", "SRV", "PTR", "ANY", "CNAME"]),
)
def test_any_question_has_an_answer(words: list[str], kind: str) -> None:
    answer = ask(".".join(words), kind)
    assert answer.rcode == "NOERROR" or not answer.answers
