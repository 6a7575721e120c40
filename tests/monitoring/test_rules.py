from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.monitoring.expressions import Inspection
from velesio_worker.core.metrics import FAULTS
from velesio_worker.core.settings import Settings
from velesio_worker.wire.errors import JobError

ROOT: Final = Path(__file__).parents[2]
RUNBOOK: Final = "docs/operate/runbook.md"
SEVERITIES: Final = {"critical", "warning", "info"}

CLIENTS_FAULT: Final = {
    *("bad_job", "unknown_type", "too_large", "expired", "context_exceeded"),
    *("no_worker", "no_capacity"),  # the job names a worker or a model that cannot take it
}
CAPITALS: Final = {"HEALTHCHECK", "SIGKILL", "SLOWLOG"}
"""Words in capitals that are no settings."""


def run(promtool: Path, *arguments: str, folder: Path) -> str:
    done = subprocess.run([promtool, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def outcomes(expression: str) -> set[str]:
    found = re.search(r'outcome!~"([^"]+)"', expression)
    assert found, expression
    return set(found.group(1).split("|"))


def anchors(page: Path) -> set[str]:
    """The anchors of a Markdown page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_promtool_accepts_the_rules_and_the_example_that_loads_them(promtool: Path, folder: Path) -> None:
    run(promtool, "check", "rules", "rules.yaml", folder=folder)
    run(promtool, "check", "config", "prometheus.yaml", folder=folder)


def test_every_alert_fires_in_its_case_and_is_silent_in_the_healthy_one(promtool: Path, folder: Path) -> None:
    run(promtool, "test", "rules", "rules.test.yaml", folder=folder)


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_is_silent(
    alerts: list[dict[str, Any]], folder: Path
) -> None:
    cases = yaml.safe_load((folder / "rules.test.yaml").read_text())["tests"]
    checks = [check for case in cases for check in case["promql_expr_test"]]
    for alert in alerts:
        name = f'alertname="{alert["alert"]}"'
        verdicts = {bool(check["exp_samples"]) for check in checks if name in check["expr"]}
        assert verdicts == {True, False}, alert["alert"]


def test_every_expression_asks_only_for_what_a_worker_has(inspection: Inspection, rules: list[dict[str, Any]]) -> None:
    for rule in rules:
        inspection.labels(rule["expr"])
    assert inspection.complaints == []


def test_what_annotations_name_is_a_label_of_the_alert(inspection: Inspection, alerts: list[dict[str, Any]]) -> None:
    for alert in alerts:
        named = set(re.findall(r"\$labels\.(\w+)", " ".join(alert["annotations"].values())))
        assert named <= inspection.labels(alert["expr"]), alert["alert"]


def test_every_alert_says_how_bad_it_is_what_it_is_and_what_to_do(alerts: list[dict[str, Any]]) -> None:
    assert len({alert["alert"] for alert in alerts}) == len(alerts)
    for alert in alerts:
        assert alert["labels"]["severity"] in SEVERITIES, alert["alert"]
        assert set(alert["annotations"]) == {"summary", "description", "runbook"}, alert["alert"]
        assert all(alert["annotations"].values()), alert["alert"]


def test_every_alert_leads_to_its_entry_in_the_runbook(alerts: list[dict[str, Any]]) -> None:
    places = anchors(ROOT / RUNBOOK)
    for alert in alerts:
        anchor = alert["alert"].lower()
        assert alert["annotations"]["runbook"] == f"{RUNBOOK}#{anchor}"
        assert anchor in places, alert["alert"]


def test_the_runbook_has_no_entry_of_an_alert_that_is_gone(alerts: list[dict[str, Any]]) -> None:
    entries = re.findall(r"^## (Velesio\w+)$", (ROOT / RUNBOOK).read_text(), re.MULTILINE)
    assert sorted(entries) == sorted(alert["alert"] for alert in alerts)


def test_log_actions_and_settings_in_descriptions_exist(alerts: list[dict[str, Any]]) -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    settings = {name.upper() for name in Settings.model_fields}
    for alert in alerts:
        text = alert["annotations"]["description"]
        for action in re.findall(r"`([a-z]+(?:_[a-z]+)+)`", text):
            assert f'"{action}"' in sources, (alert["alert"], action)
        assert set(re.findall(r"\b[A-Z][A-Z_]{3,}\b", text)) <= settings | CAPITALS, alert["alert"]


def test_every_error_code_is_judged_to_be_the_clients_fault_or_the_services() -> None:
    codes = {kind.code for kind in JobError.__subclasses__()}
    assert codes == CLIENTS_FAULT | set(FAULTS)


@pytest.mark.parametrize(
    ("record", "beside"),
    [
        ("job:velesio_jobs_judged:increase10m", {"cancelled"}),
        ("job:velesio_jobs_failed:increase10m", {"cancelled", "done"}),
    ],
)
def test_only_the_services_faults_count_as_failures(record: str, beside: set[str], rules: list[dict[str, Any]]) -> None:
    expression = next(rule["expr"] for rule in rules if rule.get("record") == record)
    assert outcomes(expression) == CLIENTS_FAULT | beside


def test_the_dashboard_judges_as_the_alerts_do(dashboard: dict[str, Any]) -> None:
    panel = next(panel for panel in dashboard["panels"] if panel["title"] == "Failed jobs")
    failed, judged = re.findall(r'outcome!~"([^"]+)"', panel["targets"][0]["expr"])[:2]
    assert set(failed.split("|")) == CLIENTS_FAULT | {"cancelled", "done"}
    assert set(judged.split("|")) == CLIENTS_FAULT | {"cancelled"}
