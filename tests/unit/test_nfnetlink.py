"""Changes of elements as netlink messages: every byte of some, and the kernel's answers."""

import struct
import sys

import pytest

from pyproxy.core.nfnetlink import answers, batch, whole
from pyproxy.core.transaction import Element, Elements, Transaction, script

STEERED = Elements("add", "steer4", (Element(("10.96.0.1", "tcp", 80)),))
REFUSED = Elements("delete", "steer6", (Element(("fd00:96::1", "udp", 53)),))
GUARDED = Elements("add", "verdicts4", (Element(("10.96.0.2", "tcp", 443), "guard-1"),))
RETIRED = Elements("add", "retired4", (Element(("10.96.0.1", 80), timeout_s=10800),))
CLUSTER_IPS = Elements("delete", "cluster-ips4", (Element(("10.0.0.1",)), Element(("10.0.0.2",))))

# Attributes as they are in memory: length and type, little-endian here, then the value, padded.
# 0x8000 in the type: nested.
BODIES = {
    "a VIP:port of TCP": (
        STEERED,
        "0c000100 707970726f787900"  # the table, "pyproxy"
        "0b000200 737465657234 0000"  # the set, "steer4"
        "1c000380 18000180 14000180 10000100"  # elements, element, key, value
        "0a600001 06000000 00500000",  # address . protocol . port
    ),
    "a VIP:port of IPv6 and UDP": (
        REFUSED,
        "0c000100 707970726f787900"
        "0b000200 737465657236 0000"
        "28000380 24000180 20000180 1c000100"
        "fd000096000000000000000000000001 11000000 00350000",
    ),
    "a verdict": (
        GUARDED,
        "0c000100 707970726f787900"
        "0e000200 76657264696374733400 0000"
        "38000380 34000180 14000180 10000100"
        "0a600002 06000000 01bb0000"
        "1c000280 18000280"  # data, verdict
        "08000100 fffffffc"  # NFT_GOTO
        "0c000200 67756172642d3100",  # "guard-1"
    ),
    "a timeout": (
        RETIRED,
        "0c000100 707970726f787900"
        "0d000200 726574697265643400 000000"
        "24000380 20000180 10000180 0c000100"
        "0a600001 00500000"
        "0c000400 0000000000a4cb80",  # milliseconds
    ),
    "two elements": (
        CLUSTER_IPS,
        "0c000100 707970726f787900"
        "11000200 636c75737465722d697073340000 0000"
        "24000380"
        "10000180 0c000180 08000100 0a000001"
        "10000180 0c000180 08000100 0a000002",
    ),
}


def messages(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Type, flags, number and the rest of each message."""
    found = []
    while data:
        length, kind, flags, number, port = struct.unpack_from("=IHHII", data)
        assert port == 0
        assert length % 4 == 0
        found.append((kind, flags, number, data[16:length]))
        data = data[length:]
    return found


@pytest.mark.skipif(sys.byteorder != "little", reason="the bytes here are those of such a machine")
@pytest.mark.parametrize(("change", "body"), BODIES.values(), ids=BODIES.keys())
def test_a_change_of_elements(change: Elements, body: str) -> None:
    (_, (kind, flags, _, data), _) = messages(batch([change]))
    assert data.hex() == "01000000" + body.replace(" ", "")  # of the family inet
    # NFNL_SUBSYS_NFTABLES with NFT_MSG_NEWSETELEM or NFT_MSG_DELSETELEM.
    assert kind == (0xA0C if change.verb == "add" else 0xA0E)
    assert flags == (0x405 if change.verb == "add" else 0x5)  # REQUEST, ACK; CREATE


def test_a_batch_is_one_transaction_whose_last_change_is_answered() -> None:
    changes = [STEERED, REFUSED, GUARDED]
    found = messages(batch(changes))
    first, last = found[0], found[-1]
    assert [number for _, _, number, _ in found] == [3, 0, 1, 2, 3]
    assert whole(changes) == 3
    assert [bool(flags & 0x4) for _, flags, _, _ in found] == [False, False, False, True, False]
    # NFNL_MSG_BATCH_BEGIN and _END, of NFPROTO_UNSPEC and of the subsystem in network order.
    assert first == (0x10, 0x1, 3, bytes([0, 0, 0, 10]))
    assert last == (0x11, 0x1, 3, bytes([0, 0, 0, 10]))


def answer(number: int, error: int, kind: int = 2) -> bytes:
    message = struct.pack("=i", -error) + bytes(16)
    return struct.pack("=IHHII", 16 + len(message), kind, 0, number, 4711) + message


def test_answers_are_read() -> None:
    assert list(answers(answer(0, 0))) == [(0, 0)]
    assert list(answers(answer(1, 2) + answer(7, 3, kind=3) + answer(2, 17))) == [(1, 2), (2, 17)]
    assert list(answers(b"")) == []


def test_a_message_without_a_length_is_passed_over() -> None:
    assert list(answers(bytes(40))) == []


def test_a_transaction_has_a_script() -> None:
    made = Transaction(("add chain inet pyproxy guard-1",), 1)
    made += Transaction(((STEERED, GUARDED), (RETIRED,)), 3)
    assert made.operations == 4
    assert script(made.steps).splitlines() == [
        "add chain inet pyproxy guard-1",
        "add element inet pyproxy steer4 { 10.96.0.1 . tcp . 80 }",
        "add element inet pyproxy verdicts4 { 10.96.0.2 . tcp . 443 : goto guard-1 }",
        "add element inet pyproxy retired4 { 10.96.0.1 . 80 timeout 10800s }",
    ]
