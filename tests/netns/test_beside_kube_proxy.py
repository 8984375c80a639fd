"""What of kube-proxy's nftables mode reaches the Services that it leaves to pyproxy; cleaning up.

The rules are those that kube-proxy v1.36 makes in any cluster (pkg/proxy/nftables/proxier.go,
setupNFTables): it drops new connections to ClusterIPs that it does not know. Hooks and priorities
are its own.
"""

import sys
from pathlib import Path

from tests.netns.test_deploy_capabilities import PORTS, VIP, granted, lab, log_until, start
from tests.support.manifests import ROOT
from tests.support.netns import QUIET_S, Cluster, Reply, needs_netns

__all__ = ["lab"]
pytestmark = needs_netns

KUBE_PROXY = """
table ip kube-proxy {
  set cluster-ips { type ipv4_addr; }
  chain cluster-ips-check {
    ip daddr @cluster-ips reject
    ip daddr 10.96.0.0/16 drop
  }
  chain filter-forward {
    type filter hook forward priority -110; policy accept;
    ct state new jump cluster-ips-check
  }
  chain filter-output-post-dnat {
    type filter hook output priority -90; policy accept;
    ct state new jump cluster-ips-check
  }
}
"""


def test_pods_are_served_beside_kube_proxy_and_the_nodes_own_processes_are_not(
    lab: Cluster, tmp_path: Path
) -> None:
    lab.node.run("nft", "-f", "-", stdin=KUBE_PROXY)
    log_until(start(lab, tmp_path, granted()), "listening on")
    client = lab.pods[0]
    for protocol, port in PORTS.items():
        assert client.ask(protocol, VIP, port) == Reply("answer", client.v4)
        # What docs/install.md says of it; in iptables mode there is no such rule.
        assert lab.node.ask(protocol, VIP, port, patience_s=QUIET_S).outcome == "timeout"


def test_net_admin_is_enough_to_clean_up(lab: Cluster, tmp_path: Path) -> None:
    agent = start(lab, tmp_path, granted())
    log_until(agent, "listening on")
    agent.kill()
    assert "table inet pyproxy" in lab.node.run("nft", "list", "ruleset")
    lab.node.run(
        *("setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all,+net_admin"),
        *("env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "pyproxy", "cleanup"),
    )
    assert "pyproxy" not in lab.node.run("nft", "list", "ruleset")
    assert "fwmark" not in lab.node.run("ip", "rule")
