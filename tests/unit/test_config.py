"""Reading a KubeProxyConfiguration (PARITY 6.1, 8.6, 9.1, 9.6, 19)."""

import pytest

from pyproxy.config import (
    NodePortAddresses,
    ProxyConfig,
    parse_cluster_cidr,
    parse_config,
    parse_node_port_addresses,
)
from pyproxy.errors import ConfigError
from pyproxy.model.addresses import parse_cidr

HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"


def parsed(text: str) -> ProxyConfig:
    return parse_config(HEAD + text)[0]


def faults(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse_config(HEAD + text)
    return caught.value.faults


def test_an_empty_configuration_is_the_default() -> None:
    assert parse_config(HEAD) == (ProxyConfig(), ())
    nothing = "nodePortAddresses: null\nclusterCIDR: ''\ndetectLocalMode: ''\niptables: null\n"
    assert parsed(nothing + "hostnameOverride: ''\nbindAddress: 0.0.0.0\n") == ProxyConfig()


def test_every_field_that_matters_is_read() -> None:
    text = """
hostnameOverride: " Node-1 "
nodePortAddresses: [192.168.0.0/24, "2001:db8::/64"]
clusterCIDR: 10.0.0.0/8,fd00::/8
detectLocalMode: NodeCIDR
mode: nftables
nftables: {masqueradeAll: true}
bindAddress: 192.168.0.002
"""
    assert parsed(text) == ProxyConfig(
        node_name="node-1",
        node_port_addresses=NodePortAddresses(
            (parse_cidr("192.168.0.0/24"), parse_cidr("2001:db8::/64"))
        ),
        cluster_cidr=(parse_cidr("10.0.0.0/8"), parse_cidr("fd00::/8")),
        detect_local_mode="NodeCIDR",
        masquerade_all=True,
        bind_address="192.168.0.2",
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", False),
        ("mode: nftables\nnftables: {masqueradeAll: true}", True),
        ("mode: nftables\niptables: {masqueradeAll: true}", False),
        ("mode: iptables\niptables: {masqueradeAll: true}", True),
        ("mode: iptables\nnftables: {masqueradeAll: true}", False),
        ("iptables: {masqueradeAll: true}", True),
        ("nftables: {masqueradeAll: true}", True),
        ("mode: ipvs\niptables: {masqueradeAll: true}", True),
        ("nftables: {masqueradeAll: false}", False),
        ("masqueradeAll: true", True),
    ],
)
def test_the_section_of_the_mode_says_whether_to_masquerade_all(text: str, expected: bool) -> None:
    assert parsed(text).masquerade_all is expected


def test_fields_without_effect_are_named() -> None:
    config, unused = parse_config(HEAD + "oomScoreAdj: -999\nconntrack: {min: 1}\nfoo: bar\n")
    assert config == ProxyConfig()
    assert unused == ("conntrack", "foo", "oomScoreAdj")


@pytest.mark.parametrize("text", ["0.0.0.0", "::", "''"])
def test_an_unspecified_bind_address_overrides_nothing(text: str) -> None:
    assert parsed(f"bindAddress: '{text}'" if text != "''" else "bindAddress: ''") == ProxyConfig()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("bindAddress: 1.2.3", "bindAddress: '1.2.3' is not an IP address"),
        ("bindAddress: 1", "bindAddress: 1 is not a str"),
        ("nodePortAddresses: 10.0.0.0/8", "nodePortAddresses: '10.0.0.0/8' is not a list"),
        (
            "nodePortAddresses: [10.0.0.0]",
            "nodePortAddresses: '10.0.0.0' is not a CIDR such as 10.0.0.0/8, nor the word"
            " primary or localhost",
        ),
        (
            "nodePortAddresses: [primary, 10.0.0.0/8]",
            "nodePortAddresses: primary cannot be mixed with CIDRs",
        ),
        ("clusterCIDR: 10.0.0.0", "clusterCIDR: '10.0.0.0' is not a CIDR such as 10.0.0.0/8"),
        (
            "clusterCIDR: '10.0.0.0/8,11.0.0.0/8'",
            "clusterCIDR: '10.0.0.0/8,11.0.0.0/8' holds more than one CIDR of a family",
        ),
        (
            "detectLocalMode: Magic",
            "detectLocalMode: 'Magic' is none of ClusterCIDR, NodeCIDR, BridgeInterface,"
            " InterfaceNamePrefix",
        ),
        ("masqueradeAll: yes please", "masqueradeAll: 'yes please' is not a bool"),
        ("nftables: {masqueradeAll: 'true'}", "nftables.masqueradeAll: 'true' is not a bool"),
        ("iptables: {masqueradeAll: []}", "iptables.masqueradeAll: [] is not a bool"),
        ("iptables: 1", "iptables: 1 is not a dict"),
        ("mode: []", "mode: [] is not a str"),
        ("hostnameOverride: '  '", "hostnameOverride: '  ' is blank"),
    ],
)
def test_a_fault_names_field_and_value(text: str, fault: str) -> None:
    assert faults(text) == (fault,)


def test_all_faults_are_told_at_once() -> None:
    assert len(faults("bindAddress: x\nclusterCIDR: y\nnodePortAddresses: [z, w]\n")) == 4


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "it is no mapping"),
        ("- a", "it is no mapping"),
        ("kind: KubeProxyConfiguration", "apiVersion None and kind 'KubeProxyConfiguration'"),
        ("apiVersion: v1\nkind: Service", "apiVersion 'v1' and kind 'Service' are not"),
        ("a: b: c", "not YAML: mapping values are not allowed here"),
        ("a: !!int x", "not YAML: invalid literal"),
        ("a: 2026-13-13", "not YAML: month must be in 1..12"),
        ("a: !!bool maybe", "not YAML: 'maybe'"),
        ("[" * 5000, "not YAML: maximum recursion depth exceeded"),
    ],
)
def test_what_is_no_such_file_is_a_fault(text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    assert fault in str(caught.value)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], NodePortAddresses()),
        (["primary"], NodePortAddresses(primary=True)),
        ([" localhost "], NodePortAddresses(localhost=True)),
        (["primary", "localhost"], NodePortAddresses(primary=True, localhost=True)),
        (
            ["10.1.2.3/8", "localhost"],
            NodePortAddresses((parse_cidr("10.0.0.0/8"),), localhost=True),
        ),
    ],
)
def test_node_port_addresses_are_cidrs_or_primary_and_localhost_beside(
    texts: list[str], expected: NodePortAddresses
) -> None:
    assert parse_node_port_addresses(texts) == expected


@pytest.mark.parametrize("texts", [["primary", "primary"], ["primary", "::/0", "localhost"]])
def test_primary_stands_alone_but_for_localhost(texts: list[str]) -> None:
    with pytest.raises(ConfigError, match="primary cannot be mixed"):
        parse_node_port_addresses(texts)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" , ", []),
        ("10.0.0.0/8", ["10.0.0.0/8"]),
        (" fd00::/8 , 010.0.0.0/8", ["fd00::/8", "10.0.0.0/8"]),
    ],
)
def test_a_cluster_cidr_is_one_of_each_family(text: str, expected: list[str]) -> None:
    assert [str(cidr) for cidr in parse_cluster_cidr(text)] == expected
