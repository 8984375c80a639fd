"""The commands as a user runs them: processes, exit statuses, and what stands on which stream."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import agents
from tests.support.backends import VIP_PORT, new_address
from tests.support.builders import make_port, make_service, make_slice

ROOT = Path(__file__).parents[2]


def pyproxy(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pyproxy", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
        cwd=ROOT,
    )


class Backend:
    """A blocking listener whose connections the test accepts itself."""

    def __init__(self) -> None:
        self.socket = socket.create_server((new_address(), 0))
        self.socket.settimeout(30)

    @property
    def at(self) -> tuple[str, int]:
        address, port = self.socket.getsockname()
        return address, port

    def accept(self) -> socket.socket:
        connection, _ = self.socket.accept()
        connection.settimeout(30)
        return connection


@pytest.fixture
def backend() -> Iterator[Backend]:
    made = Backend()
    with made.socket:
        yield made


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        (["run", "--no-such-flag"], "unrecognized arguments: --no-such-flag"),
        (["run", "--manifests", "/no/such/place"], "manifests /no/such/place: No such file"),
        (["run", "--manifests", "x", "--kubeconfig", "y"], "choose one source"),
        (["run", "--kubeconfig", "/no/such/file"], "/no/such/file"),
        (["run", "--config", "/no/such/file"], "/no/such/file: No such file"),
        (["run", "--metrics-bind-address", "nonsense:1"], "'nonsense' is not an IP address"),
        (["run", "--metrics-bind-address", "127.0.0.1:70000"], "not within 0 to 65535"),
        (["run", "--healthz-bind-address", "[::1:1"], "--healthz-bind-address [::1:1"),
        (["run", "--drain-timeout", "soon"], "'soon' is not a number of seconds"),
        (["run", "--hostname-override", "  "], "the name is blank"),
        (["run", "--nodeport-addresses", "10.0.0.1"], "'10.0.0.1' is not a CIDR"),
        (["run", "--cluster-cidr", "10.0.0.0/8,10.1.0.0/16"], "more than one CIDR of a family"),
        (["run", "extra"], "unrecognized arguments: extra"),
        (["explain"], "explain needs"),
    ],
)
def test_wrong_usage_exits_2_and_says_why_in_a_line(arguments: list[str], says: str) -> None:
    if arguments[:1] == ["run"]:
        arguments = [*arguments, "--steer", "none"]
    done = pyproxy(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_all_faults_of_a_configuration_file_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
        "clusterCIDR: nonsense\ndetectLocalMode: Guess\nnodePortAddresses: [primary, 1.2.3.4]\n"
    )
    done = pyproxy("run", "--config", str(path), "--manifests", str(tmp_path))
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"pyproxy: {path}: ") for line in lines)


def test_outside_a_cluster_run_says_what_to_give_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        for name in ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "KUBECONFIG"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(tmp_path))
        done = pyproxy("run", "--steer", "none")
    assert done.returncode == 2
    assert "--kubeconfig" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_and_version_answer() -> None:
    assert pyproxy("--version").stdout.startswith("pyproxy ")
    for arguments in (["--help"], ["run", "--help"], ["explain", "--help"], ["demo", "--help"]):
        done = pyproxy(*arguments)
        assert done.returncode == 0
        assert "usage: pyproxy" in done.stdout


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys, contextlib\nfrom pyproxy.cli import run\n"
        "with contextlib.suppress(SystemExit): run(['--help'])\n"
        "print([m for m in ('asyncio', 'aiohttp', 'kubernetes', 'msgspec', 'yaml', 'rich')"
        " if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_exits_0(
    tmp_path: Path, backend: Backend, loop: str, number: signal.Signals
) -> None:
    vip = new_address()
    agents.write(tmp_path / "a.yaml", *agents.web(vip, VIP_PORT, backend.at))
    with agents.process("--manifests", str(tmp_path), "--loop", loop) as running:
        running.wait_for("listening on 1 addresses and ports")
        with socket.create_connection((vip, VIP_PORT), timeout=30) as client:
            endpoint = backend.accept()
            running.process.send_signal(number)
            running.wait_for(f"{number.name}: stopping")
            running.wait_for("draining: 1 connections are live")
            endpoint.sendall(b"still here")
            assert client.recv(100) == b"still here"
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((vip, VIP_PORT), timeout=30)
            health = urllib.request.Request(running.url("health") + "/healthz")
            with pytest.raises(urllib.error.HTTPError) as answer, urllib.request.urlopen(health):
                pass
            assert answer.value.code == 503
            answer.value.close()
            endpoint.close()
            assert client.recv(100) == b""
        assert running.wait() == 0


def test_a_second_signal_exits_at_once(tmp_path: Path, backend: Backend) -> None:
    vip = new_address()
    agents.write(tmp_path / "a.yaml", *agents.web(vip, VIP_PORT, backend.at))
    with agents.process("--manifests", str(tmp_path), "--drain-timeout", "3600") as running:
        running.wait_for("listening on")
        with socket.create_connection((vip, VIP_PORT), timeout=30), backend.accept():
            running.process.send_signal(signal.SIGTERM)
            running.wait_for("SIGTERM: stopping")
            running.process.send_signal(signal.SIGTERM)
            assert running.wait() == 1


def test_the_drain_time_out_cuts_what_is_left(tmp_path: Path, backend: Backend) -> None:
    vip = new_address()
    agents.write(tmp_path / "a.yaml", *agents.web(vip, VIP_PORT, backend.at))
    with agents.process("--manifests", str(tmp_path), "--drain-timeout", "0.1") as running:
        running.wait_for("listening on")
        with socket.create_connection((vip, VIP_PORT), timeout=30) as client, backend.accept():
            running.process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionResetError):
                client.recv(100)
            assert running.wait() == 0


def test_the_json_log_is_json(tmp_path: Path) -> None:
    with agents.process("--manifests", str(tmp_path), "--log-format", "json") as running:
        running.wait_for("listening on")
        running.process.terminate()
        assert running.wait() == 0
        lines = [json.loads(line) for line in running.log]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)


def test_ten_thousand_services_without_slices_are_all_refused_and_stop_nothing(
    tmp_path: Path, backend: Backend
) -> None:
    vip = new_address()
    many = [
        make_service(f"empty-{n}", cluster_ip=f"127.40.{n // 250}.{n % 250 + 1}")
        for n in range(10_000)
    ]
    path = tmp_path / "many.json"
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": many}))
    agents.write(tmp_path / "web.yaml", *agents.web(vip, VIP_PORT, backend.at))
    with agents.process("--manifests", str(tmp_path)) as running:
        running.wait_for("listening on 1 addresses and ports")
        with socket.create_connection((vip, VIP_PORT), timeout=30), backend.accept():
            pass
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.40.0.1", 80), timeout=30)
        assert len(running.log) < 20


def test_two_services_with_one_external_ip_are_told_and_the_older_one_is_served(
    tmp_path: Path, backend: Backend
) -> None:
    shared = new_address()
    for name, created, target in (
        ("young", "2026-02-01T00:00:00Z", ("127.0.0.1", 1)),
        ("old", "2026-01-01T00:00:00Z", backend.at),
    ):
        service = make_service(
            name,
            cluster_ip=new_address(),
            ports=[make_port(VIP_PORT)],
            externalIPs=[shared],
            created=created,
        )
        port = {"name": "http", "port": target[1]}
        agents.write(
            tmp_path / f"{name}.yaml", service, make_slice(target[0], service=name, ports=[port])
        )
    with agents.process("--manifests", str(tmp_path)) as running:
        running.wait_for(rf"{shared}:{VIP_PORT}/TCP is claimed by default/old:http, default/young")
        running.wait_for("listening on")
        with socket.create_connection((shared, VIP_PORT), timeout=30), backend.accept():
            pass


def test_the_demo_fails_no_request_while_a_backend_is_killed() -> None:
    done = pyproxy("demo", "--once")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "-- killed backend" in done.stdout
    assert "demo/web: 60 answered" in done.stdout
    assert "demo/echo: 60 answered" in done.stdout
    assert done.stdout.endswith("no request failed\n")
    assert "\x1b" not in done.stdout


def test_a_second_demo_says_that_the_addresses_are_taken() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "pyproxy", "demo"], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as first:
        try:
            assert first.stdout is not None
            while "answered" not in (line := first.stdout.readline()):
                assert line
            second = pyproxy("demo", "--once")
            assert second.returncode == 1
            assert "is another demo running?" in second.stderr
            assert "Traceback" not in second.stderr
            first.send_signal(signal.SIGINT)
            rest = first.stdout.read()
            assert first.wait(timeout=30) == 0
            assert rest.endswith("no request failed\n")
        finally:
            first.kill()
