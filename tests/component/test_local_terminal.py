"""The live table of `pyproxy local`, in a terminal."""

import asyncio
import re
import signal
from pathlib import Path

import pytest

from tests.support.backends import connect, until
from tests.support.fake_api import FakeApiServer
from tests.support.local_commands import (
    terminal,
    two_contexts,
)


async def test_a_terminal_shows_a_live_table_and_keys_work(
    web: tuple[str, int], api: FakeApiServer, kubeconfig: Path
) -> None:
    async with terminal(kubeconfig, "--port", "web:9001") as screen:
        await screen.until_drawn("default/web")
        assert "\x1b[?1049h" in screen.drawn.decode()
        address = re.search(r"default/web +(\S+)", screen.text)
        assert address is not None
        with await connect(address[1], 9001) as client:
            await asyncio.get_running_loop().sock_sendall(client, b"abc")
            assert await asyncio.get_running_loop().sock_recv(client, 100) == b"abc"
            await until(lambda: re.search(r"80->9001 +1 +1 ", screen.text) is not None)
        screen.type("s")
        await screen.until_drawn("sort: connections")
        screen.type("/none")
        await screen.until_drawn("(1 filtered out)")
        screen.type("\x1b")
        await screen.until_drawn("1-1 of 1")
        screen.type("q")
        assert await screen.process.wait() == 0
        assert b"\x1b[?1049l" in screen.drawn


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_terminal_is_given_back_after_a_signal(
    web: tuple[str, int], kubeconfig: Path, number: signal.Signals
) -> None:
    async with terminal(kubeconfig, width=40, NO_COLOR="1") as screen:
        await screen.until_drawn("default/web")
        assert re.search(r"\x1b\[[0-9;]*3[0-7]m", screen.drawn.decode()) is None
        screen.process.send_signal(number)


async def test_the_terminal_is_given_back_after_an_error(
    web: tuple[str, int], api: FakeApiServer, tmp_path: Path
) -> None:
    async with FakeApiServer() as other:
        kubeconfig = two_contexts(tmp_path / "kubeconfig", api, other)
        other.faults.hangs = True
        contexts = ("--context", "test", "--context", "other")
        async with terminal(kubeconfig, *contexts) as screen:
            await screen.until_drawn("default/web")
            other.faults.hangs = False
            with other.faults.refusing(403):
                await other.restart()
                assert await screen.process.wait() == 1
            assert "pyproxy: context other: this user may not watch" in screen.text
