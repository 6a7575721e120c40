"""That the inspection of the other tests sees what is wrong."""

from __future__ import annotations

import pytest

from tests.monitoring.expressions import Inspection

METRICS = {"jobs_total": ["type"], "wait_bucket": ["type", "le"], "info": ["name"]}


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("rate(job_total[5m])", "there is no metric job_total"),
        ('jobs_total{kind="a"}', "no label kind"),
        ("sum by (kind) (jobs_total)", "no label kind"),
        ("sum by (type) (sum by (job) (jobs_total))", "no label type"),
        ("histogram_quantile(0.5, sum by (type) (rate(wait_bucket[5m])))", "no label le"),
        ("jobs_total * on (job, type) group_left (name) info", "no label type"),
        ("jobs_total * on (job) group_left (kind) info", "no label kind"),
        ('label_replace(jobs_total, "a", "$1", "b", "(.*)")', "no label b"),
        ("sum(max_over_time(nothing[5m:1m]))", "there is no metric nothing"),
    ],
)
def test_what_is_not_there_is_noticed(expression: str, complaint: str) -> None:
    inspection = Inspection(METRICS)
    inspection.labels(expression)
    assert len(inspection.complaints) == 1
    assert complaint in inspection.complaints[0]


@pytest.mark.parametrize(
    ("expression", "labels"),
    [
        ('rate(jobs_total{type="a", job="b"}[5m])', {"type", "job", "instance"}),
        ("sum(jobs_total)", set[str]()),
        ("histogram_quantile(0.5, sum by (le, type) (rate(wait_bucket[5m]))) > 1", {"type"}),
        ("jobs_total * on (job, instance) group_left (name) info", {"type", "job", "instance", "name"}),
        ("sum by (job) (jobs_total) and on (job) info", {"job"}),
        ('label_replace(info, "a", "$1", "name", "(.*)")', {"a", "name", "job", "instance"}),
        ("absent(info)", set[str]()),
    ],
)
def test_the_labels_of_a_result_are_known(expression: str, labels: set[str]) -> None:
    inspection = Inspection(METRICS)
    assert inspection.labels(expression) == labels
    assert inspection.complaints == []
