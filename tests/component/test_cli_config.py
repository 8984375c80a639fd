"""`pyproxy config` as a user runs it."""

import json
from pathlib import Path

import pytest
import yaml

from pyproxy.cli import run
from pyproxy.cli.settings import read_config, read_configuration
from pyproxy.config import Configuration, ProxyConfig, parse_config

FILE = """
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
hostnameOverride: node-7
featureGates: {A: true}
---
apiVersion: pyproxy.io/v1alpha1
kind: PyproxyConfiguration
drainTimeout: 90s
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(FILE)
    return path


def test_show_prints_what_holds(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "show", "--config", str(path)]) == 0
    shown = capsys.readouterr().out
    first, second = yaml.safe_load_all(shown)
    assert first["kind"] == "KubeProxyConfiguration"
    assert (first["hostnameOverride"], first["healthzBindAddress"]) == ("node-7", "0.0.0.0:10256")
    assert (second["drainTimeout"], second["connectTimeout"]) == ("1m30s", "1s")
    assert parse_config(shown)[0].proxy == ProxyConfig(node_name="node-7")


def test_show_without_a_file_prints_the_defaults_as_json_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["config", "show", "-o", "json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == Configuration().documents()


def test_validate_tells_what_has_no_effect(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "validate", str(path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{path}: featureGates has no effect here: pyproxy has no feature gates",
        f"{path}: no fault",
    ]


def test_validate_tells_every_fault(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text(FILE + "steer: x\nworkers: many\n")
    assert run(["config", "validate", str(path)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"pyproxy: {path}: steer: 'x' is none of auto, none, nft",
        f"pyproxy: {path}: workers: 'many' is neither auto nor a whole number from 0 to 64",
    ]


@pytest.mark.parametrize(
    ("content", "says"), [(None, "No such file or directory"), (b"\xff\xfe", "can't decode byte")]
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, content: bytes | None, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.yaml"
    if content is not None:
        path.write_bytes(content)
    assert run(["config", "show", "--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert f"pyproxy: {path}: " in error
    assert says in error


def test_reference_prints_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "reference"]) == 0
    assert capsys.readouterr().out.startswith("# Configuration\n")


def test_commands_read_the_file_and_log_what_has_no_effect(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert read_config(None) == ProxyConfig()
    assert read_configuration(None) == Configuration()
    assert read_config(str(path)).node_name == "node-7"
    assert caplog.messages == [
        f"{path}: featureGates has no effect here: pyproxy has no feature gates"
    ]
