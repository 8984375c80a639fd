"""UDP datagrams with any source address, as a pod with CAP_NET_RAW can write them."""

import socket
import struct

from pyproxy.model.addresses import family_of
from tests.support.netns import Host


def send_as(host: Host, source: str, address: str, port: int, source_port: int = 40_000) -> None:
    """Send a datagram from this host, with the source that is asked for, whoever has it."""
    packet = _packet(source, source_port, address, port, b"who am I?")
    is_v4 = family_of(address) == "IPv4"
    with host.entered():
        # IPPROTO_RAW: the header is in the packet (raw(7), IPV6_HDRINCL).
        family = socket.AF_INET if is_v4 else socket.AF_INET6
        raw = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
    with raw:
        raw.sendto(packet, (address, 0))


def _packet(source: str, source_port: int, address: str, port: int, payload: bytes) -> bytes:
    is_v4 = family_of(address) == "IPv4"
    family = socket.AF_INET if is_v4 else socket.AF_INET6
    ends = socket.inet_pton(family, source) + socket.inet_pton(family, address)
    length = 8 + len(payload)
    pseudo = ends + struct.pack("!II", length, socket.IPPROTO_UDP)  # RFC 8200 8.1
    bare = struct.pack("!HHHH", source_port, port, length, 0) + payload
    sum_ = _checksum(pseudo + bare)
    datagram = struct.pack("!HHHH", source_port, port, length, sum_) + payload
    if is_v4:
        # The kernel fills in the length and the checksum (raw(7)).
        header = struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, 0, 64, socket.IPPROTO_UDP, 0)
    else:
        header = struct.pack("!IHBB", 6 << 28, length, socket.IPPROTO_UDP, 64)
    return header + ends + datagram


def _checksum(data: bytes) -> int:
    padded = data + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF or 0xFFFF


def pings(host: Host, address: str, patience_s: float) -> bool:
    """Whether an address answers an ICMP echo request of this host (RFC 792)."""
    with host.entered():
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    rest = struct.pack("!HH", 7, 1) + b"who am I?"
    request = struct.pack("!BBH", 8, 0, _checksum(struct.pack("!BBH", 8, 0, 0) + rest)) + rest
    with raw:
        raw.settimeout(patience_s)
        try:
            raw.sendto(request, (address, 0))
            while True:
                packet, (sender, _) = raw.recvfrom(1500)
                if sender == address and packet[20] == 0:  # behind the IP header: an echo reply
                    return True
        except OSError:
            return False
