from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from tests.monitoring.expressions import Inspection

SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
WIDTH: Final = 24
OF_GRAFANA: Final = {"__rate_interval": "1m"}


@pytest.fixture
def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """The panels that show something."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


@pytest.fixture
def variables(dashboard: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {variable["name"]: variable for variable in dashboard["templating"]["list"]}


def filled(expression: str, variables: dict[str, Any]) -> str:
    """The expression as Grafana sends it with everything chosen."""
    values = OF_GRAFANA | dict.fromkeys(variables, ".*")
    return re.sub(r"\$(\w+)", lambda match: values[match.group(1)], expression)


def test_the_json_is_what_the_program_writes(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-B", "dashboard.py"], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stdout == (folder / "grafana-dashboard.json").read_text()


def test_it_can_be_imported_anywhere_and_again(dashboard: dict[str, Any]) -> None:
    assert dashboard["id"] is None
    assert dashboard["uid"] == "velesio-worker"
    assert dashboard["schemaVersion"] >= 39
    assert dashboard["refresh"]
    assert dashboard["time"] == {"from": "now-3h", "to": "now"}


def test_whoever_looks_chooses_the_prometheus(
    panels: list[dict[str, Any]], variables: dict[str, dict[str, Any]]
) -> None:
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    for panel in panels:
        assert panel["datasource"] == SOURCE, panel["title"]
        assert panel["targets"]
        assert all(target["datasource"] == SOURCE for target in panel["targets"]), panel["title"]
    assert all(variable["datasource"] == SOURCE for variable in variables.values() if variable["type"] == "query")


def test_every_panel_has_a_number_and_a_title_of_its_own(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    for panel in panels:
        names = [target["refId"] for target in panel.get("targets", [])]
        assert len(set(names)) == len(names), panel["title"]


def test_no_panel_lies_on_another_or_beyond_the_edge(dashboard: dict[str, Any]) -> None:
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= WIDTH, panel["title"]
        assert place["y"] >= 0
        assert place["h"] > 0
    for one, other in itertools.combinations(dashboard["panels"], 2):
        a, b = one["gridPos"], other["gridPos"]
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or above, (one["title"], other["title"])


def test_every_panel_has_a_unit_and_every_line_a_legend(panels: list[dict[str, Any]]) -> None:
    for panel in panels:
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]


def test_every_query_and_legend_asks_only_for_what_a_worker_has(
    panels: list[dict[str, Any]], variables: dict[str, Any], inspection: Inspection
) -> None:
    for panel in panels:
        for target in panel["targets"]:
            labels = inspection.labels(filled(target["expr"], variables))
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels, panel["title"]
    assert inspection.complaints == []


def test_every_variable_offers_the_values_of_a_label_that_a_worker_has(
    variables: dict[str, dict[str, Any]], inspection: Inspection
) -> None:
    for variable in variables.values():
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert found, variable["name"]
            assert found.group(2) in inspection.labels(filled(found.group(1), variables))
    assert inspection.complaints == []


def test_the_queue_is_counted_once_however_many_workers_report_it(panels: list[dict[str, Any]]) -> None:
    shared = re.compile(
        r"velesio_(?:queue_jobs|queue_oldest_seconds|priority_jobs|priority_oldest_seconds|dead_letters_kept|workers)\{"
    )
    for panel in panels:
        for target in panel["targets"]:
            for found in shared.finditer(target["expr"]):
                assert re.search(r"max by \([\w, ]+\) \($", target["expr"][: found.start()]), panel["title"]
