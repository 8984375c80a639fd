"""What `explain` can be asked, and what it answers to what it cannot."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyproxy.core.target import AddressTarget, NameTarget, parse_target
from pyproxy.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected", "shown"),
    [
        ("10.96.0.10:53", AddressTarget("10.96.0.10", 53), "10.96.0.10:53/TCP"),
        ("10.96.0.10:53/UDP", AddressTarget("10.96.0.10", 53, "UDP"), "10.96.0.10:53/UDP"),
        ("10.96.0.010:53/udp", AddressTarget("10.96.0.10", 53, "UDP"), "10.96.0.10:53/UDP"),
        ("10.96.0.10:53/", AddressTarget("10.96.0.10", 53), "10.96.0.10:53/TCP"),
        ("10.96.0.10:9/sctp", AddressTarget("10.96.0.10", 9, "SCTP"), "10.96.0.10:9/SCTP"),
        ("[FD00::A]:53", AddressTarget("fd00::a", 53), "[fd00::a]:53/TCP"),
        ("[::ffff:10.96.0.10]:53/TCP", AddressTarget("10.96.0.10", 53), "10.96.0.10:53/TCP"),
        ("default/web", NameTarget("default", "web"), "default/web"),
        ("default/web:http", NameTarget("default", "web", "http"), "default/web:http"),
        (" default/web:80 ", NameTarget("default", "web", "80"), "default/web:80"),
    ],
)
def test_a_target_is_an_address_or_a_name(
    text: str, expected: AddressTarget | NameTarget, shown: str
) -> None:
    assert parse_target(text) == expected
    assert str(parse_target(text)) == shown
    assert parse_target(shown) == expected


@pytest.mark.parametrize(
    ("text", "default", "client"),
    [
        ("10.96.0.10:53", "", ""),
        ("10.96.0.10:53", "10.0.0.1", "10.0.0.1"),
        ("10.96.0.10:53,from=10.0.0.2", "10.0.0.1", "10.0.0.2"),
        ("10.96.0.10:53 , from = 010.0.0.2 ", "", "10.0.0.2"),
        ("default/web,from=fd00::1", "", "fd00::1"),
    ],
)
def test_a_target_may_bring_its_own_client(text: str, default: str, client: str) -> None:
    assert parse_target(text, default).client == client


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "has no port of 1 to 65535"),
        ("10.96.0.10", "has no port of 1 to 65535"),
        ("10.96.0.10:", "has no port of 1 to 65535"),
        ("10.96.0.10:0", "has no port of 1 to 65535"),
        ("10.96.0.10:65536", "has no port of 1 to 65535"),
        ("10.96.0.10:http", "has no port of 1 to 65535"),
        ("10.96.0.10:-1", "has no port of 1 to 65535"),
        ("10.96.0.10:" + "9" * 5000, "has no port of 1 to 65535"),
        ("10.96.0.10:53/QUIC", "'QUIC' is not TCP, UDP or SCTP"),
        ("10.96.0.10:53/UDP/x", "'UDP/x' is not TCP, UDP or SCTP"),
        ("10.96.0.999:53", "'10.96.0.999' is not an IP address"),
        ("web:80", "'web' is not an IP address"),
        ("fd00::a:53", "write an IPv6 address in brackets, as [fd00::1]:80"),
        ("/web", "names no Service"),
        ("default/", "names no Service"),
        ("default/:80", "names no Service"),
        ("a/b/c", "names no Service"),
        ("10.96.0.10:53,to=10.0.0.1", "'to=10.0.0.1' is not from=IP"),
        ("10.96.0.10:53,", "'' is not from=IP"),
        ("10.96.0.10:53,from=x", "from=x: 'x' is not an IP address"),
        ("10.96.0.10:53,from=", "from=: '' is not an IP address"),
    ],
)
def test_anything_else_is_refused_with_what_is_wrong(text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_target(text)
    assert fault in str(caught.value)


def test_a_default_client_must_be_an_address() -> None:
    with pytest.raises(ConfigError, match="from=x"):
        parse_target("10.96.0.10:53", "x")


@settings(max_examples=200, deadline=None)
@given(st.text("0123456789abcf.:/[],=omr ", max_size=24) | st.text(max_size=10))
def test_any_text_is_a_target_or_a_config_error(text: str) -> None:
    try:
        target = parse_target(text)
    except ConfigError:
        return
    if isinstance(target, AddressTarget):
        assert 1 <= target.port <= 65535
        assert parse_target(str(target)).port == target.port
