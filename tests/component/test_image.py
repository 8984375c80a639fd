"""The image's parts that need no container engine; `make image-rehearsal` carries out the rest."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.image.__main__ import instructions
from tests.support.fake_api_tls import Tls
from tests.support.manifests import ROOT

PRUNE = ROOT / "deploy" / "image" / "prune.py"


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the package kubernetes as the image has it."""
    found = importlib.util.find_spec("kubernetes")
    assert found is not None
    assert found.origin is not None
    directory = tmp_path_factory.mktemp("pruned")
    package = Path(found.origin).parent
    # Links, where they can be: 126 MB would be copied for nothing.
    is_same = package.stat().st_dev == directory.stat().st_dev
    shutil.copytree(
        package, directory / "kubernetes", copy_function=os.link if is_same else shutil.copy2
    )
    before = megabytes(directory)
    subprocess.run([sys.executable, str(PRUNE), str(directory)], check=True)
    assert megabytes(directory) < 0.1 * before
    return directory


def megabytes(directory: Path) -> float:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) / 1e6


def run_pruned(pruned: Path, code: str, *arguments: str, **environment: str) -> str:
    """Run Python code with the pruned package; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{pruned}:{ROOT}"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_import_that_pyproxy_makes_is_in_a_pruned_package(pruned: Path) -> None:
    made = set()
    for path in (ROOT / "pyproxy").rglob("*.py"):
        made |= set(
            re.findall(
                r"^\s*(?:from (kubernetes[\w.]*) import|import (kubernetes[\w.]*))",
                path.read_text(),
                re.MULTILINE,
            )
        )
    modules = {name for pair in made for name in pair if name}
    assert "kubernetes.aio.config" in modules
    run_pruned(
        pruned,
        "import importlib, sys\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "import kubernetes\nassert kubernetes.__file__.startswith(sys.path[1])",
        *sorted(modules),
    )


LOAD = """
import asyncio, sys
from pyproxy.source.credentials import CredentialSettings, load_credentials
import kubernetes
assert kubernetes.__file__.startswith(sys.path[1])
settings = CredentialSettings(**{sys.argv[1]: sys.argv[2]})
loaded = asyncio.run(load_credentials(settings))
print(loaded.url, loaded.authorization)
"""


def test_a_pruned_package_reads_the_identity_of_a_pod(pruned: Path, tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(Tls(tmp_path, "cluster").ca_file.read_bytes())
    (tmp_path / "token").write_text("secret")
    address = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "6443"}
    told = run_pruned(pruned, LOAD, "service_account_dir", str(tmp_path), **address)
    assert told == "https://10.0.0.1:6443 bearer secret\n"


@pytest.mark.parametrize(
    "user",
    [
        {"token": "secret"},
        {
            "exec": {
                "apiVersion": "client.authentication.k8s.io/v1",
                "interactiveMode": "Never",
                "command": "sh",
                "args": [
                    "-c",
                    'echo \'{"apiVersion": "client.authentication.k8s.io/v1",'
                    ' "kind": "ExecCredential", "status": {"token": "secret"}}\'',
                ],
            }
        },
    ],
    ids=["token", "exec"],
)
def test_a_pruned_package_reads_kubeconfigs(pruned: Path, tmp_path: Path, user: object) -> None:
    from tests.support.fake_api import write_kubeconfig

    config = write_kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:1", user=user)  # type: ignore[arg-type]
    told = run_pruned(pruned, LOAD, "kubeconfig", str(config))
    assert told.lower() == "http://127.0.0.1:1 bearer secret\n"


def test_a_package_of_another_shape_is_not_pruned(tmp_path: Path) -> None:
    (tmp_path / "kubernetes" / "aio" / "client" / "models").mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, str(PRUNE), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "no generated modules; is this another version?" in done.stderr


def dockerfile() -> list[tuple[str, str]]:
    return list(instructions((ROOT / "Dockerfile").read_text()))


def test_the_image_takes_what_the_lock_says_by_hash_and_compiles_nothing() -> None:
    runs = [rest for word, rest in dockerfile() if word == "RUN"]
    installs = [
        part for rest in runs for part in rest.split("&&") if " pip " in part and "install" in part
    ]
    assert len([part for part in installs if "--require-hashes" in part]) == 2
    # The third installs pyproxy itself, from the wheel that was made here.
    assert all("--require-hashes" in part or "--no-index" in part for part in installs)
    assert not re.search(r"\b(gcc|build-essential|cargo|python3-dev)\b", " ".join(runs))


def test_the_last_stage_has_no_pip_and_starts_without_a_shell() -> None:
    words = dockerfile()
    last = max(n for n, (word, _) in enumerate(words) if word == "FROM")
    final = words[last:]
    (installed,) = [rest for word, rest in final if word == "RUN"]
    assert "nftables" in installed
    assert "pip" not in installed
    (entrypoint,) = [rest for word, rest in final if word == "ENTRYPOINT"]
    assert json.loads(entrypoint) == ["/opt/pyproxy/bin/pyproxy"]


def test_what_the_dockerfile_copies_is_sent_to_it() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    sent = {line[1:] for line in ignored if line.startswith("!")}
    for word, rest in dockerfile():
        if word == "COPY" and not rest.startswith("--from"):
            assert set(rest.split()[:-1]) <= sent


def test_each_pinned_package_has_wheels_or_is_pure_python() -> None:
    """Of both architectures: the lock is resolved for all of them, with the hash of each file."""
    lock = (ROOT / "deploy" / "requirements.lock").read_text()
    hashes = {
        name: block.count("--hash=")
        for name, block in re.findall(r"^([\w-]+)==(.*?)(?=^\S|\Z)", lock, re.MULTILINE | re.DOTALL)
    }
    # One wheel and one source distribution are two; a compiled package has one for each platform.
    for name in ("aiohttp", "uvloop", "msgspec", "pyyaml", "pydantic-core"):
        assert hashes[name] > 10, name
