"""What `pyproxy local` says to input that is wrong: one line, an exit status, nothing left."""

import contextlib
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.support.backends import new_address
from tests.support.fake_api import FakeApiServer
from tests.support.local_commands import (
    command,
    names_in,
)

# What a case changes lasts as long as the stack.
Case = tuple[Callable[[contextlib.ExitStack, FakeApiServer, Path], list[str]], int, str]


def no_permission(stack: contextlib.ExitStack, api: FakeApiServer, _: Path) -> list[str]:
    stack.enter_context(api.faults.refusing(403, resource="endpointslices"))
    return []


def no_current_context(_: contextlib.ExitStack, __: FakeApiServer, path: Path) -> list[str]:
    content = yaml.safe_load(path.read_text())
    del content["current-context"]
    path.write_text(yaml.safe_dump(content))
    return []


def taken_dns(stack: contextlib.ExitStack, _: FakeApiServer, __: Path) -> list[str]:
    listener = socket.create_server((new_address(), 0))
    stack.enter_context(listener)
    address, port = listener.getsockname()
    return ["--dns", f"{address}:{port}"]


def full_env_file(_: contextlib.ExitStack, __: FakeApiServer, path: Path) -> list[str]:
    env = path.with_name(".env")
    env.write_text("SECRET=1\n")
    return ["--env-file", str(env)]


BAD_INPUT: dict[str, Case] = {
    "an unknown context": (
        lambda *_: ["--context", "tset"],
        2,
        "has no context 'tset'; did you mean test?",
    ),
    "no current context": (no_current_context, 2, "has no current context; it has: test"),
    "no permission": (no_permission, 1, "resources ['endpointslices'], verbs ['list', 'watch']"),
    "a hosts file that cannot be written": (
        lambda *_: ["--hosts-path", "/proc/version"],
        1,
        "the names cannot be written there; run pyproxy with sudo, or",
    ),
    "a port for DNS that is taken": (taken_dns, 1, "Address already in use; choose another port"),
    "an env file with other content": (full_env_file, 1, "it has content that is not pyproxy's"),
    "an env file that cannot be written": (
        lambda _, __, path: ["--env-file", str(path / "env")],
        1,
        "cannot be written: Not a directory; name another file",
    ),
    "a namespace that is no name": (lambda *_: ["-n", "a/b"], 2, "-n a/b: this is no name"),
    "two ways to say which namespaces": (lambda *_: ["-A", "-n", "a"], 2, "choose one"),
    "a reservation that is none": (
        lambda *_: ["--reserve", "web=10.0.0.1"],
        2,
        "write NAMESPACE/NAME=127.x.y.z",
    ),
    "a file of reservations that is not there": (
        lambda *_: ["--reserve-file", "/nowhere"],
        2,
        "--reserve-file /nowhere",
    ),
}


@pytest.mark.parametrize("name", BAD_INPUT)
async def test_bad_input_is_told_and_leaves_nothing(
    api: FakeApiServer, web: tuple[str, int], kubeconfig: Path, name: str
) -> None:
    make_arguments, status, text = BAD_INPUT[name]
    with contextlib.ExitStack() as stack:
        arguments = make_arguments(stack, api, kubeconfig)
        files = names_in(kubeconfig.parent)
        async with command(kubeconfig, *arguments) as local:
            assert await local.process.wait() == status
            await local.until_said(text)
        assert local.err.decode().splitlines()[-1].startswith("pyproxy: ")
    assert names_in(kubeconfig.parent) == files
