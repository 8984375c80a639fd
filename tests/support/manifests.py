"""What `kubectl kustomize` makes of deploy/, and whether an API server would take it."""

import functools
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.builders import Json

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
# Kinds that the API server itself has not; of the Prometheus operator.
FOREIGN = {"PodMonitor", "PrometheusRule"}


def kubectl() -> str:
    """The command, which `make test` installs as root; without it the test is skipped."""
    found = shutil.which("kubectl")
    if found is None:
        assert os.geteuid() != 0, "no kubectl: deploy/kubectl.sh installs it"
        pytest.skip("needs kubectl: deploy/kubectl.sh installs it, as root on Debian")
    return found


@functools.cache
def rendered(place: str) -> tuple[Json, ...]:
    """The objects of a kustomization, as it is after a warning-free run."""
    done = subprocess.run(
        [kubectl(), "kustomize", str(DEPLOY / place)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return tuple(yaml.safe_load_all(done.stdout))


def of_kind(objects: "tuple[Json, ...]", kind: str) -> Json:
    """The one object of a kind."""
    (found,) = [value for value in objects if value["kind"] == kind]
    return found


def config_of(objects: "tuple[Json, ...]", directory: Path) -> Path:
    """Write the configuration file that the pods mount."""
    pod = of_kind(objects, "DaemonSet")["spec"]["template"]["spec"]
    (name,) = [v["configMap"]["name"] for v in pod["volumes"] if v["name"] == "config"]
    (data,) = [o["data"] for o in objects if o["metadata"]["name"] == name]
    path = directory / "config.yaml"
    path.write_text(data["config.yaml"])
    return path


def check_schema(value: Json) -> None:
    """Check an object by the API's models, unknown fields included. Raises ValueError.

    They are those of the package kubernetes, generated from the API server's own OpenAPI.
    """
    import kubernetes.client

    model: Any = getattr(kubernetes.client, f"V1{value['kind']}")
    assert value["apiVersion"].endswith("v1")
    model.model_validate(value)
