"""`pyproxy check` as a user runs it, on this machine and against a small API server."""

import json
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from pyproxy.cli import check, run
from pyproxy.ops.check import Finding, ThisMachine
from tests.support.fake_api import write_kubeconfig


class Reviews(BaseHTTPRequestHandler):
    """Answers access reviews; `denied` are resources that may not be watched."""

    denied: frozenset[str] = frozenset()
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        attributes = review["spec"]["resourceAttributes"]
        allowed = attributes["verb"] != "watch" or attributes["resource"] not in self.denied
        body = json.dumps({**review, "status": {"allowed": allowed}}).encode()
        self.send_response(201)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def reviews() -> type[Reviews]:
    class Handler(Reviews):
        """One for this test, which may change it."""

    return Handler


@pytest.fixture
def kubeconfig(reviews: type[Reviews], tmp_path: Path) -> Iterator[Path]:
    with ThreadingHTTPServer(("127.0.0.1", 0), reviews) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            yield write_kubeconfig(tmp_path / "kubeconfig", url, user={"token": "t"})
        finally:
            server.shutdown()
            thread.join()


def findings(text: str) -> dict[str, Any]:
    found = json.loads(text)
    return {finding["check"]: finding for finding in found["checks"]}


def test_a_laptop_with_a_kubeconfig_can_run_it(
    kubeconfig: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["check", "--steer", "none", "--kubeconfig", str(kubeconfig)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("✓ kernel ")
    assert lines[-1] == "this node can run pyproxy"
    assert any(line.startswith("✓ API server") and str(kubeconfig) in line for line in lines)
    assert any(
        line.endswith("may list and watch endpointslices.discovery.k8s.io") for line in lines
    )


def test_a_missing_permission_fails_and_says_how_to_mend_it(
    kubeconfig: Path, reviews: type[Reviews], capsys: pytest.CaptureFixture[str]
) -> None:
    reviews.denied = frozenset({"services", "nodes"})
    assert run(["check", "--steer", "none", "--kubeconfig", str(kubeconfig)]) == 1
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("✗ services"))
    assert "may not watch services" in lines[at]
    assert "fix: kubectl create clusterrolebinding" in lines[at + 1]
    assert any(line.startswith("! nodes") for line in lines)
    assert lines[-1] == "this node cannot run pyproxy"


def test_json_tells_the_same(kubeconfig: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["check", "--steer", "none", "--kubeconfig", str(kubeconfig), "-o", "json"]
    assert run(arguments) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["ok"] is True
    assert findings(out)["services"] == {
        "check": "services",
        "ok": True,
        "detail": "may list and watch services",
        "fix": "",
        "required": True,
    }


def test_the_configuration_file_names_kubeconfig_and_steering(
    kubeconfig: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
        f"clientConnection: {{kubeconfig: {kubeconfig}}}\n"
        "---\napiVersion: pyproxy.io/v1alpha1\nkind: PyproxyConfiguration\nsteer: none\n"
    )
    assert run(["check", "--config", str(config), "-o", "json"]) == 0
    assert "nft" not in findings(capsys.readouterr().out)


def test_without_a_file_or_a_flag_the_node_must_be_able_to_steer(
    kubeconfig: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = run(["check", "--kubeconfig", str(kubeconfig), "-o", "json"])
    found = findings(capsys.readouterr().out)
    assert {"NET_ADMIN", "ip_forward", "nft"} <= found.keys()
    assert status == int(not all(f["ok"] for f in found.values() if f["required"]))


def test_without_an_api_server_it_says_what_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("KUBERNETES_SERVICE_HOST", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run(["check", "--steer", "none"]) == 1
    out = capsys.readouterr().out
    assert "✗ API server" in out
    assert "fix: give --kubeconfig FILE" in out


async def test_it_leaves_no_table_behind() -> None:
    command = f"{sys.executable} -m pyproxy check --kubeconfig /none; nft list ruleset; echo end"
    done = await ThisMachine().run(["unshare", "--map-root-user", "--net", "sh", "-c", command])
    if done is None or "unshare:" in done[1]:
        pytest.skip("this machine allows no network namespace")
    if "nftables table" not in done[1]:
        pytest.skip("this machine has no nft")
    assert done[1].endswith("this node cannot run pyproxy\nend\n")


def test_a_terminal_without_the_marks_gets_words() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pyproxy", "check", "--steer", "none", "--kubeconfig", "/none"],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin"},
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 1
    assert done.stdout.startswith("ok kernel ")
    assert "\nNO API server" in done.stdout


def test_every_kind_of_finding_is_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    check._print_text(
        [
            Finding("one", ok=True, detail="d"),
            Finding("twelve", ok=False, detail="d", fix="f", required=False),
        ]
    )
    assert capsys.readouterr().out.splitlines() == [
        "✓ one     d",
        "! twelve  d",
        "          fix: f",
        "this node can run pyproxy",
    ]
