"""Steering over time: changes under live connections, restarts, strangers, the end."""

import json
import socket
from collections.abc import Iterator

import pytest

from pyproxy.core.ruleset import ruleset
from pyproxy.core.ruleset_script import layout
from pyproxy.core.transaction import TABLE
from pyproxy.model.service import Protocol
from pyproxy.steer.nft import KernelTable, Nft
from pyproxy.steer.routes import RouteError, families
from tests.support.builders import Json, applied
from tests.support.netns import QUIET_S, Cluster, Host, cluster, needs_netns
from tests.support.steering import SETTINGS, SteeringNode, dual, endpoints, new_route

pytestmark = needs_netns

VIPS = ("10.96.0.10", "fd00:96::10")
EXTERNAL_IPS = ("203.0.113.10", "2001:db8::10")
# Not in a ServiceCIDR: an external IP. Everything else about the Service is the same.
SERVICE = dual(10, externalIPs=list(EXTERNAL_IPS))
REMOTE = endpoints(10, "node-2")


@pytest.fixture
def lab() -> Iterator[Cluster]:
    with cluster(pods=1) as made:
        yield made


@pytest.fixture
def node(lab: Cluster) -> Iterator[SteeringNode]:
    with SteeringNode(lab, SERVICE, *endpoints(10)) as made:
        yield made


def clients(lab: Cluster) -> list[Host]:
    return [lab.pods[0], lab.node, lab.outside]


def hold(lab: Cluster, protocol: Protocol) -> list[socket.socket]:
    addresses = (*VIPS, *EXTERNAL_IPS)
    return [client.connected(protocol, a, 80) for client in clients(lab) for a in addresses]


def says_who(sock: socket.socket) -> bool:
    sock.send(b"who am I?")
    answer: str = sock.recv(100).decode()
    return answer in sock.getsockname()


CHANGES: dict[str, list[Json]] = {
    "refused": [endpoints(10)[0] | {"endpoints": []}, endpoints(10)[1] | {"endpoints": []}],
    "discarded": [dual(10, externalIPs=list(EXTERNAL_IPS), internalTrafficPolicy="Local"), *REMOTE],
    "for insiders": [
        dual(10, externalIPs=list(EXTERNAL_IPS), externalTrafficPolicy="Local"),
        *REMOTE,
    ],
    "deleted": [],
}


@pytest.mark.parametrize("change", CHANGES)
def test_tcp_connections_outlive_every_change_of_the_verdict(
    lab: Cluster, node: SteeringNode, change: str
) -> None:
    """PARITY 5.11; also of the node's own processes, and at addresses of no ServiceCIDR."""
    held = hold(lab, "TCP")
    assert all(map(says_who, held))
    if CHANGES[change]:
        node.put(*CHANGES[change])
    else:
        node.delete(SERVICE)
        for client in clients(lab):
            assert client.ask("TCP", VIPS[0], 80, patience_s=QUIET_S).outcome == "timeout"
    for sock in held:
        with sock:
            assert says_who(sock)


def test_what_was_retired_is_forgotten_when_nobody_uses_it(node: SteeringNode) -> None:
    node.delete(SERVICE)
    listing = json.loads(node.host.run("nft", "-j", "list", "table", *TABLE.split()))
    for item in listing["nftables"]:
        if item.get("set", {}).get("name", "").startswith("retired"):
            elements = [element["elem"] for element in item["set"]["elem"]]
            assert {element["val"]["concat"][1] for element in elements} == {80}
            assert all(0 < element["expires"] <= 3 * 3600 for element in elements)


def test_datagrams_of_pods_reach_a_socket_that_outlives_its_frontend(
    lab: Cluster, node: SteeringNode
) -> None:
    """PARITY 11.10: the forwarder keeps such a socket for its flows."""
    kept = dict(node.servers)
    node.servers.clear()  # so that nobody closes them
    node.delete(SERVICE)
    assert kept
    for address in VIPS:
        assert lab.pods[0].ask("UDP", address, 80).outcome == "answer"
        # But nobody new is taken on by TCP, although its listener is there.
        assert lab.pods[0].ask("TCP", address, 80, patience_s=QUIET_S).outcome == "timeout"


@pytest.mark.parametrize("address", ["10.96.0.10", "10.96.0.77"])
def test_who_listens_on_an_interface_is_reached(lab: Cluster, address: str) -> None:
    """NodeLocal DNSCache has addresses of a ServiceCIDR on an interface: a ClusterIP, or not."""
    lab.node.ip(f"address add {address}/32 dev lo")
    lab.node.serve("UDP", address, 53)
    lab.node.serve("TCP", address, 9253)
    with SteeringNode(lab, SERVICE):
        for client in clients(lab):
            assert client.ask("UDP", address, 53).outcome == "answer"
            assert client.ask("TCP", address, 9253).outcome == "answer"
            assert client.ask("TCP", address, 54).outcome == "refused"


def test_somebody_elses_transparent_listener_takes_nothing_by_our_doing(
    lab: Cluster, node: SteeringNode
) -> None:
    """Bound to every address, it matches packets that are only routed through this node."""
    lab.outside.serve("UDP", lab.outside.v4, 15001)
    stranger = node.host.serve("UDP", "0.0.0.0", 15001, transparent=True)
    assert lab.pods[0].ask("UDP", lab.outside.v4, 15001).outcome == "answer"
    assert stranger.hits == 0


def test_a_restart_changes_nothing_and_interrupts_nobody(lab: Cluster, node: SteeringNode) -> None:
    before = elements(node)
    held = hold(lab, "TCP")
    node.nft(f"add element {TABLE} steer4 {{ 10.96.0.99 . tcp . 80 }}")
    node.restart()
    node.run(node.steering.start())
    assert lab.pods[0].ask("TCP", VIPS[0], 80).outcome == "answer"
    node.update()
    assert elements(node) == before  # what a former run left over is gone
    for sock in held:
        with sock:
            assert says_who(sock)


def test_another_layout_is_replaced_at_once(lab: Cluster, node: SteeringNode) -> None:
    name = layout(SETTINGS.mark)
    node.nft(f"delete chain {TABLE} {name}", f"add chain {TABLE} layout-old")
    node.restart()
    node.run(node.steering.start())
    assert lab.pods[0].ask("TCP", VIPS[0], 80).outcome == "answer"
    node.update()
    found = node.run(Nft().read())
    assert found is not None
    assert found.layout == name
    assert "layout-old" not in found.rules


DAMAGE = {
    "the table": f"delete table {TABLE}",
    "an element": f"delete element {TABLE} steer4 {{ 10.96.0.10 . tcp . 80 }}",
    "all elements": f"flush set {TABLE} steer6",
    "a ClusterIP": f"delete element {TABLE} cluster-ips4 {{ 10.96.0.10 }}",
    "a network": f"flush set {TABLE} pods4",
    "a rule": f"flush chain {TABLE} prerouting",
    "a rule too many": f"insert rule {TABLE} output drop",
    "an element too many": f"add element {TABLE} verdicts4 {{ 10.1.1.1 . tcp . 80 : drop }}",
    "a verdict": f"delete element {TABLE} steer4 {{ 10.96.0.10 . udp . 80 }}\n"
    f"add element {TABLE} refuse4 {{ 10.96.0.10 . udp . 80 }}",
    "a second verdict": f"add element {TABLE} refuse6 {{ fd00:96::10 . udp . 80 }}",
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_found_and_mended(lab: Cluster, node: SteeringNode, what: str) -> None:
    assert not node.run(node.steering.check())
    before = elements(node)
    node.nft(DAMAGE[what])
    assert node.run(node.steering.check())
    assert node.steering.repairs == 1
    assert elements(node) == before
    assert not node.run(node.steering.check())
    for client in clients(lab):
        for protocol in ("TCP", "UDP"):
            assert all(client.ask(protocol, address, 80).outcome == "answer" for address in VIPS)


@pytest.mark.parametrize("family", ["", "-6"])
def test_the_policy_route_is_mended(lab: Cluster, node: SteeringNode, family: str) -> None:
    for damage in (
        f"ip {family} rule del priority {SETTINGS.rule_priority}",
        f"ip {family} route flush table {SETTINGS.route_table}",
    ):
        node.host.run(*damage.split())
        assert node.run(node.steering.check())
        assert not node.run(node.steering.check())
        assert lab.pods[0].ask("TCP", VIPS[bool(family)], 80).outcome == "answer"


def test_a_damaged_table_fails_an_update_once(node: SteeringNode) -> None:
    node.nft(f"delete table {TABLE}")
    with pytest.raises(Exception, match="No such file"):
        node.put(dual(11))
    node.update()
    assert elements(node) == wanted(node)


def test_cleanup_leaves_nothing_and_touches_nobody(lab: Cluster) -> None:
    lab.node.ip("rule add fwmark 0x1/0x1 lookup 77 priority 77", "route add 10.7.7.0/24 dev eth0")
    lab.node.run("nft", "-f", "-", stdin=FOREIGN)
    first = SteeringNode(lab)
    before = first.state()
    with SteeringNode(lab, SERVICE, *endpoints(10)) as node:
        assert node.state() != before
        node.run(node.steering.cleanup())
        assert node.state() == before
        node.run(node.steering.cleanup())  # nothing is there: no error
        assert node.state() == before


FOREIGN = """
table inet filter {
  set s { type ipv4_addr; elements = { 10.96.0.10, 10.96.0.11 }; }
  chain input { type filter hook input priority 0; policy accept; ip saddr @s counter drop; }
}
table ip nat {
  chain postrouting {
    type nat hook postrouting priority 100; policy accept;
    ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 oifname "nothing" masquerade
  }
}
table inet pyproxy-other {
  map services4 { type ipv4_addr : verdict; }
}
"""


def test_a_foreign_table_is_the_same_after_a_thousand_changes(lab: Cluster) -> None:
    def foreign() -> str:
        tables = ("inet filter", "ip nat", "inet pyproxy-other")
        return "".join(lab.node.run("nft", "-a", "list", "table", *t.split()) for t in tables)

    lab.node.run("nft", "-f", "-", stdin=FOREIGN)
    before = foreign()
    with SteeringNode(lab) as node:
        count = 0
        while node.steering.operations < 1000 or count < 100:
            count += 1
            for number in range(20, 25):
                node.store.apply(applied(dual(number, externalIPs=[f"203.0.113.{count % 250}"])))
            node.update()
    assert foreign() == before


def test_ipv6_switched_off_is_no_error(lab: Cluster) -> None:
    lab.node.sysctl("net.ipv6.conf.all.disable_ipv6", 1)
    with SteeringNode(lab, SERVICE, *endpoints(10)[:1]) as node:
        with node.host.entered():
            assert families() == ("IPv4",)
        assert lab.pods[0].ask("TCP", VIPS[0], 80).outcome == "answer"
        assert "fwmark" not in node.host.run("ip", "-6", "rule")
        node.run(node.steering.cleanup())


@pytest.mark.parametrize(
    ("taken", "says"),
    [
        (f"rule add from 10.0.0.1 lookup 5 priority {SETTINGS.rule_priority}", "rule priority"),
        (f"-6 rule add from ::1 lookup 5 priority {SETTINGS.rule_priority}", "IPv6 rule"),
        (f"rule add from 10.0.0.1 lookup {SETTINGS.route_table} priority 5", "route table"),
        (f"route add 10.8.8.0/24 dev eth0 table {SETTINGS.route_table}", "10.8.8.0.* route table"),
        (f"rule add fwmark 0x10/0x10 lookup {SETTINGS.route_table}"
         f" priority {SETTINGS.rule_priority}", "rule priority"),
    ],
)  # fmt: skip
def test_what_is_somebody_elses_is_not_taken_over(lab: Cluster, taken: str, says: str) -> None:
    node = SteeringNode(lab)
    node.host.run("ip", *taken.split())
    before = node.state()
    with pytest.raises(RouteError, match=says):
        node.run(node.steering.start())
    assert node.state()[1] == before[1]


def test_the_route_is_made_once(lab: Cluster) -> None:
    route = new_route()
    with lab.node.entered():
        assert [route.ensure(), route.ensure()] == [True, False]
        assert [route.remove(), route.remove()] == [True, False]


def elements(node: SteeringNode) -> object:
    found = node.run(Nft().read())
    return found and content(found)


def wanted(node: SteeringNode) -> object:
    found = ruleset(node.store.table(), node.servers)
    return content(KernelTable("", found, {}))


def content(found: KernelTable) -> object:
    rules = found.ruleset
    return (rules.services, set(rules.guards), rules.cluster_ips, rules.service_cidrs,
            rules.pod_networks)  # fmt: skip
