"""The nft command: what it is asked, what goes wrong, and what its listing means."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pyproxy.core.ruleset import Ruleset
from pyproxy.model.addresses import parse_cidr
from pyproxy.model.persistent import PersistentMap
from pyproxy.steer.nft import KernelTable, Nft, NftError, parse_table
from tests.support.netns import needs_netns


async def test_a_missing_command_is_told() -> None:
    with pytest.raises(NftError, match="install nftables") as caught:
        await Nft("/nonexistent/nft").check_version()
    assert caught.value.missing


@pytest.fixture
def command(tmp_path: Path) -> Callable[[str], Nft]:
    def make(script: str) -> Nft:
        path = tmp_path / "nft"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return Nft(str(path))

    return make


@pytest.mark.parametrize("version", ["nftables v1.0.5 (Lester)", "nftables v0.9.8", "what?", ""])
async def test_an_old_command_is_told(command: Callable[[str], Nft], version: str) -> None:
    with pytest.raises(NftError, match=r"nftables 1\.0\.6 or newer") as caught:
        await command(f"echo '{version}'").check_version()
    assert caught.value.missing


@pytest.mark.parametrize("version", ["nftables v1.0.6 (Lester Gooch #5)", "nftables v1.1.0 (x)"])
async def test_a_new_command_will_do(command: Callable[[str], Nft], version: str) -> None:
    await command(f"echo '{version}'").check_version()


async def test_what_is_not_allowed_is_told(command: Callable[[str], Nft]) -> None:
    nft = command("echo 'Error: Could not process rule: Operation not permitted' >&2; exit 1")
    with pytest.raises(NftError, match="CAP_NET_ADMIN") as caught:
        await nft.run(["add table inet pyproxy"])
    assert caught.value.not_permitted
    with pytest.raises(NftError):
        await nft.read()


async def test_a_command_that_dies_without_reading_is_no_crash(
    command: Callable[[str], Nft],
) -> None:
    nft = command("exit 1")
    for _ in range(20):
        with pytest.raises(NftError, match="failed"):
            await nft.run(["#" * 1_000_000])


async def test_a_command_that_hangs_is_killed(
    command: Callable[[str], Nft], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("pyproxy.steer.nft.TIMEOUT_S", 0.05)
    nft = command(f"echo $$ > {tmp_path}/pid; exec sleep 1000")
    with pytest.raises(NftError, match="did not end"):
        await nft.run(["add table inet pyproxy"])


async def test_a_transaction_that_is_too_large_is_halved(
    command: Callable[[str], Nft], tmp_path: Path
) -> None:
    """As netlink does for a process without privileges: here, no more than three steps."""
    taken = tmp_path / "taken"
    nft = command(
        "script=$(cat); [ $(echo \"$script\" | wc -l) -le 3 ] ||"
        " { echo 'netlink: Error: Message too long' >&2; exit 1; };"
        f" echo \"$script\" >> {taken}"
    )  # fmt: skip
    steps = [f"step {number}" for number in range(10)]
    await nft.run(steps)
    assert taken.read_text().splitlines() == steps
    with pytest.raises(NftError) as caught:
        await nft.run(["one step\n" * 4])
    assert caught.value.too_large


@pytest.fixture
def run_unshared(tmp_path: Path) -> Callable[..., list[str]]:
    """Runs Python as root of a new user namespace; returns the words that it printed."""

    def run(source: str, *options: str) -> list[str]:
        command = ["unshare", "--user", "--map-root-user", *options]
        probe = subprocess.run([*command, "true"], capture_output=True, check=False)
        if probe.returncode:
            pytest.skip("no user namespaces here")
        path = tmp_path / "source.py"
        path.write_text(source)
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(
            [*command, sys.executable, str(path)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    return run


needs_unshare = pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")


@needs_netns
@needs_unshare
def test_ten_thousand_elements_pass_in_a_user_namespace(
    run_unshared: Callable[..., list[str]],
) -> None:
    """There the kernel takes no transaction of this size (EMSGSIZE): it is cut."""
    assert run_unshared(_MANY, "--net") == ["10000", "10000", "True", "True"]


_MANY = """
import asyncio
from pyproxy.core.ruleset import Ruleset
from pyproxy.core.ruleset_diff import diff
from pyproxy.core.ruleset_script import fresh
from pyproxy.model.persistent import PersistentMap
from pyproxy.steer.nft import Nft, NftError

def many(target):
    vips = [f"10.96.{i >> 8}.{i & 255}" for i in range(10000)]
    return Ruleset(services=PersistentMap({(vip, 80, "TCP"): target for vip in vips}))

async def main():
    nft = Nft()
    first = fresh(1) + diff(Ruleset(), many("steer"))
    await nft.run(first.steps)
    print(len((await nft.read()).ruleset.services))
    await nft.run(diff(many("steer"), many("refuse")).steps)
    found = (await nft.read()).ruleset.services
    print(len(found))
    print(found == many("refuse").services)
    step = tuple(change for step in diff(many("refuse"), many("steer")).steps for change in step)
    try:
        await nft.run([step * 4])
    except NftError as fault:
        print(fault.too_large)
    nft.close()

asyncio.run(main())
"""


@needs_netns
@needs_unshare
def test_elements_that_are_not_allowed_are_told(run_unshared: Callable[..., list[str]]) -> None:
    """The network is not that of the user namespace."""
    words = run_unshared(_NOT_ALLOWED)
    assert words[0] == "True"
    assert "CAP_NET_ADMIN:" in words


_NOT_ALLOWED = """
import asyncio
from pyproxy.core.transaction import Element, Elements
from pyproxy.steer.nft import Nft, NftError

async def main():
    nft = Nft()
    try:
        await nft.run([(Elements("add", "steer4", (Element(("10.96.0.1", "tcp", 80)),)),)])
    except NftError as fault:
        print(fault.not_permitted, fault)
    nft.close()

asyncio.run(main())
"""


def test_what_is_not_ours_in_the_listing_is_passed_over() -> None:
    items: list[dict[str, Any]] = [
        {"metainfo": {}},
        {"map": {"name": "verdicts4", "elem": [
            [{"concat": ["10.96.0.1", "sctp", 80]}, {"drop": None}],
            [{"concat": ["10.96.0.1", "tcp", 80]}, {"drop": None}],
            "nonsense",
        ]}},
        {"set": {"name": "pods4", "elem": ["10.0.0.1", {"range": ["10.1.1.1", "10.1.1.9"]}]}},
        {"set": {"name": "cluster-ips4", "elem": [{"prefix": {"addr": "10.0.0.0", "len": 8}}]}},
        {"set": {"name": "pods6", "elem": ["fd00::1"]}},
        {"set": {"name": "mine"}},
    ]  # fmt: skip
    found = parse_table(msgspec.json.encode({"nftables": items}).decode())
    assert found == KernelTable(
        "",
        Ruleset(
            services=PersistentMap({("10.96.0.1", 80, "TCP"): ""}),
            pod_networks=frozenset({parse_cidr("10.0.0.1/32"), parse_cidr("fd00::1/128")}),
        ),
        {},
    )
