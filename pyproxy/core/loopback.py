"""Which loopback address each Service has on this machine, and which local port each of its ports.

Both follow from the names alone (context, namespace, Service, pod): a hash says where to begin, and
what is taken there is tried next by everybody in the same order. So the same Services get the same
places in every run, in whatever order they come. Two promises meet there:

- The same every time: all that is placed by one call is settled by rounds (`allotment`), which know
  no order of arrival. With 500 Services fewer than one start in 100 has two that want one address.
- Nothing moves while pyproxy runs: what is placed stays, and what comes later goes around it. A
  late one that collides may so stand elsewhere than in the next run, where it is there from the
  start. That one is the price; a connection to the wrong Service would be a higher one.

Reservations and port mappings go first. Knows no sockets: whoever binds says what was refused.
Owns what is placed, for one run.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from pyproxy.core.allotment import allot
from pyproxy.core.local_options import PortMapping, Reservation
from pyproxy.core.local_service import Claimant, Wanted
from pyproxy.model.service import Protocol, ServicePort

SHARED_ADDRESS = "127.0.0.1"

# 127.x.y.z with x of 1 to 254 and z of 1 to 254. 127.0/16 is what other programs use (127.0.0.1,
# systemd-resolved's 127.0.0.53, Debian's 127.0.1.1), 127.255/16 has the broadcast address, and .0
# and .255 look like a network and a broadcast to many a check of addresses.
_X, _Y, _Z = 254, 256, 254
_ADDRESSES = _X * _Y * _Z

# Below the ports that Linux gives to clients (32768 to 60999) and below node ports (30000).
_HIGH_PORT = 20_000
_HIGH_PORTS = 10_000
# A port that takes privileges is moved up by this first: 80 is found at 8080, 443 at 8443.
_SHIFT = 8_000


class Socket(NamedTuple):
    """What is bound."""

    address: str
    port: int
    protocol: Protocol


class LocalPort(msgspec.Struct, frozen=True):
    """A port of a Service, and the port that stands for it on this machine."""

    name: str
    protocol: Protocol
    port: int
    local: int


class Placement(msgspec.Struct, frozen=True):
    """Where a claimant is found: its address and its ports there, in the order of the Service."""

    claimant: Claimant
    address: str
    ports: tuple[LocalPort, ...]


Placements = Mapping[Claimant, Placement]


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What holds on this machine, and what its user asked for.

    single_address: only 127.0.0.1 is there (macOS without aliases); Services differ by port.
    first_port: the first one that may be bound: net.ipv4.ip_unprivileged_port_start, or 1 with the
    privilege to bind any (CAP_NET_BIND_SERVICE).
    """

    single_address: bool = False
    first_port: int = 1024
    reservations: tuple[Reservation, ...] = ()
    mappings: tuple[PortMapping, ...] = ()


class Placed(NamedTuple):
    """All that is placed now, and what a person should know that is new since the last time."""

    placements: Placements
    notes: tuple[str, ...] = ()


class _PortKey(NamedTuple):
    claimant: Claimant
    port: int
    protocol: Protocol


class Loopback:
    """Gives out addresses and ports. Used by one thread."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._reserved = {reservation.address for reservation in rules.reservations}
        self._wanted: dict[Claimant, Wanted] = {}
        self._addresses: dict[Claimant, str] = {}
        self._sockets: dict[_PortKey, Socket] = {}
        self._refused: set[str | Socket] = set()
        self._told: set[str] = set()

    def place(self, wanted: Iterable[Wanted]) -> Placed:
        """Place all that there should be now. What is placed already stays, the rest goes."""
        self._wanted = {want.claimant: want for want in wanted}
        self._addresses = {c: a for c, a in self._addresses.items() if c in self._wanted}
        ports = self._ports()
        self._sockets = {k: s for k, s in self._sockets.items() if k in ports}
        return self._settle()

    def next(self, refused: Socket | str, reason: str) -> Placed:
        """Place anew what was on a socket, or on an address, that could not be bound.

        Nothing goes there again in this run. reason: why it was refused, for the note.
        """
        self._refused.add(refused)
        moved = {c for c, address in self._addresses.items() if address == refused}
        lost = {k for k, s in self._sockets.items() if s == refused or k.claimant in moved}
        for claimant in moved:
            del self._addresses[claimant]
        for key in lost:
            del self._sockets[key]
        placed = self._settle()
        return Placed(
            placed.placements, (*self._moves(moved, lost, refused, reason), *placed.notes)
        )

    def unused(self) -> tuple[str, ...]:
        """The reservations and mappings that mean nothing that is placed: misspelt, perhaps."""
        claimants = self._wanted.keys()
        reserved = [r for r in self._rules.reservations if not any(map(r.is_for, claimants))]
        used = {self._mapping(key, port) for key, port in self._ports().items()}
        mapped = [mapping for mapping in self._rules.mappings if mapping not in used]
        return tuple(map(str, [*reserved, *mapped]))

    def _settle(self) -> Placed:
        """Give what has no place one: what was asked for first, then by the hash."""
        notes = [*self._settle_addresses(), *self._settle_ports()]
        news = tuple(note for note in notes if note not in self._told)
        self._told.update(news)
        return Placed({claimant: self._placement(claimant) for claimant in self._wanted}, news)

    def _settle_addresses(self) -> list[str]:
        new = [claimant for claimant in self._wanted if claimant not in self._addresses]
        wishes = {
            claimant: reservation.address
            for claimant in new
            for reservation in self._rules.reservations
            if reservation.is_for(claimant) and reservation.address not in self._refused
        }
        taken = {*self._refused, *self._addresses.values()}
        self._addresses |= allot({c: iter([wish]) for c, wish in wishes.items()}, taken)
        left = [claimant for claimant in new if claimant not in self._addresses]
        if self._rules.single_address:
            self._addresses |= dict.fromkeys(left, SHARED_ADDRESS)
        else:
            taken = {*self._refused, *self._addresses.values(), *self._reserved}
            self._addresses |= allot({c: _addresses(c) for c in left}, taken)
        return [
            f"{c}: the reserved address {wish} cannot be had, it is at {self._addresses[c]}"
            for c, wish in wishes.items()
            if self._addresses[c] != wish
        ]

    def _settle_ports(self) -> list[str]:
        new = {k: port for k, port in self._ports().items() if k not in self._sockets}
        wishes = {
            key: wish
            for key, port in new.items()
            if (mapping := self._mapping(key, port))
            and (wish := Socket(self._addresses[key.claimant], mapping.local, key.protocol))
            not in self._refused  # what was refused is told already
        }
        taken = {*self._refused, *self._sockets.values()}
        self._sockets |= allot({k: iter([wish]) for k, wish in wishes.items()}, taken)
        taken = {*self._refused, *self._sockets.values()}
        left = {k: self._port_choices(k) for k in new if k not in self._sockets}
        self._sockets |= allot(left, taken)
        lost = {k: wish for k, wish in wishes.items() if self._sockets.get(k) != wish}
        without = [k for k in new if k not in self._sockets]
        return [
            *(f"{k.claimant}: port {w.port} of {w.address} cannot be had" for k, w in lost.items()),
            *(f"{k.claimant}: no local port is left for its port {k.port}" for k in without),
        ]

    def _port_choices(self, key: _PortKey) -> Iterator[Socket | None]:
        """The Service's own port or one that looks like it, then high ports by the hash.

        On a shared address only the latter: else a port would depend on who else is there.
        """
        address, first = self._addresses[key.claimant], self._rules.first_port
        if not (self._rules.single_address and address == SHARED_ADDRESS):
            for port in (key.port, key.port + _SHIFT):
                is_usable = first <= port <= 65535
                yield Socket(address, port, key.protocol) if is_usable else None
        low = max(first, _HIGH_PORT)
        count = min(_HIGH_PORTS, 65536 - low)
        # Without the protocol: DNS has the same port in TCP and UDP.
        start = _hash(*key.claimant, str(key.port))
        for step in range(count):
            yield Socket(address, low + (start + step) % count, key.protocol)

    def _ports(self) -> dict[_PortKey, ServicePort]:
        return {
            _PortKey(want.claimant, port.port, port.protocol): port
            for want in self._wanted.values()
            for port in want.ports
        }

    def _mapping(self, key: _PortKey, port: ServicePort) -> PortMapping | None:
        """The mapping that says most about a port, the first of several; None without any."""
        first = self._wanted[key.claimant].ports[0]
        found = [
            mapping
            for mapping in self._rules.mappings
            if mapping.is_for(key.claimant, port, is_first=port == first)
        ]
        return max(found, key=lambda mapping: mapping.precision, default=None)

    def _placement(self, claimant: Claimant) -> Placement:
        ports = [
            LocalPort(port.name, port.protocol, port.port, socket.port)
            for port in self._wanted[claimant].ports
            if (socket := self._sockets.get(_PortKey(claimant, port.port, port.protocol)))
        ]
        return Placement(claimant, self._addresses[claimant], tuple(ports))

    def _moves(
        self, moved: set[Claimant], lost: set[_PortKey], refused: Socket | str, reason: str
    ) -> Iterator[str]:
        for claimant in sorted(moved):
            yield f"{claimant}: {refused}: {reason}; it is at {self._addresses[claimant]} now"
        for key in sorted(lost):
            if key.claimant not in moved and (socket := self._sockets.get(key)):
                where = f"{socket.address}:{socket.port}"
                yield f"{key.claimant}: port {key.port}: {reason}; it is at {where} now"


def _addresses(claimant: Claimant) -> Iterator[str]:
    """Every address, from the claimant's own one on."""
    start = _hash(*claimant)
    return map(_address, range(start, start + _ADDRESSES))


def _address(number: int) -> str:
    rest, z = divmod(number % _ADDRESSES, _Z)
    x, y = divmod(rest, _Y)
    return f"127.{x + 1}.{y}.{z + 1}"


def _hash(*words: str) -> int:
    """The same in every process and on every machine, as `hash` is not. No word has a NUL."""
    return int.from_bytes(hashlib.blake2b("\0".join(words).encode(), digest_size=8).digest())
