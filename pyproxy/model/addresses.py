"""IP addresses and CIDRs, parsed once at the edge to canonical text.

Canonical text is what is compared and hashed everywhere else: a string is half the price of an
`ipaddress` object to build, and the kernel, the API and the logs speak it too.

Parsing is as lenient as the Kubernetes API has to be (PARITY 1.14, 1.15): leading zeros in an IPv4
octet are decimal, and an IPv4-mapped IPv6 address is the IPv4 address.
"""

import functools
import ipaddress
import re
from typing import Literal

import msgspec

Family = Literal["IPv4", "IPv6"]
FAMILIES: tuple[Family, Family] = ("IPv4", "IPv6")

_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
# The usual case by far: canonical IPv4 already (half a microsecond, where ip_address takes 3).
_CANONICAL_IPV4 = re.compile(rf"{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}", re.ASCII)
_LEADING_ZEROS = re.compile(r"(?<![0-9a-fA-F.])0+(?=\d+\.)|(?<=\.)0+(?=\d)", re.ASCII)


def parse_address(text: str) -> str:
    """Return the canonical text of an IP address.

    Raises ValueError when `text` is no IP address. A zone (`fe80::1%eth0`) is none: Go's parser,
    which the API server uses, does not take it either.
    """
    if _CANONICAL_IPV4.fullmatch(text):
        return text
    return _parse_slowly(text)


@functools.lru_cache(maxsize=65536)
def _parse_slowly(text: str) -> str:
    if "%" in text:
        raise ValueError(f"{text!r} is not an IP address: it has a zone")
    try:
        address = ipaddress.ip_address(_LEADING_ZEROS.sub("", text))
    except ValueError as fault:
        raise ValueError(f"{text!r} is not an IP address") from fault
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def family_of(address: str) -> Family:
    """Return the family of a canonical address."""
    return "IPv6" if ":" in address else "IPv4"


def is_loopback(address: str) -> bool:
    """Whether a canonical address is in 127.0.0.0/8 or is ::1."""
    return address == "::1" or address.startswith("127.")


# 0.0.0.0/8 and ::, which mean "every address" to who listens; multicast; 240.0.0.0/4 with the
# broadcast address. `_LINK_LOCAL`: another network's on each interface; cloud metadata is there.
_NOBODY = re.compile(r"0\.|2(?:2[4-9]|[345]\d)\.|::$|ff[0-9a-f]{2}:")
_LINK_LOCAL = re.compile(r"169\.254\.|fe[89ab][0-9a-f]:")


def is_nobodys(address: str) -> bool:
    """Whether no host can have a canonical address, which so is no place to listen or connect."""
    return _NOBODY.match(address) is not None


def is_link_local(address: str) -> bool:
    """Whether a canonical address is in 169.254.0.0/16 or fe80::/10."""
    return _LINK_LOCAL.match(address) is not None


def join_host_port(address: str, port: int) -> str:
    """Return `10.1.2.3:80` or `[fd00::1]:80`, as Kubernetes writes an endpoint."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@functools.lru_cache(maxsize=65536)
def _number(address: str) -> int:
    return int(ipaddress.ip_address(address))


class Cidr(msgspec.Struct, frozen=True, order=True):
    """A network: `network` is its first address in canonical text, `prefix` its length in bits."""

    network: str
    prefix: int

    @property
    def family(self) -> Family:
        """The family of its addresses."""
        return family_of(self.network)

    def __contains__(self, address: str) -> bool:
        """Whether a canonical address of either family is in the network."""
        if (":" in address) != (":" in self.network):
            return False
        shift = (128 if ":" in address else 32) - self.prefix
        return _number(address) >> shift == _number(self.network) >> shift

    def __str__(self) -> str:
        return f"{self.network}/{self.prefix}"


def parse_cidr(text: str) -> Cidr:
    """Parse `10.0.0.0/8`; bits behind the prefix are cleared.

    Raises ValueError when `text` is no CIDR. A bare address is none (PARITY 7.4).
    """
    address, slash, length = text.partition("/")
    if not slash or not length.isascii() or not length.isdecimal():
        raise ValueError(f"{text!r} is not a CIDR such as 10.0.0.0/8")
    canonical = parse_address(address)
    prefix = int(length)
    if ":" in address and ":" not in canonical:  # ::ffff:10.0.0.0/104 is 10.0.0.0/8
        prefix -= 96
    bits = 128 if ":" in canonical else 32
    if not 0 <= prefix <= bits:
        raise ValueError(f"{text!r} is not a CIDR: its prefix length is not within 0 to {bits}")
    network = ipaddress.ip_network((canonical, prefix), strict=False)
    return Cidr(str(network.network_address), prefix)
