"""The instruments: what they are called, what their labels may be, what they cost."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.figures import figure, rise
from velesio_worker.core import metrics
from velesio_worker.core.metrics import (
    MOST_MODELS,
    OTHER,
    REGISTRY,
    UNKNOWN,
    Tally,
    count_usage,
    model_label,
    operation_label,
)
from velesio_worker.wire.errors import JobError
from velesio_worker.wire.jobs import JobType

NEW: Mapping[str, str] = {"type": "completion", "model": "m-of-this-test"}


@pytest.fixture(autouse=True)
def _no_models_yet(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    monkeypatch.setattr(metrics, "_models", set[str]())


@pytest.fixture
def tally() -> Iterator[Tally]:
    made = Tally("velesio_things_of_a_test", "Things.")
    yield made
    REGISTRY.unregister(made)


def test_a_tally_is_a_counter_whose_count_anybody_may_add_to(tally: Tally) -> None:
    assert REGISTRY.get_sample_value("velesio_things_of_a_test_total") == 0
    tally.count += 3
    tally.count += 1
    assert REGISTRY.get_sample_value("velesio_things_of_a_test_total") == 4
    assert b"# TYPE velesio_things_of_a_test_total counter" in generate_latest(REGISTRY)


def test_what_happens_for_every_token_costs_next_to_nothing(tally: Tally) -> None:
    """A tenth of a microsecond; a token costs some hundred of them, and a slow machine may take ten times as long."""
    count = 100_000
    began = time.process_time()
    for _ in range(count):
        tally.count += 1
    assert (time.process_time() - began) / count < 1e-6


def test_models_are_told_apart_up_to_a_number() -> None:
    names = [f"model-{number}" for number in range(10_000)]
    labels = [model_label(name) for name in names]
    assert labels[:MOST_MODELS] == names[:MOST_MODELS]
    assert set(labels[MOST_MODELS:]) == {OTHER}
    assert [model_label(name) for name in names[:MOST_MODELS]] == names[:MOST_MODELS], "those that are known stay so"
    assert len(set(labels)) == MOST_MODELS + 1 == 51


@pytest.mark.parametrize("model", [None, ""])
def test_a_model_that_is_not_known_takes_no_place(model: str | None) -> None:
    assert model_label(model) == UNKNOWN
    for number in range(MOST_MODELS):
        assert model_label(f"model-{number}") == f"model-{number}"


def test_ten_thousand_models_make_no_more_series_than_fifty_one() -> None:
    before = _series("velesio_output_tokens_total")
    for number in range(10_000):
        count_usage("completion", f"many-{number}", {"usage": {"prompt_tokens": 1, "completion_tokens": 1}})
    assert _series("velesio_output_tokens_total") - before <= MOST_MODELS + 1
    assert figure("velesio_output_tokens_total", type="completion", model=OTHER) >= 10_000 - MOST_MODELS


def _series(name: str) -> int:
    text = generate_latest(REGISTRY).decode()
    return sum(sample.name == name for one in text_string_to_metric_families(text) for sample in one.samples)


def test_operations_are_called_as_opentelemetry_calls_them() -> None:
    assert {job_type.value: operation_label(job_type) for job_type in JobType} == {
        **{job_type.value: job_type.value for job_type in JobType},
        "completion": "text_completion",
        "infill": "text_completion",
        "chat_completion": "chat",
        "embedding": "embeddings",
    }


@pytest.mark.parametrize(
    ("usage", "prompt", "output"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 3}, 7, 3),
        ({"prompt_tokens": 7, "total_tokens": 7}, 7, 0),
        ({"prompt_tokens": None, "completion_tokens": None}, 0, 0),
        ({}, 0, 0),
        (None, 0, 0),
        ([], 0, 0),
        ("7", 0, 0),
    ],
)
def test_tokens_are_counted_as_far_as_they_are_told(usage: Any, prompt: int, output: int) -> None:
    with rise("velesio_prompt_tokens_total", **NEW) as prompts, rise("velesio_output_tokens_total", **NEW) as outputs:
        count_usage(NEW["type"], NEW["model"], {"usage": usage})
    assert (prompts.by, outputs.by) == (prompt, output)


@pytest.mark.parametrize("figures", [-1, "8", [8], {"a": 1}])
def test_what_a_strange_server_says_of_its_tokens_does_no_harm(figures: Any) -> None:
    """Whoever counts does so at the end of a job, whose end it must not spoil."""
    with rise("velesio_output_tokens_total", **NEW) as outputs:
        count_usage(NEW["type"], NEW["model"], {"usage": {"prompt_tokens": figures, "completion_tokens": 2}})
        count_usage(NEW["type"], NEW["model"], {"usage": {"prompt_tokens": 2, "completion_tokens": figures}})
    assert outputs.by == 2


@pytest.mark.parametrize(("images", "count"), [(["a", "b"], 2), ([], 0), (None, 0), ("abc", 0)])
def test_images_are_counted(images: Any, count: int) -> None:
    labels = {"type": "txt2img", "model": "m-of-this-test"}
    with rise("velesio_images_total", **labels) as made:
        count_usage("txt2img", "m-of-this-test", {"images": images})
    assert made.by == count


def test_what_can_be_told_apart_from_the_start_begins_at_0() -> None:
    text = generate_latest(REGISTRY).decode()
    for sample in ('velesio_cache_lookups_total{result="hit"}', 'velesio_jobs_resumed_total{mode="continue"}'):
        assert sample in text
    metrics.count_engines("kind-of-a-test")
    for name in ("starts", "restarts", "start_failures"):
        assert REGISTRY.get_sample_value(f"velesio_engine_{name}_total", {"kind": "kind-of-a-test"}) == 0


def test_every_metric_is_documented_and_named_as_the_others() -> None:
    families = list(text_string_to_metric_families(generate_latest(REGISTRY).decode()))
    assert len(families) > 20
    for family in families:
        assert family.name.startswith(("velesio_", "gen_ai_server_", "process_")), family.name
        assert family.documentation


def test_the_outcomes_of_jobs_are_a_closed_set() -> None:
    codes = {kind.code for kind in _all(JobError)} - {""}
    assert all(code.isidentifier() and code.islower() for code in codes)
    assert len(codes) < 20


def _all(kind: type[JobError]) -> set[type[JobError]]:
    return {kind}.union(*(_all(child) for child in kind.__subclasses__()))


def test_a_program_that_imports_the_client_keeps_its_own_metrics_as_they_were() -> None:
    script = """
import prometheus_client, velesio_worker.client.client
registry = prometheus_client.CollectorRegistry()
prometheus_client.Counter("mine", "Mine.", registry=registry).inc()
print(prometheus_client.generate_latest(registry).decode())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "mine_total 1.0" in done.stdout
    assert "mine_created" in done.stdout


def test_what_an_alert_looks_at_begins_at_0() -> None:
    """A counter that begins at 1 has never risen."""
    metrics.count_jobs([JobType.RERANK])
    samples = {
        sample.labels["outcome"]: sample.value
        for family in text_string_to_metric_families(generate_latest(REGISTRY).decode())
        for sample in family.samples
        if sample.name == "velesio_jobs_total" and sample.labels["type"] == "rerank"
    }
    assert samples.items() >= dict.fromkeys(("done", *metrics.FAULTS), 0.0).items()
    assert "timeout" in metrics.FAULTS
