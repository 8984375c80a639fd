"""What the decisions see of the node (PARITY sections 6, 8.6, 9)."""

import pytest

from pyproxy.config import ProxyConfig
from pyproxy.core.nodeview import primary_addresses, view
from pyproxy.model.addresses import Cidr, parse_cidr
from pyproxy.model.node import Node
from tests.support.builders import node_ports, with_config

LOOPBACK = frozenset({"127.0.0.1", "::1"})
LOCAL = LOOPBACK | {"192.168.0.2", "192.168.1.2", "10.9.0.1", "fd00::2"}
NODE = Node(name="node-1", zone="a", addresses=("192.168.0.2", "203.0.113.9", "fd00::2"))


def cidrs(*texts: str) -> tuple[Cidr, ...]:
    return tuple(map(parse_cidr, texts))


@pytest.mark.parametrize(
    ("bind", "addresses", "expected"),
    [
        ("", (), {"IPv4": "127.0.0.1", "IPv6": "::1"}),
        ("", ("192.168.0.2", "192.168.0.3"), {"IPv4": "192.168.0.2", "IPv6": "::1"}),
        ("", ("fd00::2", "192.168.0.2"), {"IPv4": "192.168.0.2", "IPv6": "fd00::2"}),
        ("10.9.0.1", ("192.168.0.2", "fd00::2"), {"IPv4": "10.9.0.1", "IPv6": "fd00::2"}),
        ("fd00::9", ("192.168.0.2",), {"IPv4": "192.168.0.2", "IPv6": "fd00::9"}),
    ],
)
def test_the_primary_address_is_bind_address_else_the_nodes_first_else_loopback(
    bind: str, addresses: tuple[str, ...], expected: dict[str, str]
) -> None:
    config = ProxyConfig(bind_address=bind)
    assert primary_addresses(config, Node(name="n", addresses=addresses)) == expected


def test_without_a_node_the_primary_addresses_are_loopback_and_the_zone_is_not_known() -> None:
    found = view(ProxyConfig(node_name="n"), None, LOCAL)
    assert found.primary == {"IPv4": "127.0.0.1", "IPv6": "::1"}
    assert (found.name, found.zone, found.local_addresses) == ("n", "", LOCAL)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        pytest.param(
            node_ports(),
            ["10.9.0.1", "127.0.0.1", "192.168.0.2", "192.168.1.2", "::1", "fd00::2"],
            id="nothing: everything",
        ),
        pytest.param(node_ports(primary=True), ["192.168.0.2", "fd00::2"], id="primary"),
        pytest.param(
            node_ports("192.168.0.0/16"),
            ["192.168.0.2", "192.168.1.2", "::1", "fd00::2"],
            id="a CIDR of one family leaves the other free",
        ),
        pytest.param(
            node_ports("0.0.0.0/0", "172.16.0.0/12", "fd00::/8"),
            ["10.9.0.1", "127.0.0.1", "192.168.0.2", "192.168.1.2", "fd00::2"],
            id="a /0 is everything, whatever stands beside it",
        ),
        pytest.param(
            node_ports("172.16.0.0/12", "::1/128"), ["::1"], id="no local address matches"
        ),
        pytest.param(node_ports(localhost=True), ["127.0.0.1", "::1"], id="localhost alone"),
        pytest.param(
            node_ports("10.9.0.0/24", primary=True, localhost=True),
            ["10.9.0.1", "127.0.0.1", "192.168.0.2", "::1", "fd00::2"],
            id="all together",
        ),
    ],
)
def test_node_ports_are_served_on_chosen_local_addresses(
    setting: object, expected: list[str]
) -> None:
    config = ProxyConfig(node_port_addresses=setting)  # type: ignore[arg-type]
    assert list(view(config, NODE, LOCAL).node_port_addresses) == expected


def test_a_primary_address_of_loopback_restricts_nothing() -> None:
    config = ProxyConfig(node_port_addresses=node_ports(primary=True))
    found = view(config, Node(name="n", addresses=("192.168.0.2",)), LOCAL)
    assert found.node_port_addresses == ("192.168.0.2", "::1", "fd00::2")
    assert set(view(config, None, LOCAL).node_port_addresses) == LOCAL


def test_an_address_of_the_node_that_is_on_no_interface_serves_nothing() -> None:
    config = ProxyConfig(node_port_addresses=node_ports("203.0.113.0/24", "::1/128"))
    assert view(config, NODE, LOCAL).node_port_addresses == ("::1",)


@pytest.mark.parametrize(
    ("mode", "with_node", "expected"),
    [
        ("ClusterCIDR", True, ["10.0.0.0/8"]),
        ("ClusterCIDR", False, ["10.0.0.0/8"]),
        ("NodeCIDR", True, ["10.1.0.0/24", "fd00:1::/64"]),
        ("NodeCIDR", False, []),
        ("BridgeInterface", True, ["10.1.0.0/24", "fd00:1::/64"]),
        ("InterfaceNamePrefix", True, ["10.1.0.0/24", "fd00:1::/64"]),
    ],
)
def test_the_detect_local_mode_says_what_a_pod_is(
    mode: str, with_node: bool, expected: list[str]
) -> None:
    config = ProxyConfig(
        detect_local_mode=mode,  # type: ignore[arg-type]
        cluster_cidr=cidrs("10.0.0.0/8"),
    )
    node = Node(name="n", pod_cidrs=cidrs("10.1.0.0/24", "fd00:1::/64")) if with_node else None
    assert view(config, node, LOCAL).pod_networks == cidrs(*expected)


def test_zone_and_masquerade_all_are_handed_on() -> None:
    found = view(ProxyConfig(masquerade_all=True), NODE, LOCAL)
    assert (found.zone, found.masquerade_all) == ("a", True)


def test_localhost_node_ports_can_be_switched_off() -> None:
    seen = view(with_config(localhost_node_ports=False), None, frozenset({"127.0.0.1", "10.0.0.1"}))
    assert seen.node_port_addresses == ("10.0.0.1",)
