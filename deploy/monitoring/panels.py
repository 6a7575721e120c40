"""How the panels of the dashboard look in Grafana's classic schema, and how they lie beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any, Final

Json = dict[str, Any]
Query = tuple[str, str]
"""A PromQL expression, and the legend of what it yields."""

SOURCE: Final[Json] = {"type": "prometheus", "uid": "${datasource}"}
WIDTH: Final = 24
"""Of Grafana's grid."""

_OWN: Final = '{job=~"$job", instance=~"$instance"'


def _panel(kind: str, title: str, unit: str, queries: Sequence[Query], *, width: int, height: int, note: str) -> Json:
    return {
        "type": kind,
        "title": title,
        "description": note,
        "datasource": SOURCE,
        "gridPos": {"w": width, "h": height},
        "targets": [
            {
                "refId": ascii_uppercase[n],
                "datasource": SOURCE,
                "expr": expression.replace("{own", _OWN),
                "legendFormat": legend,
            }
            for n, (expression, legend) in enumerate(queries)
        ],
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "options": {},
    }


def stat(title: str, unit: str, expression: str, *, warn: float | None = None, note: str = "") -> Json:
    """Make a panel of one number; from ``warn`` on it is orange."""
    panel = _panel("stat", title, unit, [(expression, title)], width=3, height=4, note=note)
    steps: list[Json] = [{"color": "text", "value": None}]
    if warn is not None:
        steps = [{"color": "green", "value": None}, {"color": "orange", "value": warn}]
    panel["fieldConfig"]["defaults"] |= {
        "decimals": 0 if unit == "none" else 1,
        "noValue": "-",
        "thresholds": {"mode": "absolute", "steps": steps},
    }
    panel["options"] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
    return panel


def graph(
    title: str, unit: str, *queries: Query, width: int = 8, stack: bool = False, bars: bool = False, note: str = ""
) -> Json:
    """Make a panel of lines over time, of areas that lie on each other (``stack``), or of bars, for rare events."""
    panel = _panel("timeseries", title, unit, queries, width=width, height=8, note=note)
    panel["fieldConfig"]["defaults"] |= {
        "min": 0,
        "custom": {
            "drawStyle": "bars" if bars else "line",
            "lineWidth": 1,
            "fillOpacity": 40 if stack or bars else 8,
            "showPoints": "never" if bars else "auto",
            "stacking": {"mode": "normal" if stack or bars else "none", "group": "A"},
        },
    }
    panel["options"] = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return panel


def timeline(title: str, query: Query, states: Mapping[str, str], *, note: str = "") -> Json:
    """Make a panel of bars that change their colour with a state; ``states`` are names and colours, 1 the first."""
    panel = _panel("state-timeline", title, "none", [query], width=WIDTH, height=7, note=note)
    panel["fieldConfig"]["defaults"]["custom"] = {"fillOpacity": 80, "lineWidth": 0}
    panel["options"] = {"mergeValues": True, "showValue": "never", "rowHeight": 0.8, "legend": {"showLegend": True}}
    return named(panel, [(n, state, color) for n, (state, color) in enumerate(states.items(), 1)])


def table(title: str, expression: str, columns: Mapping[str, str], *, note: str = "") -> Json:
    """Make a table of what is true now; ``columns`` are labels, or ``Value``, and what stands above them."""
    panel = _panel("table", title, "none", [(expression, title)], width=WIDTH, height=6, note=note)
    panel["targets"][0] |= {"format": "table", "instant": True}
    options = {
        "excludeByName": {"Time": True},
        "indexByName": {name: n for n, name in enumerate(columns)},
        "renameByName": dict(columns),
    }
    panel["transformations"] = [{"id": "organize", "options": options}]
    return panel


def named(panel: Json, names: Sequence[tuple[int, str, str]]) -> Json:
    """Give values of a panel a name and a colour each."""
    options = {str(value): {"text": text, "color": color, "index": n} for n, (value, text, color) in enumerate(names)}
    panel["fieldConfig"]["defaults"]["mappings"] = [{"type": "value", "options": options}]
    return panel


def layout(rows: Sequence[tuple[str, Sequence[Json]]]) -> list[Json]:
    """Set the panels of each row side by side until a line is full, and number all."""
    panels: list[Json] = []
    y = 0
    for title, members in rows:
        header: Json = {"type": "row", "title": title, "collapsed": False, "panels": []}
        panels.append(header | {"gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1}})
        x, y, height = 0, y + 1, 0
        for panel in members:
            place = panel["gridPos"]
            if x + place["w"] > WIDTH:
                x, y, height = 0, y + height, 0
            place |= {"x": x, "y": y}
            x, height = x + place["w"], max(height, place["h"])
            panels.append(panel)
        y += height
    return [{"id": n} | panel for n, panel in enumerate(panels, 1)]


def source(name: str, label: str) -> Json:
    """Make the variable that says which Prometheus is asked."""
    return {"name": name, "label": label, "type": "datasource", "query": "prometheus", "refresh": 1}


def choice(name: str, label: str, query: str) -> Json:
    """Make a variable above the dashboard: one or more values of a label, or all."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": "A"},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }
