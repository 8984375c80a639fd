"""The fixed part of the table as nft script: its sets, its chains and their rules.

The table has two hooks. In prerouting come packets of pods and of the outside, those that were
routed to lo, and the replies to sockets of ours that are bound to a client's address; what is
steered there is looked at once more for whether its source can be true (chain `sources`). In output
come packets of the node's own processes. Verdicts are for new connections (5.11), so TCP packets
without a fresh SYN are told apart:

- In prerouting the kernel looks for their socket: only a transparent one needs steering.
- In output it would find the socket that sends, not the one that is meant. There the services are
  looked up for them as well, and every chain of a verdict steers them: they come back by lo, where
  their socket is looked for. An element that is taken away would strand them; so its VIP:port is
  kept for as long as connections use it, in the sets `retired`.

Datagrams do not tell a new client from an old one: the services are looked up for each of them.
Those of no service (any more) are steered at prerouting if a socket of ours is there.

Most VIP:ports are steered or refused: those are elements of plain sets. Only what leads elsewhere
is in a map of verdicts. For each verdict that is added the kernel looks through all maps of the
table for a loop of chains (nf_tables_api.c, nft_table_validate): 1 ms where they have 10,000.

Connection tracking is left as it is found. With `notrack`, somebody else's masquerading would not
see the packets to endpoints outside of the cluster, which need it.
"""

import hashlib

from pyproxy.core.transaction import TABLE, Transaction

LAYOUT_PREFIX = "layout-"

# A socket of a client asks after its peer when nothing was heard for long; tcp_keepalive_time is
# two hours, and what is retired must not be forgotten in between.
RETIRED_S = 3 * 3600

# TCP packets that begin no connection.
UNDER_WAY = "tcp flags & (syn | ack) != syn"

_SERVICES = {
    "4": "ip daddr . meta l4proto . th dport",
    "6": "ip6 daddr . meta l4proto . th dport",
}

_SETS = (
    "set inet pyproxy steer4 { type ipv4_addr . inet_proto . inet_service; }",
    "set inet pyproxy steer6 { type ipv6_addr . inet_proto . inet_service; }",
    "set inet pyproxy refuse4 { type ipv4_addr . inet_proto . inet_service; }",
    "set inet pyproxy refuse6 { type ipv6_addr . inet_proto . inet_service; }",
    "map inet pyproxy verdicts4 { type ipv4_addr . inet_proto . inet_service : verdict; }",
    "map inet pyproxy verdicts6 { type ipv6_addr . inet_proto . inet_service : verdict; }",
    "set inet pyproxy cluster-ips4 { type ipv4_addr; }",
    "set inet pyproxy cluster-ips6 { type ipv6_addr; }",
    "set inet pyproxy service-cidrs4 { type ipv4_addr; flags interval; }",
    "set inet pyproxy service-cidrs6 { type ipv6_addr; flags interval; }",
    "set inet pyproxy pods4 { type ipv4_addr; flags interval; }",
    "set inet pyproxy pods6 { type ipv6_addr; flags interval; }",
    "set inet pyproxy retired4 { type ipv4_addr . inet_service; flags dynamic, timeout; }",
    "set inet pyproxy retired6 { type ipv6_addr . inet_service; flags dynamic, timeout; }",
)

_HOOKS = {
    "prerouting": "{ type filter hook prerouting priority mangle; policy accept; }",
    "sources": "{ type filter hook prerouting priority mangle + 1; policy accept; }",
    "output": "{ type route hook output priority mangle; policy accept; }",
}

# Sources of a datagram that the sender cannot have, although the node has a way there. The kernel
# takes those of IPv6 (an answer to :: goes to ::1), and refuses all of these of IPv4, but for
# 240.0.0.0/4; it knows nothing of virtual IPs: two of them would answer each other without end.
_IMPOSSIBLE = (
    "fib saddr type local drop",
    "ip saddr { 0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/3 } drop",
    "ip6 saddr { ::/127, fe80::/10, ff00::/8 } drop",
    "ip saddr @cluster-ips4 drop",
    "ip6 saddr @cluster-ips6 drop",
    "ip saddr @service-cidrs4 drop",
    "ip6 saddr @service-cidrs6 drop",
)
# Another pod's address: the way back to it does not begin where the datagram came from. (Who writes
# it in a SYN gets no connection.) Cilium's interfaces are on no way back, and Cilium looks at the
# source itself. From outside the ways may differ: rp_filter is the setting for those (ip-sysctl).
_OF_A_POD = tuple(
    f'meta l4proto udp {ip} saddr @pods{digit} iifname != "lxc*" iifname != "cilium_*"'
    " fib saddr . iif oif missing drop"
    for ip, digit in (("ip", 4), ("ip6", 6))
)


def _chains(mark: int, *, checks_pods: bool) -> dict[str, tuple[str, ...]]:
    """The rules of every fixed chain."""
    return {
        "sources": (
            # Where route_localnet is on (kube-proxy sets it and leaves it), the node's loopback
            # would be open to its neighbours, as CVE-2020-8558 says.
            "iif != lo ip daddr 127.0.0.0/8 drop",
            f"meta mark & {mark:#x} == 0 accept",
            "iif lo accept",
            *_IMPOSSIBLE,
            *(_OF_A_POD if checks_pods else ()),
        ),
        "steer": (f"meta mark set meta mark | {mark:#x} accept",),
        "refuse": (
            f"{UNDER_WAY} goto steer",
            "meta l4proto tcp reject with tcp reset",
            "reject",
        ),
        "discard": (f"{UNDER_WAY} goto steer", "drop"),
        "insiders": (
            f"{UNDER_WAY} goto steer",
            "ip saddr @pods4 goto steer",
            "ip6 saddr @pods6 goto steer",
            "fib saddr type local goto steer",  # 4.11
            "drop",
        ),
        "services": (
            *(f"{key} @steer{digit} goto steer" for digit, key in _SERVICES.items()),
            *(f"{key} @refuse{digit} goto refuse" for digit, key in _SERVICES.items()),
            *(f"{key} vmap @verdicts{digit}" for digit, key in _SERVICES.items()),
        ),
        "unserved": (
            "ip daddr @cluster-ips4 goto refuse",
            "ip6 daddr @cluster-ips6 goto refuse",
            "ip daddr @service-cidrs4 fib daddr type != local goto discard",
            "ip6 daddr @service-cidrs6 fib daddr type != local goto discard",
        ),
        # Another program's transparent listener on all addresses takes packets to any of them;
        # steering those would take them from who they are for. Sockets of ours have an address.
        # (The kernel cannot tell of a socket in its handshake or in TIME_WAIT: those are exact.)
        "ours": ("socket wildcard 1 return", "goto steer"),
        # Nobody comes here. A tproxy statement makes the kernel put fragments together before
        # prerouting (nf_defrag_ipv4_enable), as connection tracking does where it is on: only the
        # first fragment of a large datagram has a port.
        "defragment": ("meta l4proto udp tproxy to :1",),
        "prerouting": (
            f"{UNDER_WAY} socket transparent 1 goto ours",
            f"{UNDER_WAY} accept",
            "jump services",
            # Datagrams of flows whose frontend is gone (11.10), ICMP errors about our sockets.
            "meta l4proto != tcp socket transparent 1 jump ours",
            "goto unserved",
        ),
        "output": (
            "jump services",
            *(
                f"{UNDER_WAY} {service} @retired{digit}"
                f" update @retired{digit} {{ {service} timeout {RETIRED_S}s }} goto steer"
                for service, digit in (("ip daddr . tcp dport", 4), ("ip6 daddr . tcp dport", 6))
            ),
            "goto unserved",
        ),
    }


def layout(mark: int, *, checks_pods: bool = True) -> str:
    """The name of an empty chain that tells which fixed part a table was made with."""
    content = repr((_SETS, _HOOKS, _chains(mark, checks_pods=checks_pods)))
    return f"{LAYOUT_PREFIX}{hashlib.sha256(content.encode()).hexdigest()[:16]}"


def base(mark: int, *, checks_pods: bool = True) -> Transaction:
    """Make the fixed part of the table, or put it right again; sets keep their elements."""
    return _one_step(_base(mark, checks_pods=checks_pods))


def fresh(mark: int, *, checks_pods: bool = True) -> Transaction:
    """Make the table anew, without an element, whatever was there."""
    return _one_step(
        [f"add table {TABLE}", f"delete table {TABLE}", *_base(mark, checks_pods=checks_pods)]
    )


def _base(mark: int, *, checks_pods: bool) -> list[str]:
    chains = _chains(mark, checks_pods=checks_pods)
    name = layout(mark, checks_pods=checks_pods)
    lines = [f"add table {TABLE}", f"add chain {TABLE} {name}"]
    lines += [f"add {declaration}" for declaration in _SETS]
    lines += [f"add chain {TABLE} {name} {_HOOKS.get(name, '')}".rstrip() for name in chains]
    for name, rules in chains.items():
        lines.append(f"flush chain {TABLE} {name}")
        lines += [f"add rule {TABLE} {name} {rule}" for rule in rules]
    return lines


def _one_step(lines: list[str]) -> Transaction:
    return Transaction(("\n".join(lines),), len(lines))


def remove() -> Transaction:
    """Remove the table, whether it is there or not."""
    return Transaction((f"add table {TABLE}\ndelete table {TABLE}",), 1)
