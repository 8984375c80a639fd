"""Reading a configuration file (PARITY 6.1, 8.6, 9.1, 9.6, 12.11, 14.1, 19)."""

import pytest
import yaml

from pyproxy.config import (
    Configuration,
    HostPort,
    NodePortAddresses,
    ProxyConfig,
    parse_cluster_cidr,
    parse_config,
    parse_node_port_addresses,
)
from pyproxy.errors import ConfigError
from pyproxy.model.addresses import parse_cidr
from pyproxy.model.options import EjectionSettings, ServiceOptions

HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
OWN = "apiVersion: pyproxy.io/v1alpha1\nkind: PyproxyConfiguration\n"

# What kubeadm v1.36 writes into kube-proxy's ConfigMap, in full.
KUBEADM = (
    HEAD
    + """
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: null
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal:
  bridgeInterface: ""
  interfaceNamePrefix: ""
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: ""
  strictARP: false
  syncPeriod: 0s
  tcpFinTimeout: 0s
  tcpTimeout: 0s
  udpTimeout: 0s
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: "0"
    text:
      infoBufferSize: "0"
  verbosity: 0
metricsBindAddress: ""
mode: ""
nftables:
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel:
  enableDSR: false
  forwardHealthCheckVip: false
  networkName: ""
  rootHnsEndpointName: ""
  sourceVip: ""
"""
)


def read(text: str) -> Configuration:
    return parse_config(HEAD + text)[0]


def parsed(text: str) -> ProxyConfig:
    return read(text).proxy


def own(text: str) -> Configuration:
    return parse_config(OWN + text)[0]


def unused(text: str, head: str = HEAD) -> tuple[str, ...]:
    return parse_config(head + text)[1]


def test_an_empty_configuration_is_the_default() -> None:
    assert parse_config(HEAD) == parse_config(OWN) == (Configuration(), ())
    assert Configuration().proxy == ProxyConfig()
    nothing = "nodePortAddresses: null\nclusterCIDR: ''\ndetectLocalMode: ''\niptables: null\n"
    assert parsed(nothing + "hostnameOverride: ''\nbindAddress: 0.0.0.0\n") == ProxyConfig()


def test_options_of_services_are_read_for_those_without_annotations() -> None:
    text = """
balance: round-robin
slowStart: 30s
onEndpointRemoved: keep
idleTimeout: 1h
maxConnectionAge: 10m
ejection:
  enabled: false
  consecutiveFailures: 5
  baseTime: 1s
  maxTime: 1m
  maxPercent: 30
"""
    assert own(text).proxy.options == ServiceOptions(
        balance="round-robin",
        slow_start_s=30,
        on_endpoint_removed="keep",
        idle_timeout_s=3600,
        max_connection_age_s=600,
        ejects=False,
        ejection=EjectionSettings(
            consecutive_failures=5, base_time_s=1, max_time_s=60, max_percent=30
        ),
    )


def test_what_kubeadm_writes_asks_for_nothing_that_has_no_effect() -> None:
    configuration, lines = parse_config(KUBEADM)
    assert lines == ()
    assert configuration.kubeconfig == "/var/lib/kube-proxy/kubeconfig.conf"
    assert configuration.proxy == ProxyConfig(cluster_cidr=(parse_cidr("10.244.0.0/16"),))
    plain = read(
        "clientConnection: {kubeconfig: /var/lib/kube-proxy/kubeconfig.conf}\n"
        "clusterCIDR: 10.244.0.0/16"
    )
    assert configuration == plain


def test_every_field_that_decisions_depend_on_is_read() -> None:
    text = """
hostnameOverride: " Node-1 "
nodePortAddresses: [192.168.0.0/24, "2001:db8::/64"]
clusterCIDR: 10.0.0.0/8,fd00::/8
detectLocalMode: NodeCIDR
mode: nftables
nftables: {masqueradeAll: true}
iptables: {localhostNodePorts: false}
bindAddress: 192.168.0.002
---
apiVersion: pyproxy.io/v1alpha1
kind: PyproxyConfiguration
serviceProxyName: pyproxy
"""
    assert parsed(text) == ProxyConfig(
        node_name="node-1",
        proxy_name="pyproxy",
        node_port_addresses=NodePortAddresses(
            (parse_cidr("192.168.0.0/24"), parse_cidr("2001:db8::/64"))
        ),
        cluster_cidr=(parse_cidr("10.0.0.0/8"), parse_cidr("fd00::/8")),
        detect_local_mode="NodeCIDR",
        masquerade_all=True,
        bind_address="192.168.0.2",
        localhost_node_ports=False,
    )


def test_every_field_of_our_own_is_read() -> None:
    found = own("""
steer: nft
steering: {mark: 0x10, routeTable: 11, rulePriority: 12}
sourceAddress: node
serviceProxyName: ""
workers: 0
connectTimeout: 250ms
connectDeadline: 1m30s
drainTimeout: 0s
maxConnections: 13
maxUdpFlows: 14
logFormat: json
logLevel: warning
""").pyproxy
    assert (found.steer, found.source_address, found.service_proxy_name) == ("nft", "node", "")
    steering = found.steering
    assert (steering.mark, steering.route_table, steering.rule_priority) == (16, 11, 12)
    assert (found.connect_timeout_s, found.connect_deadline_s) == (0.25, 90.0)
    assert found.drain_timeout_s == 0.0
    assert (found.max_connections, found.max_udp_flows) == (13, 14)
    assert (found.log_format, found.log_level) == ("json", "warning")


@pytest.mark.parametrize("separator", ["---\n", "---\n---\n", "---\n# nothing\n---\n"])
def test_both_documents_may_stand_in_one_file_in_any_order(separator: str) -> None:
    first, second = HEAD + "clusterCIDR: 10.0.0.0/8\n", OWN + "drainTimeout: 1s\n"
    one = parse_config(first + separator + second)[0]
    assert one == parse_config(second + separator + first)[0]
    assert one.pyproxy.drain_timeout_s == 1.0
    assert one.proxy.cluster_cidr


@pytest.mark.parametrize(
    ("text", "health", "metrics"),
    [
        ("", ("0.0.0.0", 10256), ("127.0.0.1", 10249)),
        ("bindAddress: '::'", ("::", 10256), ("::1", 10249)),
        ("bindAddress: fd00::1", ("::", 10256), ("::1", 10249)),
        ("bindAddress: 10.0.0.1", ("0.0.0.0", 10256), ("127.0.0.1", 10249)),
        (
            "bindAddress: '::'\nhealthzBindAddress: 0.0.0.0:1\nmetricsBindAddress: 10.0.0.1:65535",
            ("0.0.0.0", 1),
            ("10.0.0.1", 65535),
        ),
        (
            "healthzBindAddress: 10.0.0.1\nmetricsBindAddress: fd00::1",
            ("10.0.0.1", 10256),
            ("fd00::1", 10249),
        ),
        ("healthzBindAddress: '[fd00::1]:99'", ("fd00::1", 99), ("127.0.0.1", 10249)),
    ],
)
def test_bind_address_gives_the_family_of_the_ports_and_a_missing_port_is_the_usual_one(
    text: str, health: tuple[str, int], metrics: tuple[str, int]
) -> None:
    assert read(text).health == HostPort(*health)
    assert read(text).metrics == HostPort(*metrics)


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
        ("mode: nftables\nmasqueradeAll: true", True),
    ],
)
def test_the_section_of_the_mode_says_whether_to_masquerade_all(text: str, expected: bool) -> None:
    assert parsed(text).masquerade_all is expected


@pytest.mark.parametrize(
    ("mode", "sync", "min_sync"),
    [("", 1, 0.1), ("iptables", 1, 0.1), ("nftables", 2, 0.2), ("ipvs", 3, 0.3)],
)
def test_the_section_of_the_mode_supplies_the_periods(
    mode: str, sync: float, min_sync: float
) -> None:
    found = read(f"""
mode: "{mode}"
iptables: {{syncPeriod: 1s, minSyncPeriod: 100ms}}
nftables: {{syncPeriod: 2s, minSyncPeriod: 200ms}}
ipvs: {{syncPeriod: 3s, minSyncPeriod: 300ms}}
""")
    assert found.sync_period_s == sync
    assert found.min_sync_period_s == pytest.approx(min_sync)


def test_a_time_of_zero_is_the_default_for_kube_proxy_and_a_time_for_us() -> None:
    found = read("iptables: {syncPeriod: 0s}\nconntrack: {udpTimeout: 0s, udpStreamTimeout: 5s}")
    assert found.sync_period_s == 30
    assert found.kube_proxy.conntrack.udp_timeout_s == 30.0
    assert found.kube_proxy.conntrack.udp_stream_timeout_s == 5.0
    assert own("drainTimeout: 0s").pyproxy.drain_timeout_s == 0.0


@pytest.mark.parametrize(
    ("text", "form", "level"),
    [
        ("", "text", "info"),
        ("logging: {format: json, verbosity: 3}", "json", "info"),
        ("logging: {verbosity: 4}", "text", "debug"),
        (f"logging: {{format: json, verbosity: 4}}\n---\n{OWN}logLevel: error", "json", "error"),
        (f"logging: {{format: json}}\n---\n{OWN}logFormat: text", "text", "info"),
    ],
)
def test_our_own_words_on_the_log_beat_those_of_kube_proxy(
    text: str, form: str, level: str
) -> None:
    assert (read(text).log_format, read(text).log_level) == (form, level)


def test_fields_without_effect_are_named_each_with_its_reason() -> None:
    lines = unused("""
conntrack: {min: 1, maxPerCore: 0, tcpEstablishedTimeout: 24h0m0s}
featureGates: {Foo: true}
foo: bar
iptables: {masqueradeBit: 14, nonsense: {a: 1}}
winkernel: {networkName: x}
zero: null
""")
    assert [line.split(" ", 1)[0] for line in lines] == [
        "conntrack.min",
        "conntrack.tcpEstablishedTimeout",
        "featureGates",
        "foo",
        "iptables.masqueradeBit",
        "iptables.nonsense",
        "winkernel",
        "zero",
    ]
    assert lines[2] == "featureGates has no effect here: pyproxy has no feature gates"
    assert lines[3] == "foo is not known, and has no effect here"
    assert unused("drain: 1s", OWN) == ("drain is not known, and has no effect here",)


def test_a_mapping_without_effect_is_named_as_one() -> None:
    text = "logging: {options: {json: {infoBufferSize: 1Ki}}, vmodule: [a]}\nextra: {a: {b: 1}}"
    assert unused(text) == (
        "extra is not known, and has no effect here",
        "logging.options has no effect here: pyproxy's log has no such setting",
        "logging.vmodule has no effect here: pyproxy's log has no such setting",
    )


@pytest.mark.parametrize("text", ["0.0.0.0", "::", ""])
def test_an_unspecified_bind_address_overrides_nothing(text: str) -> None:
    assert parsed(f"bindAddress: '{text}'") == ProxyConfig()


def test_the_interface_that_a_mode_needs_can_be_named() -> None:
    text = "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: br0}"
    assert parsed(text).detect_local_mode == "BridgeInterface"


@pytest.mark.parametrize(
    "text",
    [
        HEAD,
        KUBEADM,
        HEAD + "bindAddress: '::'\nnodePortAddresses: [10.0.0.0/8, localhost]\nmode: iptables\n",
        HEAD + "nodePortAddresses: [primary]\nclusterCIDR: 10.0.0.0/8,fd00::/8\nmode: ipvs\n",
        HEAD + "healthzBindAddress: '[::]:99'\nlogging: {verbosity: 5, format: json}\n",
        OWN + "serviceProxyName: ''\ndrainTimeout: 1h0m0.5s\nsteer: nft\nlogLevel: debug\n",
    ],
)
def test_the_documents_that_are_shown_read_as_what_they_show(text: str) -> None:
    configuration, _ = parse_config(text)
    shown = yaml.safe_dump_all(configuration.documents())
    again, lines = parse_config(shown)
    assert lines == ()
    assert again.documents() == configuration.documents()
    assert again.proxy == configuration.proxy


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
