"""What a person can ask of local addresses and ports."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.core.local_options import (
    PortMapping,
    Reservation,
    parse_lines,
    parse_port_mapping,
    parse_reservation,
)
from pyproxy.core.local_service import Claimant
from pyproxy.errors import ConfigError
from pyproxy.model.service import ServicePort

HTTP = ServicePort("http", "TCP", 80)
WEB = Claimant("kind", "default", "web")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("default/web=127.3.3.1", Reservation("default", "web", "", "127.3.3.1")),
        (" default/web=127.03.3.1 ", Reservation("default", "web", "", "127.3.3.1")),
        ("default/db/db-0=127.3.3.1", Reservation("default", "db", "db-0", "127.3.3.1")),
    ],
)
def test_a_reservation_is_an_address_for_a_service_or_a_pod(
    text: str, expected: Reservation
) -> None:
    assert parse_reservation(text) == expected
    assert parse_reservation(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("web=127.3.3.1", "write NAMESPACE/NAME=127.x.y.z"),
        ("default/web", "write NAMESPACE/NAME=127.x.y.z"),
        ("default/web:80=127.3.3.1", "write NAMESPACE/NAME=127.x.y.z"),
        ("default/web=127.3.3.256", "'127.3.3.256' is not an IP address"),
        ("default/web=10.0.0.1", "10.0.0.1 is not in 127.0.0.0/8"),
        ("default/web=::1", "::1 is not in 127.0.0.0/8"),
    ],
)
def test_any_other_reservation_is_refused_with_what_is_wrong(text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_reservation(text)
    assert fault in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("default/web=8080", PortMapping("default", "web", "", "", 8080)),
        ("default/web:http=8080", PortMapping("default", "web", "", "http", 8080)),
        ("default/web:80=8080", PortMapping("default", "web", "", "80", 8080)),
        ("default/db/db-0:sql=5432", PortMapping("default", "db", "db-0", "sql", 5432)),
        ("web:8080", PortMapping("", "web", "", "", 8080)),
        ("80:8080", PortMapping("", "", "", "80", 8080)),
    ],
)
def test_a_port_mapping_names_a_service_or_a_port_and_the_local_one(
    text: str, expected: PortMapping
) -> None:
    assert parse_port_mapping(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "write NAMESPACE/NAME"),
        ("web=8080", "write NAMESPACE/NAME"),
        ("web:http", "write NAMESPACE/NAME"),
        ("default/web=0", "0 is not within 1 to 65535"),
        ("80:65536", "65536 is not within 1 to 65535"),
        ("80:" + "9" * 5000, "write NAMESPACE/NAME"),
    ],
)
def test_any_other_port_mapping_is_refused_with_what_is_wrong(text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_port_mapping(text)
    assert fault in str(caught.value)


@pytest.mark.parametrize(
    ("text", "is_first", "holds"),
    [
        ("default/web=1", True, True),
        ("default/web=1", False, False),
        ("default/web:80=1", False, True),
        ("default/web:http=1", False, True),
        ("default/web:81=1", True, False),
        ("other/web=1", True, False),
        ("default/web/pod=1", True, False),
        ("web:1", True, True),
        ("db:1", True, False),
        ("80:1", False, True),
    ],
)
def test_a_mapping_without_a_port_means_the_first_one(
    text: str, is_first: bool, holds: bool
) -> None:
    assert parse_port_mapping(text).is_for(WEB, HTTP, is_first=is_first) is holds


def test_a_file_has_both_and_comments() -> None:
    text = "# mine\n\ndefault/web=127.3.3.1  # the shop\ndefault/web:80=8080\n443:8443\n"
    assert parse_lines(text) == (
        (Reservation("default", "web", "", "127.3.3.1"),),
        (PortMapping("default", "web", "", "80", 8080), PortMapping("", "", "", "443", 8443)),
    )


def test_every_fault_of_a_file_is_told_with_its_line() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_lines("default/web=10.0.0.1\n80:8080\n443\n")
    first, second = caught.value.faults
    assert first.startswith("line 1: reservation 'default/web=10.0.0.1'")
    assert second.startswith("line 3: port '443'")


@given(st.text("ab/:=.0189# \n", max_size=20) | st.text(max_size=10))
def test_any_text_is_understood_or_a_config_error(text: str) -> None:
    try:
        reservations, mappings = parse_lines(text)
    except ConfigError:
        return
    written = "\n".join(map(str, [*reservations, *mappings]))
    assert parse_lines(written) == (reservations, mappings)
