"""One DNS message in, one out: the wire format around what `core.dns_zone` answers.

Whatever comes in, no exception goes out: a message is answered, refused with a code, or ignored
when even that could do harm (an answer to an answer would go round for ever).
"""

import functools
import logging

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from pyproxy.core.dns_zone import TTL_S, Record, Zone

log = logging.getLogger(__name__)

# Fits every path unfragmented (DNS flag day 2020); larger answers are asked for again by TCP.
UDP_BYTES = 1232
_UDP_BYTES_WITHOUT_EDNS = 512  # RFC 1035, section 4.2.1
TCP_BYTES = 65535
_HEADER_BYTES = 12

# Zone transfers; who wants to see everything has `pyproxy local -o json`.
_TRANSFERS = {dns.rdatatype.AXFR, dns.rdatatype.IXFR}


def respond(wire: bytes, zone: Zone, *, is_tcp: bool = False) -> bytes | None:
    """Return the response to a message, or None for what deserves none."""
    if len(wire) < _HEADER_BYTES or wire[2] & 0x80:  # QR: it is a response
        return None
    opcode = wire[2] >> 3 & 0x0F
    if opcode != dns.opcode.QUERY:
        return _bare(wire, dns.rcode.NOTIMP)
    try:
        query = dns.message.from_wire(wire, ignore_trailing=True)
        if len(query.question) != 1:
            return _bare(wire, dns.rcode.FORMERR)
        return _answer(query, zone, is_tcp=is_tcp)
    except dns.exception.DNSException:
        return _bare(wire, dns.rcode.FORMERR)
    except Exception:
        log.exception("DNS: a question cannot be answered: %s", wire.hex())
        return _bare(wire, dns.rcode.SERVFAIL)


def _bare(wire: bytes, rcode: int) -> bytes:
    """A response of a header only, to what may not be understood further than that."""
    opcode_and_rd = wire[2] & 0x79
    return wire[:2] + bytes([0x80 | opcode_and_rd, rcode]) + bytes(8)


def _answer(query: dns.message.Message, zone: Zone, *, is_tcp: bool) -> bytes:
    response = dns.message.make_response(query, our_payload=UDP_BYTES)
    question = query.question[0]
    if query.edns > 0:
        response.set_rcode(dns.rcode.BADVERS)  # RFC 6891, section 6.1.3
    elif question.rdclass != dns.rdataclass.IN or question.rdtype in _TRANSFERS:
        response.set_rcode(dns.rcode.REFUSED)
    else:
        _fill(response, question, zone)
    limit = TCP_BYTES if is_tcp else _udp_limit(query)
    return response.to_wire(max_size=limit, prefer_truncation=True)


def _udp_limit(query: dns.message.Message) -> int:
    if query.edns < 0:
        return _UDP_BYTES_WITHOUT_EDNS
    return min(max(query.payload, _UDP_BYTES_WITHOUT_EDNS), UDP_BYTES)


def _fill(response: dns.message.Message, question: dns.rrset.RRset, zone: Zone) -> None:
    asked = question.name.to_text(omit_final_dot=True)
    answer = zone.answer(asked.lower(), dns.rdatatype.to_text(question.rdtype))
    response.set_rcode(dns.rcode.from_text(answer.rcode))
    if answer.rcode != "REFUSED":
        response.flags |= dns.flags.AA
    response.answer = _rrsets(answer.answers, question.name)
    response.authority = _rrsets(answer.authority, question.name)
    response.additional = _rrsets(answer.additional, question.name)


def _rrsets(records: tuple[Record, ...], asked: dns.name.Name) -> list[dns.rrset.RRset]:
    """The records of one name and type belong together (RFC 2181, section 5)."""
    found: dict[tuple[str, str], list[dns.rdata.Rdata]] = {}
    for record in records:
        found.setdefault((record.name, record.type), []).append(_rdata(record.type, record.data))
    return [
        dns.rrset.from_rdata_list(_owner(name, asked), TTL_S, rdatas)
        for (name, _), rdatas in found.items()
    ]


def _owner(text: str, asked: dns.name.Name) -> dns.name.Name:
    """As it was asked for, letter by letter: some resolvers check (draft-vixie-dnsext-dns0x20)."""
    name = dns.name.from_text(text)
    return asked if name == asked else name


@functools.lru_cache(maxsize=4096)
def _rdata(kind: str, data: str) -> dns.rdata.Rdata:
    return dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.from_text(kind), data)
