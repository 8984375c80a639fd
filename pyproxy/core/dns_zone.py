"""What DNS says of the Services that are placed here: a question in, an answer out.

The records are those of the cluster's DNS (kubernetes/dns docs/specification.md), with local
addresses and ports in them, and SOA and NS, which resolvers ask a zone for. Beside the full names
it knows the short ones (`local_names`), for programs on a machine that has no search path.

What is not ours is refused, so that nobody takes our answer for the Internet's. Names are lower
case here, without the dot at the end; case means nothing in DNS (RFC 4343).
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

import msgspec

from pyproxy.core.local_names import Names, full_name, is_host_name
from pyproxy.core.local_service import Claimant, LocalService
from pyproxy.core.loopback import Placement, Placements

RecordType = Literal["A", "CNAME", "NS", "PTR", "SOA", "SRV"]
Rcode = Literal["NOERROR", "NXDOMAIN", "REFUSED"]

# Seconds; as short as CoreDNS's (plugin/kubernetes, `ttl`). Services come and go.
TTL_S = 5

_REVERSE = ".in-addr.arpa"


class Record(NamedTuple):
    """A resource record; its data as in a zone file (RFC 1035, section 5.1)."""

    name: str
    type: RecordType
    data: str


class Answer(NamedTuple):
    """The sections of a response. No answers and NOERROR: the name is there, the type is not."""

    rcode: Rcode
    answers: tuple[Record, ...] = ()
    authority: tuple[Record, ...] = ()
    additional: tuple[Record, ...] = ()


class Zone(msgspec.Struct, frozen=True, kw_only=True):
    """All that can be asked, at one moment.

    owners: whose each name is. placements: where a Service is; a headless one at each of its pods.
    aliases: the names that ExternalName Services stand for. by_address: who is at an address.
    parents: names that have no records, but names below them.
    """

    domain: str = "cluster.local"
    owners: Mapping[str, Claimant] = {}
    placements: Mapping[Claimant, tuple[Placement, ...]] = {}
    aliases: Mapping[Claimant, str] = {}
    by_address: Mapping[str, Claimant] = {}
    parents: frozenset[str] = frozenset()

    def answer(self, name: str, kind: str) -> Answer:
        """Answer a question for a name, as Zone has names, and a type (`A`, `AAAA`, `ANY`)."""
        records = self._records(name)
        if records is None and not self._is_ours(name):
            return Answer("REFUSED")
        if records is None and name not in self.parents:
            return Answer("NXDOMAIN", authority=self._authority(name))
        found = [r for r in records or () if r.type in {kind, "CNAME"} or kind == "ANY"]
        if found and found[0].type == "CNAME" and kind != "CNAME":
            found += self._behind(found[0], kind)
        if not found:
            return Answer("NOERROR", authority=self._authority(name))
        return Answer("NOERROR", tuple(found), additional=tuple(self._additional(found)))

    def _records(self, name: str) -> list[Record] | None:
        """All records of a name, or None where there is no such name."""
        if name == self.domain:
            return [self._soa(), Record(name, "NS", f"ns.dns.{self.domain}.")]
        if name.endswith(_REVERSE):
            return self._pointer(name)
        owner = self.owners.get(name)
        if owner is None:
            return self._services(name)
        if owner in self.aliases:
            return [Record(name, "CNAME", f"{self.aliases[owner]}.")]
        return [Record(name, "A", placement.address) for placement in self.placements[owner]]

    def _pointer(self, name: str) -> list[Record] | None:
        address = ".".join(reversed(name.removesuffix(_REVERSE).split(".")))
        claimant = self.by_address.get(address)
        if claimant is None:
            return None
        return [Record(name, "PTR", f"{full_name(claimant, self.domain)}.")]

    def _services(self, name: str) -> list[Record] | None:
        """The records of `_port._protocol.NAME` (RFC 2782); of `_protocol.NAME`, which is empty."""
        protocol, _, host = name.partition(".")
        if protocol in {"_tcp", "_udp"} and host in self.owners:
            return []
        port = protocol
        protocol, _, host = host.partition(".")
        if host not in self.owners:
            return None
        # The name of a port that the Service does not have is not there.
        return list(self._ports(name, port, protocol, self.owners[host])) or None

    def _ports(self, name: str, port: str, protocol: str, owner: Claimant) -> Iterator[Record]:
        for placement in self.placements.get(owner, ()):
            target = full_name(placement.claimant, self.domain)
            for p in placement.ports:
                if p.name and (f"_{p.name}", f"_{p.protocol.lower()}") == (port, protocol):
                    yield Record(name, "SRV", f"0 100 {p.local} {target}.")

    def _behind(self, alias: Record, kind: str) -> list[Record]:
        """The records of what an alias stands for, as far as that is ours."""
        found: list[Record] = []
        aliases = {alias}
        while True:
            records = self._records(alias.data.rstrip(".")) or []
            if not records or records[0].type != "CNAME":
                return found + [record for record in records if record.type == kind]
            alias = records[0]
            if alias in aliases:  # ExternalName Services that name each other
                return found
            aliases.add(alias)
            found.append(alias)

    def _additional(self, found: list[Record]) -> Iterator[Record]:
        """The addresses of what SRV records name."""
        for record in found:
            if record.type == "SRV":
                target = record.data.split()[3].rstrip(".")
                yield from (r for r in self._records(target) or () if r.type == "A")

    def _is_ours(self, name: str) -> bool:
        """Whether nobody else can have the name. There is no top-level domain `svc`."""
        return f".{name}".endswith((f".{self.domain}", ".svc"))

    def _authority(self, name: str) -> tuple[Record, ...]:
        """What lets a resolver remember that there is nothing (RFC 2308, section 5)."""
        return (self._soa(),) if f".{name}".endswith(f".{self.domain}") else ()

    def _soa(self) -> Record:
        timers = f"1 7200 1800 86400 {TTL_S}"  # as CoreDNS has them; there are no secondaries
        return Record(
            self.domain, "SOA", f"ns.dns.{self.domain}. hostmaster.{self.domain}. {timers}"
        )


def zone_of(
    services: Iterable[LocalService], placements: Placements, names: Names, domain: str
) -> Zone:
    """Return the zone of these Services. A headless one without a ready pod has no name there."""
    placed: dict[Claimant, list[Placement]] = {}
    at: dict[str, list[Claimant]] = {}
    for claimant, placement in sorted(placements.items()):
        for owner in {claimant, claimant.service}:
            placed.setdefault(owner, []).append(placement)
        at.setdefault(placement.address, []).append(claimant)
    aliases = {
        local.claimant: target
        for local in services
        if local.kind == "ExternalName" and is_host_name(target := _alias(local))
    }
    owners = {n: owner for n, owner in names.owners.items() if owner in placed or owner in aliases}
    return Zone(
        domain=domain,
        owners=owners,
        placements={owner: tuple(found) for owner, found in placed.items()},
        aliases=aliases,
        # An address that many share says nothing.
        by_address={address: found[0] for address, found in at.items() if len(found) == 1},
        parents=frozenset(_parents(owners, domain)) - owners.keys(),
    )


def _alias(local: LocalService) -> str:
    return local.service.external_name.lower().rstrip(".")


def _parents(names: Iterable[str], domain: str) -> Iterator[str]:
    """The names above these, and below the domain (RFC 8020: they are not NXDOMAIN)."""
    yield from (f"svc.{domain}", f"dns.{domain}", f"ns.dns.{domain}")
    for name in names:
        if name.endswith((f".{domain}", ".svc")):
            words = name.split(".")
            yield from (".".join(words[n:]) for n in range(1, len(words)))
