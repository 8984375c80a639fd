"""Addresses and CIDRs are read as leniently as the API has to, and compared as canonical text."""

import ipaddress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyproxy.model.addresses import (
    Cidr,
    family_of,
    is_link_local,
    is_loopback,
    is_nobodys,
    join_host_port,
    parse_address,
    parse_cidr,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("255.255.255.255", "255.255.255.255"),
        ("0.0.0.0", "0.0.0.0"),
        ("172.30.0.041", "172.30.0.41"),
        ("010.000.00.001", "10.0.0.1"),
        ("000.0.0.0", "0.0.0.0"),
        ("FD00::00AB", "fd00::ab"),
        ("fd00:0:0:0:0:0:0:1", "fd00::1"),
        ("::", "::"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("::FFFF:a01:203", "10.1.2.3"),
        ("::ffff:010.001.2.3", "10.1.2.3"),
        ("64:ff9b::10.1.2.3", "64:ff9b::a01:203"),
    ],
)
def test_an_address_has_one_canonical_text(text: str, expected: str) -> None:
    assert parse_address(text) == expected
    assert parse_address(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "10.1.2",
        "10.1.2.3.4",
        "10.1.2.256",
        "10.1.2.0256",
        "10.1.2.3 ",
        "10.1.2.3\n",
        "0x10.1.2.3",
        "10.1.2.-3",
        "10.1.2.١",  # noqa: RUF001  an Arabic digit
        "10.1.2.3/32",
        "fd00::1::2",
        "fd00::12345",
        "fe80::1%eth0",
        "localhost",
        "[::1]",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_address(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("203.0.113.000/025", "203.0.113.0/25"),
        ("1.2.3.4/32", "1.2.3.4/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::/0", "::/0"),
        ("FD00::1/64", "fd00::/64"),
        ("::ffff:10.1.0.0/104", "10.0.0.0/8"),
    ],
)
def test_a_cidr_has_one_canonical_text(text: str, expected: str) -> None:
    assert str(parse_cidr(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0.0",
        "10.0.0.0/",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "10.0.0.0/+8",
        "10.0.0.0/8/8",
        "10.0.0.0/ 8",
        "10.0.0.0/²",
        "/8",
        "fd00::/129",
        "::ffff:10.0.0.0/90",
        "10.0.0.0/255.0.0.0",
        "10.0.0.0/" + "9" * 5000,
    ],
)
def test_what_is_no_cidr_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_cidr(text)


def test_a_network_holds_addresses_of_its_own_family_only() -> None:
    assert "10.1.2.3" in parse_cidr("10.0.0.0/8")
    assert "11.1.2.3" not in parse_cidr("10.0.0.0/8")
    assert "::1" not in parse_cidr("0.0.0.0/0")
    assert "10.1.2.3" not in parse_cidr("::/0")
    assert "fd00::1" in parse_cidr("::/0")
    assert "fd00:0:0:1::1" not in parse_cidr("fd00::/64")
    assert parse_cidr("10.0.0.0/8").family == "IPv4"
    assert parse_cidr("fd00::/8").family == "IPv6"


@settings(deadline=None)
@given(st.ip_addresses(), st.ip_addresses(), st.integers(0, 128))
def test_membership_agrees_with_the_standard_library(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
    network: ipaddress.IPv4Address | ipaddress.IPv6Address,
    prefix: int,
) -> None:
    prefix = min(prefix, network.max_prefixlen)
    cidr = Cidr(str(network), prefix)
    expected = ipaddress.ip_network(str(cidr), strict=False)
    assert (str(address) in cidr) == (address in expected)
    assert str(network) in cidr


def _with_zeros(draw: st.DrawFn) -> tuple[str, str]:
    octets = draw(st.lists(st.integers(0, 255), min_size=4, max_size=4))
    zeros = draw(st.lists(st.integers(0, 4), min_size=4, max_size=4))
    padded = ("0" * count + str(octet) for count, octet in zip(zeros, octets, strict=True))
    return ".".join(padded), ".".join(map(str, octets))


@settings(deadline=None)
@given(st.composite(_with_zeros)())
def test_leading_zeros_are_decimal(pair: tuple[str, str]) -> None:
    padded, plain = pair
    assert parse_address(padded) == plain
    assert parse_address(f"::ffff:{padded}") == plain


@settings(deadline=None)
@given(st.one_of(st.text(max_size=20), st.text("0123456789abcdef.:/%", max_size=20)))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = parse_address(text)
    except ValueError:
        return
    assert str(ipaddress.ip_address(address)) == address


@pytest.mark.parametrize(
    ("address", "family", "loopback", "joined"),
    [
        ("10.1.2.3", "IPv4", False, "10.1.2.3:80"),
        ("127.0.0.53", "IPv4", True, "127.0.0.53:80"),
        ("12.7.0.1", "IPv4", False, "12.7.0.1:80"),
        ("::1", "IPv6", True, "[::1]:80"),
        ("::1:1", "IPv6", False, "[::1:1]:80"),
    ],
)
def test_canonical_text_tells_family_and_loopback(
    address: str, family: str, loopback: bool, joined: str
) -> None:
    assert family_of(address) == family
    assert is_loopback(address) is loopback
    assert join_host_port(address, 80) == joined


@given(st.ip_addresses())
@settings(max_examples=500)
@example(ipaddress.ip_address("0.0.0.0"))
@example(ipaddress.ip_address("223.255.255.255"))
@example(ipaddress.ip_address("224.0.0.0"))
@example(ipaddress.ip_address("255.255.255.255"))
@example(ipaddress.ip_address("169.254.1.1"))
@example(ipaddress.ip_address("169.255.1.1"))
@example(ipaddress.ip_address("::"))
@example(ipaddress.ip_address("::1"))
@example(ipaddress.ip_address("fe7f::1"))
@example(ipaddress.ip_address("febf::"))
@example(ipaddress.ip_address("fec0::1"))
@example(ipaddress.ip_address("ff02::1"))
def test_special_addresses_are_those_of_their_networks(
    found: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    text = parse_address(str(found))
    address = ipaddress.ip_address(text)
    nobodys = ("0.0.0.0/8", "224.0.0.0/3") if address.version == 4 else ("::/128", "ff00::/8")
    assert is_nobodys(text) == any(address in ipaddress.ip_network(n) for n in nobodys)
    assert is_link_local(text) == address.is_link_local
