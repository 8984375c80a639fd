"""What is wrong with a configuration file is told at once, each with field and value (19.2)."""

import pytest

from pyproxy.config import parse_config
from pyproxy.errors import ConfigError

HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
OWN = "apiVersion: pyproxy.io/v1alpha1\nkind: PyproxyConfiguration\n"


def faults(text: str, head: str = HEAD) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse_config(head + text)
    return caught.value.faults


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("bindAddress: 1.2.3", "bindAddress: '1.2.3' is not an IP address"),
        ("bindAddress: 1", "bindAddress: 1 is not a text"),
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
        (
            "detectLocalMode: BridgeInterface",
            "detectLocal.bridgeInterface: '' is no name; BridgeInterface needs one",
        ),
        (
            "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {bridgeInterface: br0}",
            "detectLocal.interfaceNamePrefix: '' is no name; InterfaceNamePrefix needs one",
        ),
        ("masqueradeAll: yes please", "masqueradeAll: 'yes please' is not true or false"),
        ("nftables: {masqueradeAll: 1}", "nftables.masqueradeAll: 1 is not true or false"),
        ("iptables: {masqueradeAll: []}", "iptables.masqueradeAll: [] is not true or false"),
        ("iptables: 1", "iptables: 1 is not a mapping"),
        ("mode: []", "mode: [] is none of iptables, ipvs, nftables"),
        ("mode: kernelspace", "mode: 'kernelspace' is none of iptables, ipvs, nftables"),
        ("hostnameOverride: '  '", "hostnameOverride: '  ' is blank"),
        ("iptables: {syncPeriod: -1s}", "iptables.syncPeriod: '-1s' is not more than 0"),
        ("ipvs: {minSyncPeriod: -1s}", "ipvs.minSyncPeriod: '-1s' is less than 0"),
        (
            "iptables: {syncPeriod: 30}",
            "iptables.syncPeriod: 30 is not a duration such as 1m30s",
        ),
        (
            "mode: nftables\nnftables: {syncPeriod: 1s, minSyncPeriod: 2s}",
            "nftables.minSyncPeriod: '2s' is more than syncPeriod, '1s'",
        ),
        (
            "iptables: {syncPeriod: 10ms}",
            "iptables.minSyncPeriod: '50ms' is more than syncPeriod, '10ms'",
        ),
        ("configSyncPeriod: -1s", "configSyncPeriod: '-1s' is not more than 0"),
        ("clientConnection: {burst: -1}", "clientConnection.burst: -1 is less than 0"),
        ("clientConnection: {burst: 1.5}", "clientConnection.burst: 1.5 is not a whole number"),
        ("clientConnection: {qps: fast}", "clientConnection.qps: 'fast' is not a number"),
        ("conntrack: {min: -1}", "conntrack.min: -1 is less than 0"),
        ("conntrack: {udpTimeout: -1s}", "conntrack.udpTimeout: '-1s' is less than 0"),
        ("iptables: {masqueradeBit: 32}", "iptables.masqueradeBit: 32 is more than 31"),
        ("oomScoreAdj: -1001", "oomScoreAdj: -1001 is less than -1000"),
        ("oomScoreAdj: true", "oomScoreAdj: True is not a whole number"),
        ("featureGates: [A]", "featureGates: ['A'] is not a mapping"),
        ("healthzBindAddress: nonsense", "healthzBindAddress: 'nonsense' is not IP:PORT"),
        ("healthzBindAddress: 1", "healthzBindAddress: 1 is not a text"),
        (
            "metricsBindAddress: 1.2.3.4:0",
            "metricsBindAddress: '1.2.3.4:0' has a port that is not within 1 to 65535",
        ),
        (
            "metricsBindAddress: 1.2.3.4:65536",
            "metricsBindAddress: '1.2.3.4:65536' has a port that is not within 1 to 65535",
        ),
        ("logging: {format: xml}", "logging.format: 'xml' is none of text, json"),
    ],
)
def test_a_fault_names_field_and_value(text: str, fault: str) -> None:
    assert faults(text) == (fault,)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("workers: 65", "workers: 65 is neither auto nor a whole number from 0 to 64"),
        ("steer: iptables", "steer: 'iptables' is none of auto, none, nft"),
        ("steering: {mark: 0}", "steering.mark: 0 is less than 1"),
        ("steering: {mark: 4294967296}", "steering.mark: 4294967296 is more than 4294967295"),
        ("steering: {mark: 0x3}", "steering.mark: 3 is not one bit, such as 0x100000"),
        ("steering: {routeTable: 254}", "steering.routeTable: 254 is the system's table main"),
        ("steering: {rulePriority: 32766}", "steering.rulePriority: 32766 is more than 32765"),
        ("connectTimeout: 0s", "connectTimeout: '0s' is not more than 0"),
        (
            "connectTimeout: 6s",
            "connectDeadline: '5s' is less than connectTimeout, '6s'",
        ),
        ("serviceProxyName: 1", "serviceProxyName: 1 is not a text"),
        (
            "balance: rr",
            "balance: 'rr' is none of least-connections, round-robin, random, consistent-hash",
        ),
        ("slowStart: -1s", "slowStart: '-1s' is less than 0"),
        ("onEndpointRemoved: kill", "onEndpointRemoved: 'kill' is none of drain, keep, close"),
        ("idleTimeout: 0s", "idleTimeout: '0s' is not more than 0"),
        ("maxConnectionAge: 0s", "maxConnectionAge: '0s' is not more than 0"),
        ("ejection: {enabled: on please}", "ejection.enabled: 'on please' is not true or false"),
        ("ejection: {consecutiveFailures: 0}", "ejection.consecutiveFailures: 0 is less than 1"),
        ("ejection: {maxPercent: 0}", "ejection.maxPercent: 0 is less than 1"),
        ("ejection: {maxPercent: 101}", "ejection.maxPercent: 101 is more than 100"),
        (
            "ejection: {baseTime: 10m}",
            "ejection.maxTime: '5m0s' is less than ejection.baseTime, '10m0s'",
        ),
    ],
)
def test_a_fault_of_our_own_fields_does_too(text: str, fault: str) -> None:
    assert faults(text, OWN) == (fault,)


def test_all_faults_of_all_documents_are_told_at_once() -> None:
    assert len(faults("bindAddress: x\nclusterCIDR: y\nnodePortAddresses: [z, w]\n")) == 4
    assert len(faults(f"mode: x\n---\n{OWN}steer: x\n---\nkind: Pod\n---\n- x\n---\n{OWN}")) == 5


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "the file is empty"),
        ("---\n---\n", "the file is empty"),
        ("- a", "it is no mapping"),
        ("kind: KubeProxyConfiguration", "apiVersion None and kind 'KubeProxyConfiguration'"),
        ("apiVersion: v1\nkind: Service", "apiVersion 'v1' and kind 'Service' are not"),
        ("apiVersion: []\nkind: {}", "apiVersion [] and kind {} are not"),
        (HEAD + "---\n" + HEAD, "more than one document is a KubeProxyConfiguration"),
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
