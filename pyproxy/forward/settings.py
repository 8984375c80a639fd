"""What a user may choose about forwarding. Times are seconds; `_s` says so."""

from typing import Literal

import msgspec


class ForwardSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one forwarder. All numbers are > 0.

    connect_timeout_s: for one attempt; connect_deadline_s: for all attempts of one connection.
    keepalive_*: TCP keep-alive of both legs; a vanished peer is noticed after
        idle + interval * probes, here two minutes. Idle connections are never closed.
    drain_timeout_s: how long a connection may outlive its endpoint, or its greatest age.
    max_connections: live TCP connections; further ones wait in the kernel's accept queues.
    max_descriptors: sockets and pipes; above nine tenths of them the Service with the most
        connections gets no more. None: no bound but the system's.
    accept_pause_s: how long to leave clients in the accept queues when descriptors run out.
    backlog: of each TCP listener; the kernel cuts it to net.core.somaxconn (4096 by default).
    reuse_port: let several processes listen on the same frontends (SO_REUSEPORT).
    transparent: let frontends be addresses that are on no interface of this host; packets for them
        have to be steered to it. Takes CAP_NET_ADMIN or CAP_NET_RAW.
    source_address: whose address endpoints see. "auto" is the client's where kube-proxy would keep
        it and the reply can come back; packets for transparent sockets have to be steered to this
        host, or no such connection succeeds. Takes the same capability.
    bind_retry_s, bind_retry_batch: how often to try again what could not be bound, and how many of
        them at once: 500 binds take about 5 ms.
    contested_s: for how long a port must be seen free before it is taken, on an address of no
        interface, once somebody had it: whoever listens on all addresses could not come back, and
        it may be the kubelet that is only restarted.
    tells_taken: log what cannot be bound because the address or the port is not to be had; off
        where such frontends are moved elsewhere at once.
    udp_unreplied_timeout_s, udp_replied_timeout_s: idle times of a flow before and after its
        endpoint has answered; conntrack's defaults (PARITY 11.1).
    max_udp_flows: each takes one descriptor.
    """

    connect_timeout_s: float = 1.0
    connect_deadline_s: float = 5.0
    keepalive_idle_s: int = 60
    keepalive_interval_s: int = 15
    keepalive_probes: int = 4
    drain_timeout_s: float = 30.0
    max_connections: int = 65_536
    max_descriptors: int | None = None
    accept_pause_s: float = 0.1
    backlog: int = 4096
    reuse_port: bool = False
    transparent: bool = False
    source_address: Literal["auto", "node"] = "node"
    bind_retry_s: float = 2.0
    bind_retry_batch: int = 500
    contested_s: float = 30.0
    tells_taken: bool = True
    udp_unreplied_timeout_s: float = 30.0
    udp_replied_timeout_s: float = 120.0
    max_udp_flows: int = 16_384
