"""The addresses of this host: read from the kernel, and followed in a namespace of our own."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pyproxy.model.addresses import parse_address
from pyproxy.steer import addresses

_FOLLOW = """
import asyncio, uvloop
from pyproxy.steer import addresses

async def main():
    await addresses.follow(lambda found: print(" ".join(sorted(found)), flush=True))

asyncio.Runner(loop_factory={loop}.new_event_loop).run(main())
"""


def may_make_namespaces() -> bool:
    return os.geteuid() == 0 and shutil.which("ip") is not None


needs_namespaces = pytest.mark.skipif(
    not may_make_namespaces(), reason="needs root and the ip command to make a network namespace"
)


def test_loopback_is_an_address_of_this_host() -> None:
    found = addresses.local_addresses()
    assert "127.0.0.1" in found
    assert all(parse_address(address) == address for address in found)


def ip(namespace: str, *words: str) -> None:
    subprocess.run(["ip", "-n", namespace, *words], check=True, capture_output=True)


@needs_namespaces
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_addresses_that_come_and_go_are_told(loop: str) -> None:
    namespace = f"pyproxy-test-{os.getpid()}-{loop}"
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    command = ["ip", "netns", "exec", namespace, sys.executable, "-c", _FOLLOW.format(loop=loop)]
    try:
        ip(namespace, "link", "set", "lo", "up")
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        ) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline().split() == ["127.0.0.1", "::1"]
                ip(namespace, "address", "add", "10.9.8.7/32", "dev", "lo")
                assert process.stdout.readline().split() == ["10.9.8.7", "127.0.0.1", "::1"]
                ip(namespace, "address", "del", "10.9.8.7/32", "dev", "lo")
                assert process.stdout.readline().split() == ["127.0.0.1", "::1"]
            finally:
                process.kill()
    finally:
        subprocess.run(["ip", "netns", "del", namespace], check=True)


async def test_the_first_set_is_told_without_a_change() -> None:
    found: asyncio.Queue[frozenset[str]] = asyncio.Queue()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(addresses.follow(found.put_nowait))
        async with asyncio.timeout(10):
            assert "127.0.0.1" in await found.get()
        task.cancel()
