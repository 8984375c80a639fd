"""deploy/monitoring: alerts that fire when they must, with runbooks; dashboards in order."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
CASES = Path(__file__).with_name("alerts.yaml")
RUNBOOK = ROOT / "docs" / "operations.md"


def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    return found


def groups() -> dict[str, Any]:
    rules: dict[str, Any] = yaml.safe_load((MONITORING / "rules.yaml").read_text())
    assert rules["kind"] == "PrometheusRule"
    spec: dict[str, Any] = rules["spec"]
    return spec


def alerts() -> list[dict[str, Any]]:
    return [rule for group in groups()["groups"] for rule in group["rules"]]


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def rules_file(tmp_path: Path) -> Path:
    """The rules as Prometheus itself reads them: without the operator's frame."""
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(groups()))
    return path


def test_promtool_accepts_the_rules(rules_file: Path) -> None:
    run(promtool(), "check", "rules", "--lint-fatal", str(rules_file))


def test_each_alert_fires_where_it_must_and_only_there(rules_file: Path, tmp_path: Path) -> None:
    cases = tmp_path / "cases.yaml"
    cases.write_text(CASES.read_text().replace("[RULES]", f"[{rules_file}]"))
    run(promtool(), "test", "rules", str(cases))


def test_each_alert_has_a_case_in_which_it_fires() -> None:
    cases = yaml.safe_load(CASES.read_text())
    fired = {
        test["alertname"]
        for case in cases["tests"]
        for test in case["alert_rule_test"]
        if test.get("exp_alerts")
    }
    assert fired == {alert["alert"] for alert in alerts()}


def test_each_alert_has_its_runbook_and_each_runbook_its_alert() -> None:
    headings = re.findall(r"^### (Pyproxy\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(alert["alert"] for alert in alerts())
    for alert in alerts():
        anchor = f"docs/operations.md#{alert['alert'].lower()}"
        assert alert["annotations"]["runbook"] == anchor


def dashboards() -> list[Path]:
    found = sorted((MONITORING / "dashboards").glob("*.json"))
    assert found
    return found


def queries(dashboard: Path) -> list[str]:
    board = json.loads(dashboard.read_text())
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]


@pytest.mark.parametrize("dashboard", dashboards(), ids=lambda path: path.stem)
def test_panels_of_a_dashboard_do_not_overlap(dashboard: Path) -> None:
    board = json.loads(dashboard.read_text())
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)


def documented() -> set[str]:
    """The names of docs/metrics.md, which is held to the code; a histogram's with its parts."""
    rows = re.findall(
        r"^\| `(\w+)` \| (\w+) ", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE
    )
    names = {name for name, _ in rows}
    histograms = {name for name, kind in rows if kind == "histogram"}
    return names | {h + part for h in histograms for part in ("_bucket", "_count", "_sum")}


def test_alerts_and_dashboards_ask_for_metrics_that_there_are() -> None:
    asked = [alert["expr"] for alert in alerts()] + [q for d in dashboards() for q in queries(d)]
    names = {name for query in asked for name in re.findall(r"\b(?:pyproxy|kubeproxy)_\w+", query)}
    assert len(names) > 20
    assert names <= documented()
