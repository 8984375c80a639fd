"""Changes of set elements in the kernel's own form: nf_tables messages of netlink, as bytes.

linux/netfilter/nf_tables.h has the messages and attributes, linux/netfilter/nfnetlink.h the batch
that makes them one transaction, linux/netlink.h the headers and the answers. Nothing is sent here.

Headers are in the byte order of this machine. Numbers in attributes of nf_tables are in that of
the network, and a nested attribute is flagged as one. Everything is padded to four bytes, also each
field of a concatenated key, because it takes whole registers of the kernel's.
"""

import ipaddress
import struct
import sys
from collections.abc import Iterator, Sequence

from pyproxy.core.transaction import NAME, Element, Elements

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_FAMILY = struct.Struct("=BBH")  # nfgenmsg: family, version, resource
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type

_NLMSG_ERROR = 2
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_CREATE = 0x1, 0x4, 0x400
_NLA_F_NESTED = 0x8000

_NFNL_SUBSYS_NFTABLES = 10
_NFNL_MSG_BATCH_BEGIN, _NFNL_MSG_BATCH_END = 0x10, 0x11
_NFPROTO_UNSPEC, _NFPROTO_INET = 0, 1

_NFT_MSG_NEWSETELEM, _NFT_MSG_DELSETELEM = 12, 14
_NFTA_SET_ELEM_LIST_TABLE, _NFTA_SET_ELEM_LIST_SET, _NFTA_SET_ELEM_LIST_ELEMENTS = 1, 2, 3
_NFTA_LIST_ELEM = 1
_NFTA_SET_ELEM_KEY, _NFTA_SET_ELEM_DATA, _NFTA_SET_ELEM_TIMEOUT = 1, 2, 4
_NFTA_DATA_VALUE, _NFTA_DATA_VERDICT = 1, 2
_NFTA_VERDICT_CODE, _NFTA_VERDICT_CHAIN = 1, 2
_NFT_GOTO = -4

_PROTOCOLS = {"tcp": 6, "udp": 17}
_MILLISECONDS = 1000


def batch(changes: Sequence[Elements]) -> bytes:
    """Return one transaction of these changes, in their order; at least one.

    The messages are numbered by `changes`. The kernel answers for those that fail, and for the last
    one in any case; for a fault of the whole it names the number of `whole`.
    """
    messages = [_batch_message(_NFNL_MSG_BATCH_BEGIN, whole(changes))]
    last = len(changes) - 1
    for number, change in enumerate(changes):
        messages.append(_change(change, number, asks_answer=number == last))
    messages.append(_batch_message(_NFNL_MSG_BATCH_END, whole(changes)))
    return b"".join(messages)


def whole(changes: Sequence[Elements]) -> int:
    """Return the number that stands for the whole of a batch."""
    return len(changes)


def answers(data: bytes) -> Iterator[tuple[int, int]]:
    """Read what the kernel answered: the number of each message, and its errno; 0 when it is done.

    data: one or more whole messages; those that are no answers are passed over.
    """
    while len(data) >= _HEADER.size:
        length, kind, _, number, _ = _HEADER.unpack_from(data)
        if kind == _NLMSG_ERROR:
            yield number, -struct.unpack_from("=i", data, _HEADER.size)[0]
        data = data[max(_padded(length), _HEADER.size) :]


def _change(change: Elements, number: int, *, asks_answer: bool) -> bytes:
    kind, flags = _NFT_MSG_DELSETELEM, _NLM_F_REQUEST
    if change.verb == "add":
        kind, flags = _NFT_MSG_NEWSETELEM, flags | _NLM_F_CREATE
    if asks_answer:
        flags |= _NLM_F_ACK
    return _message(
        _NFNL_SUBSYS_NFTABLES << 8 | kind,
        flags,
        number,
        _FAMILY.pack(_NFPROTO_INET, 0, 0),
        _text(_NFTA_SET_ELEM_LIST_TABLE, NAME),
        _text(_NFTA_SET_ELEM_LIST_SET, change.set_name),
        _nested(_NFTA_SET_ELEM_LIST_ELEMENTS, *map(_element, change.elements)),
    )


def _element(element: Element) -> bytes:
    key = b"".join(map(_field, element.key))
    parts = [_nested(_NFTA_SET_ELEM_KEY, _attribute(_NFTA_DATA_VALUE, key))]
    if element.goto:
        code = _attribute(_NFTA_VERDICT_CODE, struct.pack(">i", _NFT_GOTO))
        verdict = _nested(_NFTA_DATA_VERDICT, code, _text(_NFTA_VERDICT_CHAIN, element.goto))
        parts.append(_nested(_NFTA_SET_ELEM_DATA, verdict))
    if element.timeout_s:
        timeout = struct.pack(">Q", element.timeout_s * _MILLISECONDS)
        parts.append(_attribute(_NFTA_SET_ELEM_TIMEOUT, timeout))
    return _nested(_NFTA_LIST_ELEM, *parts)


def _field(field: str | int) -> bytes:
    """One field of a key, in registers: an address, a protocol or a port."""
    if isinstance(field, int):
        data = struct.pack(">H", field)
    elif field in _PROTOCOLS:
        data = bytes([_PROTOCOLS[field]])
    else:
        data = ipaddress.ip_address(field).packed
    return _pad(data)


def _batch_message(kind: int, number: int) -> bytes:
    """The resource of a batch is the subsystem, in the byte order of the network."""
    subsystem = int.from_bytes(_NFNL_SUBSYS_NFTABLES.to_bytes(2, "big"), sys.byteorder)
    return _message(kind, _NLM_F_REQUEST, number, _FAMILY.pack(_NFPROTO_UNSPEC, 0, subsystem))


def _message(kind: int, flags: int, number: int, *parts: bytes) -> bytes:
    payload = b"".join(parts)
    return _HEADER.pack(_HEADER.size + len(payload), kind, flags, number, 0) + payload


def _nested(kind: int, *parts: bytes) -> bytes:
    return _attribute(kind | _NLA_F_NESTED, b"".join(parts))


def _text(kind: int, text: str) -> bytes:
    return _attribute(kind, text.encode() + b"\0")


def _attribute(kind: int, data: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(data), kind) + _pad(data)


def _pad(data: bytes) -> bytes:
    return data.ljust(_padded(len(data)), b"\0")


def _padded(length: int) -> int:
    return length + -length % 4
