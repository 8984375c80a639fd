"""The PROXY protocol v2 header, byte by byte."""

from pyproxy.core.proxy_protocol import header

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")


def test_the_header_of_an_ipv4_connection() -> None:
    made = header("192.0.2.1", 56324, "10.96.0.10", 443)
    assert made == SIGNATURE + bytes.fromhex("21 11 000c c0000201 0a60000a dc04 01bb")


def test_the_header_of_an_ipv6_connection() -> None:
    made = header("2001:db8::1", 1, "fd00::a", 65535)
    addresses = "20010db8000000000000000000000001 fd00000000000000000000000000000a"
    assert made == SIGNATURE + bytes.fromhex(f"21 21 0024 {addresses} 0001 ffff")


def test_a_link_local_clients_zone_is_left_out() -> None:
    assert header("fe80::1%eth0", 1, "fd00::a", 2) == header("fe80::1", 1, "fd00::a", 2)
