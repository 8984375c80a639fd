"""The soak's own eyes: it sees what differs, and excuses only what a killed worker explains."""

import asyncio
import random
import socket
from collections import Counter

import pytest

from tests.soak.pattern import PATTERN_BYTES, difference, matches, piece
from tests.soak.processes import Holdings
from tests.soak.stream import BrokenStreamError, EndedEarlyError, Reader, send
from tests.soak.tally import Failure
from tests.soak.trouble import Kill
from tests.soak.verdict import Evidence, is_excused

MIB = 1 << 20
KILL = Kill(told_s=100.0, ended_s=100.2)
HELD = Holdings(Counter(socket=10, pipe=2), 30 * MIB, 1)


@pytest.mark.parametrize(
    ("began_s", "failed_s", "expected"),
    [
        pytest.param(90.0, 100.1, True, id="was open, and broke"),
        pytest.param(100.1, 100.3, True, id="came while it died"),
        pytest.param(90.0, 104.0, True, id="was noticed later"),
        pytest.param(90.0, 99.9, False, id="broke before"),
        pytest.param(90.0, 110.0, False, id="broke long after"),
        pytest.param(101.0, 101.1, False, id="came after its end"),
    ],
)
def test_a_killed_worker_excuses_the_connections_it_had(
    began_s: float, failed_s: float, expected: bool
) -> None:
    assert is_excused(Failure("short", "reset", began_s, failed_s), [KILL]) is expected


def good() -> Evidence:
    """A run in which all is well."""
    evidence = Evidence(exit_status=0, before={"worker": HELD}, warm={"worker": 30 * MIB})
    evidence.after = {"worker": [HELD]}
    evidence.tally.succeeded("short", 1, 1)
    return evidence


def test_a_good_run_violates_nothing() -> None:
    assert good().violations() == []


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        (Holdings(Counter(socket=11), 30 * MIB, 1), "11 descriptors of kind socket, not 10"),
        (Holdings(Counter(socket=10, pipe=64), 30 * MIB, 1), None),
        (Holdings(Counter(pipe=66), 30 * MIB, 1), "66 descriptors of kind pipe, not 2"),
        (Holdings(Counter(), 79 * MIB, 1), "holds 79 MiB, 30 when warm"),
        (Holdings(Counter(), 30 * MIB, 2), "2 threads, not 1"),
    ],
)
def test_what_a_process_keeps_is_told(held: Holdings, expected: str | None) -> None:
    evidence = good()
    evidence.after = {"worker": [held]}
    found = evidence.violations()
    assert len(found) == (expected is not None)
    assert expected is None or expected in found[0]


def test_every_failure_without_a_kill_is_told() -> None:
    evidence = good()
    evidence.tally.failures.append(Failure("kept", "timed out", 1.0, 2.0))
    evidence.left["connections"] = 3
    evidence.exit_status = 1
    evidence.left_processes = [4711]
    assert evidence.violations() == [
        "1 failed requests, kept: timed out",
        "3 connections left",
        "the agent's exit status is 1",
        "the process 4711 outlives the agent",
    ]


@pytest.mark.parametrize("offset", [0, 1, PATTERN_BYTES - 1, 7 * PATTERN_BYTES + 5])
def test_a_piece_matches_only_where_it_belongs(offset: int) -> None:
    data = piece(3, offset, 64)
    assert matches(3, offset, data)
    for other in (offset + 1, offset + 65_536, offset + 2 * MIB):
        assert not matches(3, other, data)
    assert not matches(4, offset, data)


@pytest.mark.parametrize("offset", [PATTERN_BYTES - 1, PATTERN_BYTES - 5, PATTERN_BYTES, 0])
def test_the_most_that_is_read_at_once_matches_wherever_it_begins(offset: int) -> None:
    data = bytearray(piece(0, offset, MIB))
    assert len(data) == MIB
    assert matches(0, offset, memoryview(data))
    data[1000:] = data[1100:] + data[:100]
    assert difference(0, offset, memoryview(data)) == (
        f"from byte {offset + 1000} on, of {MIB} read at {offset}: bytes of this stream 100 on"
    )


async def read_what(change: str) -> None:
    """Read a stream that was sent with one change."""
    ours, theirs = socket.socketpair()
    size, loop = 3 * MIB, asyncio.get_running_loop()

    async def write() -> None:
        with theirs:
            if change == "shorter":
                await send(theirs, 5, size - 1, random.Random(1))
                return
            half = size // 2 + 1
            for offset in range(0, size, MIB):
                data = bytearray(piece(5, offset, MIB))
                if change == "a byte" and offset <= half < offset + MIB:
                    data[half - offset] ^= 1
                if change == "swapped" and offset == MIB:
                    data[100:300] = data[200:300] + data[100:200]
                await loop.sock_sendall(theirs, data)

    with ours:
        ours.setblocking(False)
        theirs.setblocking(False)
        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            reader = Reader(ours)
            await reader.expect(5, size, random.Random(2))
            await reader.expect_end()


async def test_a_stream_as_it_was_sent_is_accepted() -> None:
    await read_what("nothing")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("shorter", EndedEarlyError),
        ("a byte", BrokenStreamError),
        ("swapped", BrokenStreamError),
    ],
)
async def test_a_stream_that_is_not_as_it_was_sent_is_told(
    change: str, expected: type[Exception]
) -> None:
    with pytest.raises(ExceptionGroup) as found:
        await read_what(change)
    assert found.group_contains(expected)
