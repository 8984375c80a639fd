"""deploy/local grants what `pyproxy local` asks the API server for."""

from pathlib import Path
from typing import Any

import yaml

from pyproxy.source.apiserver import ApiServerSettings, Selection, watch_targets

DIRECTORY = Path(__file__).parents[2] / "deploy" / "local"


def read(name: str) -> Any:
    return yaml.safe_load((DIRECTORY / name).read_text())


def granted() -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in read("role.yaml")["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_all_that_is_watched_may_be_listed_and_watched() -> None:
    targets = watch_targets(ApiServerSettings(selection=Selection(("shop",))))
    needed = {(t.group, t.resource, verb) for t in targets for verb in ("list", "watch")}
    assert needed <= granted()


def test_ports_of_pods_may_be_forwarded_before_and_after_kubernetes_1_35() -> None:
    assert {("", "pods/portforward", "get"), ("", "pods/portforward", "create")} <= granted()


def test_nothing_may_be_changed() -> None:
    verbs = {(resource, verb) for _, resource, verb in granted()}
    assert {v for r, v in verbs if r != "pods/portforward"} == {"list", "watch"}


def test_kustomize_takes_the_role_and_a_binding_of_it() -> None:
    kinds = {read(name)["kind"] for name in read("kustomization.yaml")["resources"]}
    assert kinds == {"ClusterRole", "ClusterRoleBinding"}
    for name in ("everywhere.yaml", "namespace.yaml"):
        assert read(name)["roleRef"]["name"] == read("role.yaml")["metadata"]["name"]
