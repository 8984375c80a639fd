"""Transactions of elements in a real kernel: by netlink they do what their script does by nft."""

import asyncio
import contextlib
import json
import os
import random
from collections.abc import Iterator
from typing import Any

import pytest

from pyproxy.core.ruleset import Guard, Ruleset
from pyproxy.core.ruleset_diff import diff
from pyproxy.core.ruleset_script import fresh
from pyproxy.core.transaction import TABLE, Element, Elements, script
from pyproxy.model.addresses import parse_cidr
from pyproxy.model.persistent import PersistentMap, PersistentSet
from pyproxy.model.service import Protocol
from pyproxy.model.table import FrontendKey
from pyproxy.steer.nft import Nft, NftError
from tests.support.netns import Host, needs_netns

pytestmark = needs_netns

MARK = 0x100000
GUARDS = {
    guard.chain: guard
    for guard in (
        Guard((parse_cidr("10.0.0.0/8"),), "steer"),
        Guard((parse_cidr("fd00::/16"),), "insiders"),
    )
}
TARGETS = ["steer", "refuse", "discard", "insiders", *GUARDS]
PROTOCOLS: tuple[Protocol, ...] = ("TCP", "UDP")
ADDRESSES = ["10.96.0.1", "10.96.255.255", "0.0.0.1", "255.255.255.254", "fd00:96::1", "::2",
             "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe"]  # fmt: skip
PORTS = [1, 80, 255, 256, 65535]
ADD_ONE = Elements("add", "steer4", (Element(("10.96.0.1", "tcp", 80)),))
DELETE_ONE = Elements("delete", "steer4", (Element(("10.96.0.1", "tcp", 80)),))


class Kernel:
    """The nf_tables of a network namespace."""

    def __init__(self, host: Host, nft: Nft) -> None:
        self._host = host
        self.nft = nft

    def run(self, *steps: str | tuple[Elements, ...]) -> None:
        with self._host.entered():
            asyncio.run(self.nft.run(steps))  # in a thread that is new, and so in the namespace

    def holds(self) -> Any:
        """Our table as nft lists it, without what tells two tables of one content apart."""
        listed = json.loads(self._host.run("nft", "-j", "list", "table", *TABLE.split()))
        return _comparable(listed["nftables"][1:])


def _comparable(value: Any) -> Any:
    """Sets are listed in no order; handles are numbers of the kernel's; what expires does so."""
    match value:
        case dict():
            kept = {k: _comparable(v) for k, v in value.items() if k not in {"handle", "expires"}}
            if "elem" in kept and isinstance(kept["elem"], list):
                kept["elem"] = sorted(kept["elem"], key=repr)
            return kept
        case list():
            return [_comparable(item) for item in value]
        case _:
            return value


@contextlib.contextmanager
def kernel(name: str) -> Iterator[Kernel]:
    host = Host(name)
    try:
        with contextlib.closing(Nft()) as nft:
            made = Kernel(host, nft)
            made.run(*(fresh(MARK) + diff(Ruleset(), ruleset({}, []))).steps)
            yield made
    finally:
        host.close()


@pytest.fixture
def by_netlink() -> Iterator[Kernel]:
    with kernel("netlink") as made:
        yield made


@pytest.fixture
def by_nft() -> Iterator[Kernel]:
    with kernel("nft") as made:
        yield made


def ruleset(services: dict[FrontendKey, str], cluster_ips: list[str]) -> Ruleset:
    return Ruleset(
        services=PersistentMap(services),
        guards=PersistentMap(GUARDS),
        cluster_ips=PersistentSet(cluster_ips),
    )


def random_ruleset(dice: random.Random) -> Ruleset:
    services: dict[FrontendKey, str] = {
        (dice.choice(ADDRESSES), dice.choice(PORTS), dice.choice(PROTOCOLS)): dice.choice(TARGETS)
        for _ in range(dice.randrange(40))
    }
    return ruleset(services, dice.sample(ADDRESSES, dice.randrange(len(ADDRESSES))))


@pytest.mark.parametrize("seed", range(3))
def test_netlink_does_what_the_script_does(by_netlink: Kernel, by_nft: Kernel, seed: int) -> None:
    dice = random.Random(seed)
    known = ruleset({}, [])
    for _ in range(20):
        wanted = random_ruleset(dice)
        steps = diff(known, wanted).steps
        assert not any(isinstance(step, str) for step in steps)
        by_netlink.run(*steps)
        by_nft.run(script(steps))
        assert by_netlink.holds() == by_nft.holds()
        known = wanted


def test_thousands_of_elements_are_one_transaction(by_netlink: Kernel, by_nft: Kernel) -> None:
    """More than a socket sends by default."""
    keys: list[FrontendKey] = [(f"10.96.{n >> 8}.{n & 255}", 80, "TCP") for n in range(9000)]
    many = ruleset(dict.fromkeys(keys, "steer"), [])
    steps = diff(ruleset({}, []), many).steps
    with pytest.raises(NftError, match=r"steer4 { 10.1.1.1 .*: No such file"):
        by_netlink.run(*steps, (Elements("delete", "steer4", (Element(("10.1.1.1", "tcp", 1)),)),))
    before = by_nft.holds()
    assert by_netlink.holds() == before
    by_netlink.run(*steps)
    by_nft.run(script(steps))
    assert by_netlink.holds() == by_nft.holds() != before


def test_one_socket_serves_all_transactions(by_netlink: Kernel) -> None:
    by_netlink.run((ADD_ONE,))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        by_netlink.run((DELETE_ONE,), (ADD_ONE,))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_table_that_somebody_removed_is_told(by_netlink: Kernel) -> None:
    by_netlink.run(f"delete table {TABLE}")
    with pytest.raises(NftError, match=r"add .* steer4 .*: No such file") as caught:
        by_netlink.run((ADD_ONE,))
    assert caught.value.not_found


def test_after_closing_another_socket_is_opened() -> None:
    with kernel("closed") as made:
        made.run((ADD_ONE,))
        made.nft.close()
        made.run((DELETE_ONE,))
