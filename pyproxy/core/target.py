"""What `explain` is asked about: an address and port, or a Service; and for which client."""

import msgspec

from pyproxy.errors import ConfigError
from pyproxy.model.addresses import join_host_port, parse_address
from pyproxy.model.service import Protocol

_PROTOCOLS: dict[str, Protocol] = {"TCP": "TCP", "UDP": "UDP", "SCTP": "SCTP"}
_FORMS = "a target is ADDRESS:PORT[/PROTOCOL] or NAMESPACE/NAME[:PORT], and may end in ,from=IP"


class AddressTarget(msgspec.Struct, frozen=True):
    """A canonical address, a port of 1 to 65535, and the client's address, "" when not given."""

    address: str
    port: int
    protocol: Protocol = "TCP"
    client: str = ""

    def __str__(self) -> str:
        return f"{join_host_port(self.address, self.port)}/{self.protocol}"


class NameTarget(msgspec.Struct, frozen=True):
    """A Service; `port` is the name or the number of one of its ports, "" for all of them."""

    namespace: str
    name: str
    port: str = ""
    client: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" + (f":{self.port}" if self.port else "")


Target = AddressTarget | NameTarget


def parse_target(text: str, default_client: str = "") -> Target:
    """Parse a target of the command line. Raises ConfigError that says what a target looks like."""
    words, *options = text.split(",")
    client = parse_client(default_client) if default_client else ""
    for option in options:
        key, _, value = option.partition("=")
        if key.strip() != "from":
            raise ConfigError(f"target {text!r}: {option!r} is not from=IP; {_FORMS}")
        client = parse_client(value)
    head, slash, tail = words.strip().partition("/")
    if slash and ":" not in head:
        return _parse_name(text, head, tail, client)
    protocol = _PROTOCOLS.get(tail.upper() or "TCP")
    if protocol is None:
        raise ConfigError(f"target {text!r}: {tail!r} is not TCP, UDP or SCTP; {_FORMS}")
    return _parse_address(text, head, protocol, client)


def parse_client(text: str) -> str:
    """Parse the address of a client. Raises ConfigError."""
    try:
        return parse_address(text.strip())
    except ValueError as fault:
        raise ConfigError(f"from={text}: {fault}") from fault


def _parse_name(text: str, namespace: str, rest: str, client: str) -> NameTarget:
    name, _, port = rest.partition(":")
    if not namespace or not name or "/" in rest:
        raise ConfigError(f"target {text!r} names no Service; {_FORMS}")
    return NameTarget(namespace, name, port, client)


def _parse_address(text: str, head: str, protocol: Protocol, client: str) -> AddressTarget:
    host, colon, port = head.rpartition(":")
    # Python refuses to read a number of more than 4,300 digits, and not as politely.
    is_number = port.isascii() and port.isdecimal() and len(port) <= 5
    if not colon or not is_number or not 1 <= int(port) <= 65535:
        raise ConfigError(f"target {text!r} has no port of 1 to 65535; {_FORMS}")
    is_bracketed = host.startswith("[") and host.endswith("]")
    if ":" in host and not is_bracketed:
        raise ConfigError(f"target {text!r}: write an IPv6 address in brackets, as [fd00::1]:80")
    try:
        address = parse_address(host[1:-1] if is_bracketed else host)
    except ValueError as fault:
        raise ConfigError(f"target {text!r}: {fault}; {_FORMS}") from fault
    return AddressTarget(address, int(port), protocol, client)
