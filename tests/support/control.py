"""Agents with a control socket, and the commands that ask them, as a user runs them."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support import agents
from tests.support.backends import VIP_PORT, new_address

# An endpoint that is ejected stays so for as long as a test takes.
_CONFIG = """\
apiVersion: pyproxy.io/v1alpha1
kind: PyproxyConfiguration
ejection: {baseTime: 10m, maxTime: 10m}
"""
ROOT = Path(__file__).parents[2]


class Served:
    """An agent that serves default/web at `vip`: one endpoint echoes, the other refuses."""

    def __init__(self, running: agents.Process, path: Path, vip: str, endpoint: str) -> None:
        self.running = running
        self.path = path
        self.vip = vip
        self.endpoint = endpoint

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command that asks it."""
        return pyproxy(*arguments, "--control-socket", str(self.path), **environment)

    def json(self, *arguments: str) -> dict[str, Any]:
        """What a command prints with -o json."""
        answer: dict[str, Any] = json.loads(self.run(*arguments, "-o", "json").stdout)
        return answer

    def ask(self, method: str, target: str, body: str | None = None) -> tuple[int, dict[str, Any]]:
        """Ask without the command line."""
        connection = http.client.HTTPConnection("agent", timeout=30)
        connection.sock = socket.socket(socket.AF_UNIX)
        with contextlib.closing(connection):
            connection.sock.connect(str(self.path))
            connection.request(method, target, body)
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    @contextlib.contextmanager
    def client(self) -> Iterator[socket.socket]:
        """A client of the Service that has been echoed to."""
        with socket.create_connection((self.vip, VIP_PORT), timeout=30) as client:
            client.sendall(b"hello")
            assert client.recv(100) == b"hello"
            yield client


def pyproxy(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "pyproxy", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
        cwd=ROOT,
    )


@contextlib.contextmanager
def served(directory: Path, workers: int, *more: str, also: str = "") -> Iterator[Served]:
    """An agent, ready. more: arguments; also: lines of its configuration."""
    vip, dead, path = new_address(), new_address(), directory / "control.sock"
    with _echoing() as (address, port):
        documents = agents.web(vip, VIP_PORT, (address, port), (dead, port))
        manifest = agents.write(directory / "web.yaml", *documents)
        config = directory / "config.yaml"
        config.write_text(_CONFIG + also)
        arguments = ["--manifests", str(manifest), "--workers", str(workers)]
        arguments += ["--config", str(config)]
        with agents.process(*arguments, *more, "--control-socket", str(path)) as running:
            running.wait_for("control socket at")
            running.wait_for("listening on 1 addresses and ports")
            yield Served(running, path, vip, f"{address}:{port}")


@contextlib.contextmanager
def _echoing() -> Iterator[tuple[str, int]]:
    def echo(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65536):
                connection.sendall(data)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=echo, args=(connection,), daemon=True).start()

    with socket.create_server((new_address(), 0), backlog=1024) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        address, port = listener.getsockname()
        yield address, port
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(timeout=30)
