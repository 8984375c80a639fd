"""What a person asks of local addresses and ports: on the command line, or in a file of lines.

NAMESPACE/NAME=127.3.3.1            this address for a Service
NAMESPACE/NAME/POD=127.3.3.2        for a pod of a headless Service
NAMESPACE/NAME[/POD][:PORT]=8080    this local port for one of its ports, the first by default
NAME:8080                           the same for Services of that name in any namespace,
80:8080                             or for that port of any Service
"""

import re

import msgspec

from pyproxy.core.local_service import Claimant
from pyproxy.errors import ConfigError
from pyproxy.model.addresses import is_loopback, parse_address
from pyproxy.model.service import ServicePort

_RESERVE_FORM = "write NAMESPACE/NAME=127.x.y.z, or NAMESPACE/NAME/POD=127.x.y.z"
_PORT_FORM = "write NAMESPACE/NAME[/POD][:PORT]=LOCAL, NAME:LOCAL or PORT:LOCAL"

_RESERVED = re.compile(r"([^/:=\s]+)/([^/:=\s]+)(?:/([^/:=\s]+))?=(\S+)")
_MAPPED = re.compile(
    r"([^/:=\s]+)/([^/:=\s]+)(?:/([^/:=\s]+))?(?::([^/:=\s]+))?=(\d{1,5})", re.ASCII
)
_MAPPED_BY_NAME = re.compile(r"([^/:=\s]+):(\d{1,5})", re.ASCII)


class Reservation(msgspec.Struct, frozen=True):
    """A canonical loopback address for a Service, or for one of its pods when `pod` is not ""."""

    namespace: str
    name: str
    pod: str
    address: str

    def is_for(self, claimant: Claimant) -> bool:
        """Whether a claimant, of any context, has it."""
        return (self.namespace, self.name, self.pod) == claimant[1:]

    def __str__(self) -> str:
        return f"{Claimant('', self.namespace, self.name, self.pod)}={self.address}"


class PortMapping(msgspec.Struct, frozen=True):
    """A local port for a port of Services. "" matches anything, except in `port`.

    port: the name or number of the Service's port; "" is its first. local: 1 to 65535.
    """

    namespace: str
    name: str
    pod: str
    port: str
    local: int

    @property
    def precision(self) -> int:
        """The one that says most counts."""
        return sum(map(bool, (self.namespace, self.name, self.pod, self.port)))

    def is_for(self, claimant: Claimant, port: ServicePort, *, is_first: bool) -> bool:
        """Whether it means this port of a claimant."""
        wanted = (self.namespace, self.name, self.pod)
        if any(w and w != has for w, has in zip(wanted, claimant[1:], strict=True)):
            return False
        return self.port in {port.name, str(port.port)} if self.port else is_first

    def __str__(self) -> str:
        if not self.name:
            return f"{self.port}:{self.local}"
        if not self.namespace:
            return f"{self.name}:{self.local}"
        port = f":{self.port}" if self.port else ""
        return f"{Claimant('', self.namespace, self.name, self.pod)}{port}={self.local}"


def parse_reservation(text: str) -> Reservation:
    """Parse what `--reserve` takes. Raises ConfigError."""
    match = _RESERVED.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"reservation {text!r}: {_RESERVE_FORM}")
    namespace, name, pod, written = match.groups(default="")
    try:
        address = parse_address(written)
    except ValueError as fault:
        raise ConfigError(f"reservation {text!r}: {fault}; {_RESERVE_FORM}") from fault
    if address == "::1" or not is_loopback(address):
        raise ConfigError(f"reservation {text!r}: {address} is not in 127.0.0.0/8")
    return Reservation(namespace, name, pod, address)


def parse_port_mapping(text: str) -> PortMapping:
    """Parse what `--port` takes. Raises ConfigError."""
    stripped = text.strip()
    if match := _MAPPED.fullmatch(stripped):
        namespace, name, pod, port, local = match.groups(default="")
    elif match := _MAPPED_BY_NAME.fullmatch(stripped):
        namespace, pod = "", ""
        name, port = ("", match[1]) if match[1].isdecimal() else (match[1], "")
        local = match[2]
    else:
        raise ConfigError(f"port {text!r}: {_PORT_FORM}")
    if not 1 <= int(local) <= 65535:
        raise ConfigError(f"port {text!r}: {local} is not within 1 to 65535; {_PORT_FORM}")
    return PortMapping(namespace, name, pod, port, int(local))


def parse_lines(text: str) -> tuple[tuple[Reservation, ...], tuple[PortMapping, ...]]:
    """Parse a file: one reservation or port mapping a line, `#` begins a comment.

    Raises ConfigError with every fault, each with its line's number.
    """
    reservations, mappings, faults = [], [], []
    for number, line in enumerate(text.splitlines(), 1):
        written = line.partition("#")[0].strip()
        if not written:
            continue
        try:
            if "." in written.rpartition("=")[2]:
                reservations.append(parse_reservation(written))
            else:
                mappings.append(parse_port_mapping(written))
        except ConfigError as fault:
            faults.append(f"line {number}: {fault}")
    if faults:
        raise ConfigError(*faults)
    return tuple(reservations), tuple(mappings)
