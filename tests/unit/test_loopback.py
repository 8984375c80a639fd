"""Local addresses and ports: the same every time, and none moves while pyproxy runs."""

import ipaddress
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.core.local_options import parse_port_mapping, parse_reservation
from pyproxy.core.local_service import Claimant, Wanted
from pyproxy.core.loopback import LocalPort, Loopback, Placed, Placement, Placements, Rules, Socket
from pyproxy.model.service import Protocol, ServicePort

NAMES = st.sampled_from(["web", "db", "api"])
PORTS = st.lists(st.sampled_from([53, 80, 443, 8080, 8443, 65535]), unique=True, max_size=4)
WEB = Claimant("kind", "default", "web")
DB = Claimant("kind", "default", "db")
ADDRESSES = ["127.81.117.140", "127.197.213.139", "127.204.15.71"]


def want(name: str = "web", *ports: int, protocol: Protocol = "TCP", pod: str = "") -> Wanted:
    claimant = Claimant("kind", "default", name, pod)
    return Wanted(claimant, tuple(ServicePort(f"p{port}", protocol, port) for port in ports))


def rules(*options: str, single_address: bool = False, first_port: int = 1024) -> Rules:
    return Rules(
        single_address=single_address,
        first_port=first_port,
        reservations=tuple(parse_reservation(o) for o in options if "." in o),
        mappings=tuple(parse_port_mapping(o) for o in options if "." not in o),
    )


def placed(*wanted: Wanted, by: Rules | None = None) -> Placements:
    return Loopback(by or Rules()).place(wanted).placements


def local_ports(*wanted: Wanted, by: Rules | None = None) -> list[int]:
    """Those of the first one."""
    return [port.local for port in placed(*wanted, by=by)[wanted[0].claimant].ports]


def clashing() -> tuple[Wanted, Wanted]:
    """Two Services whose hashes say the same address: found by looking, of 16 million."""
    seen: dict[str, Wanted] = {}
    for number in range(100_000):
        one = want(f"svc-{number}", 8080)
        address = placed(one)[one.claimant].address
        if address in seen:
            return seen[address], one
        seen[address] = one
    raise AssertionError("no two Services want one address")


@pytest.fixture(scope="module")
def clash() -> tuple[Wanted, Wanted]:
    return clashing()


def test_an_address_follows_from_context_namespace_name_and_pod() -> None:
    found = placed(want("web"), want("db"), want("db", pod="db-0"))
    # A change of these is a change that users see: their bookmarks and scripts name them.
    assert [placement.address for placement in found.values()] == ADDRESSES
    other = Wanted(WEB._replace(context="other"), ())
    assert placed(other)[other.claimant].address not in ADDRESSES


@given(st.text(max_size=8), st.text(max_size=8), st.text(max_size=8))
def test_an_address_is_one_that_nothing_else_uses(context: str, namespace: str, name: str) -> None:
    claimant = Claimant(context, namespace, name)
    address = placed(Wanted(claimant, ()))[claimant].address
    assert ipaddress.ip_address(address).is_loopback
    _, x, _, z = map(int, address.split("."))
    assert 1 <= x <= 254
    assert 1 <= z <= 254


@given(
    st.dictionaries(st.tuples(NAMES, NAMES, NAMES), PORTS, max_size=12),
    st.booleans(),
    st.randoms(),
)
def test_places_do_not_depend_on_the_order_of_arrival(
    services: dict[tuple[str, str, str], list[int]], is_single: bool, random: Random
) -> None:
    wanted = [
        Wanted(Claimant(*key), tuple(ServicePort("", "TCP", port) for port in ports))
        for key, ports in services.items()
    ]
    by = rules("web/db=127.3.3.1", "web:8080", "80:8080", single_address=is_single)
    first = placed(*wanted, by=by)
    random.shuffle(wanted)
    assert placed(*wanted, by=by) == first
    sockets = [(p.address, port.local) for p in first.values() for port in p.ports]
    assert len(set(sockets)) == len(sockets) == sum(map(len, services.values()))


@given(st.lists(st.lists(st.tuples(NAMES, PORTS), max_size=6), max_size=5), st.booleans())
def test_what_is_placed_stays_for_as_long_as_it_is_wanted(
    steps: list[list[tuple[str, list[int]]]], is_single: bool
) -> None:
    loopback = Loopback(rules("default/web=127.3.3.1", "80:8080", single_address=is_single))
    before: dict[Claimant, dict[int, tuple[str, int]]] = {}
    for step in steps:
        wanted = {name: want(name, *ports) for name, ports in step}
        found = loopback.place(wanted.values()).placements
        now = {
            claimant: {port.port: (placement.address, port.local) for port in placement.ports}
            for claimant, placement in found.items()
        }
        assert now.keys() == {w.claimant for w in wanted.values()}
        for claimant in now.keys() & before.keys():
            for port in now[claimant].keys() & before[claimant].keys():
                assert now[claimant][port] == before[claimant][port]
        before = now


def test_of_two_that_want_one_address_the_same_one_always_moves(
    clash: tuple[Wanted, Wanted],
) -> None:
    first, second = sorted(clash, key=lambda w: w.claimant)
    found = placed(second, first)
    assert found == placed(first, second)
    assert found[first.claimant] == placed(first)[first.claimant]
    assert found[second.claimant].address != found[first.claimant].address


def test_a_late_comer_goes_around_what_is_placed(clash: tuple[Wanted, Wanted]) -> None:
    first, second = sorted(clash, key=lambda w: w.claimant)
    loopback = Loopback(Rules())
    early = loopback.place([second]).placements[second.claimant]
    late = loopback.place([first, second]).placements
    assert late[second.claimant] == early
    assert late[first.claimant].address != early.address


def test_a_reservation_goes_before_the_hash() -> None:
    own = placed(want("web"))[WEB].address
    by = rules(f"default/db={own}")
    found = placed(want("web"), want("db"), by=by)
    assert found[DB].address == own
    assert found[WEB].address != own
    # It is kept free for a Service that is not there yet.
    assert placed(want("web"), by=by)[WEB].address == found[WEB].address


def test_a_reservation_of_a_pod_is_that_pods() -> None:
    found = placed(want("db", pod="a"), want("db", pod="b"), by=rules("default/db/b=127.3.3.1"))
    assert [c.pod for c, p in found.items() if p.address == "127.3.3.1"] == ["b"]


def test_two_contexts_cannot_both_have_a_reserved_address_and_that_is_told_once() -> None:
    other = Wanted(WEB._replace(context="other"), ())
    loopback = Loopback(rules("default/web=127.3.3.1"))
    found, notes = loopback.place([other, want("web")])
    assert found[WEB].address == "127.3.3.1"
    (note,) = notes
    assert note.startswith("default/web: the reserved address 127.3.3.1 cannot be had, it is at")
    assert loopback.place([other, want("web")]).notes == ()


@pytest.mark.parametrize(
    ("ports", "first_port", "expected"),
    [
        ((8080, 9090), 1024, [8080, 9090]),
        ((80, 443), 1024, [8080, 8443]),
        ((80, 443), 1, [80, 443]),
        ((80, 443), 80, [80, 443]),
        ((80, 443), 443, [8080, 443]),
        ((80, 8080), 1024, [None, 8080]),  # its own port is the own port's
        ((65535,), 1024, [65535]),
        ((80,), 30_000, [None]),
        ((80,), 65_535, [65535]),
    ],
)
def test_a_port_is_the_services_own_where_it_may_be_bound_and_else_a_high_one(
    ports: tuple[int, ...], first_port: int, expected: list[int | None]
) -> None:
    found = local_ports(want("web", *ports), by=rules(first_port=first_port))
    for local, wanted in zip(found, expected, strict=True):
        if wanted is None:
            assert max(20_000, first_port) <= local < max(30_000, first_port + 10_000)
        else:
            assert local == wanted


def test_a_placement_has_the_ports_with_their_names_in_their_order() -> None:
    placement = placed(want("web", 443, 80))[WEB]
    assert placement.ports == (
        LocalPort("p443", "TCP", 443, 8443),
        LocalPort("p80", "TCP", 80, 8080),
    )


@pytest.mark.parametrize("is_single", [False, True])
def test_dns_has_one_local_port_for_tcp_and_udp(is_single: bool) -> None:
    ports = (ServicePort("udp", "UDP", 53), ServicePort("tcp", "TCP", 53))
    udp, tcp = local_ports(Wanted(WEB, ports), by=rules(single_address=is_single))
    assert udp == tcp


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["default/web=9000"], [9000, 9090]),
        (["default/web:9090=9000"], [8080, 9000]),
        (["default/web:p9090=9000"], [8080, 9000]),
        (["web:9000"], [9000, 9090]),
        (["9090:9000"], [8080, 9000]),
        (["9090:9000", "default/web:9090=9001"], [8080, 9001]),  # which says more
        (["default/web:8080=9090"], [9090, 17090]),  # a wish goes before an own port
    ],
)
def test_a_port_mapping_goes_before_the_services_own_port(
    options: list[str], expected: list[int]
) -> None:
    assert local_ports(want("web", 8080, 9090), by=rules(*options)) == expected


def test_two_ports_cannot_both_be_mapped_to_one_and_that_is_told() -> None:
    by = rules("default/web:80=9000", "default/web:443=9000")
    found, notes = Loopback(by).place([want("web", 80, 443)])
    assert [port.local for port in found[WEB].ports] == [9000, 8443]
    (note,) = notes
    assert note == f"default/web: port 9000 of {found[WEB].address} cannot be had"


def test_on_a_single_address_ports_are_distinct_and_do_not_depend_on_other_services() -> None:
    by = rules(single_address=True)
    found = placed(want("web", 80, 8080), want("db", 80, 8080), by=by)
    assert {p.address for p in found.values()} == {"127.0.0.1"}
    ports = [port.local for p in found.values() for port in p.ports]
    assert len(set(ports)) == 4
    assert all(20_000 <= port < 30_000 for port in ports)
    assert placed(want("db", 80, 8080), by=by)[DB] == found[DB]


def test_on_a_single_address_reservations_and_mappings_hold() -> None:
    by = rules("default/web=127.3.3.1", "default/db:80=9000", single_address=True)
    found = placed(want("web", 8080), want("db", 80), by=by)
    assert (found[WEB].address, found[WEB].ports[0].local) == ("127.3.3.1", 8080)
    assert (found[DB].address, found[DB].ports[0].local) == ("127.0.0.1", 9000)


def test_a_port_that_cannot_be_bound_moves_alone_and_that_is_told() -> None:
    loopback = Loopback(Rules())
    before = loopback.place([want("web", 8080, 9090), want("db", 8080)]).placements
    address = before[WEB].address
    after, notes = loopback.next(Socket(address, 8080, "TCP"), "another process listens there")
    assert [port.local for port in after[WEB].ports] == [16080, 9090]
    assert after[WEB].address == address
    assert after[DB] == before[DB]
    (note,) = notes
    assert note == (
        f"default/web: port 8080: another process listens there; it is at {address}:16080 now"
    )
    again, _ = loopback.next(Socket(address, 16080, "TCP"), "another process listens there")
    assert 20_000 <= again[WEB].ports[0].local < 30_000


def test_an_address_that_cannot_be_bound_moves_with_its_ports() -> None:
    loopback = Loopback(rules("default/web=127.3.3.1"))
    loopback.place([want("web", 8080)])
    after, notes = loopback.next("127.3.3.1", "the address is not on this host")
    assert after[WEB].address == placed(want("web"))[WEB].address
    assert after[WEB].ports[0].local == 8080
    (note,) = notes
    assert note.startswith("default/web: 127.3.3.1: the address is not on this host; it is at 127.")


def test_a_refused_mapping_falls_back_to_the_usual_choice() -> None:
    loopback = Loopback(rules("default/web=9000"))
    address = loopback.place([want("web", 80)]).placements[WEB].address
    after, notes = loopback.next(Socket(address, 9000, "TCP"), "taken")
    assert after[WEB].ports[0].local == 8080
    assert len(notes) == 1


def test_a_port_for_which_none_is_left_is_told_and_left_out() -> None:
    loopback = Loopback(rules(single_address=True, first_port=65_535))
    found, notes = loopback.place([want("db", 80), want("web", 80)])
    assert [port.local for port in found[DB].ports] == [65_535]
    assert found[WEB].ports == ()
    assert notes == ("default/web: no local port is left for its port 80",)
    assert loopback.next(Socket("127.0.0.1", 65_535, "TCP"), "taken") == Placed(
        {DB: Placement(DB, "127.0.0.1", ()), WEB: found[WEB]},
        ("default/db: no local port is left for its port 80",),
    )


def test_what_was_asked_for_nothing_that_is_there_can_be_told() -> None:
    options = ("default/web=127.3.3.1", "default/wbe=127.3.3.2", "80:8080", "81:9")
    loopback = Loopback(rules(*options))
    loopback.place([want("web", 80)])
    assert loopback.unused() == ("default/wbe=127.3.3.2", "81:9")
