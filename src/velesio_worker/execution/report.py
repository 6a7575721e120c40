"""What a run leaves beside its result: a line in the log, and its share of the metrics."""

from __future__ import annotations

import logging
import re
import time
from typing import Any, Final

from velesio_worker.core import metrics
from velesio_worker.core.logs import get_logger
from velesio_worker.execution.run import Run
from velesio_worker.wire.errors import (
    EngineFailedError,
    EngineUnavailableError,
    FencedError,
    JobError,
    ModelUnavailableError,
    StreamLostError,
)
from velesio_worker.wire.events import Done
from velesio_worker.wire.jobs import PRIVATE, Job

_LONGEST_TEXT: Final = 10_000
"""Longer texts are cut in the log, in characters: images are such."""

_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""https://www.w3.org/TR/trace-context/#traceparent-header"""

log = get_logger(__name__)


def report(run: Run, *, log_prompts: bool) -> None:
    """Log how a run ended, in one line, and count it; with ``LOG_LEVEL=debug`` say how long each stage took.

    Prompts and answers stand in the log only with ``log_prompts`` (``LOG_PROMPTS``).
    """
    fields = _trace(run.job) | _fields(run)
    if run.mode not in {"", "fresh"} and run.job.kind is run.job.kind.engine:
        metrics.RESUMED.labels(run.mode).inc()
    if run.stop.ending.cancelled_caught:
        text, slot = "Redis did not answer in time: the job stays in its slot", run.claim.held.slot.name
        log.error(text, action="job_left", slot=slot, **fields)
        return
    _say(run, fields)
    if log.isEnabledFor(logging.DEBUG):
        log.debug("stages of a job", action="job_stages", **_trace(run.job), **_stages(run))
    if log_prompts:
        _quote(run)
    if run.ended and isinstance(run.outcome, Done | JobError):
        _measure(run, run.outcome)


def _say(run: Run, fields: dict[str, Any]) -> None:
    match run.outcome:
        case Done() if not run.ended:
            log.info("the job was done, but is another attempt's", action="job_superseded", **fields)
        case Done(finish_reason=finish_reason):
            cached = {"cached": True} if run.answer.cached else {}
            log.info("job done", action="job_done", finish_reason=finish_reason, **cached, **fields)
        case None:
            log.info("job handed back", action="job_handed_back", **fields)
        case FencedError():
            log.warning("another attempt owns the job", action="job_fenced", **fields)
        case StreamLostError() as error:
            log.warning(f"job handed back: {error}", action="job_handed_back", **fields)
        case JobError() as error:
            text, action = _told(run, error)
            log.warning(f"{text}: {error.public}", action=action, **fields, code=error.code)


def _told(run: Run, error: JobError) -> tuple[str, str]:
    """What an error came to, for people and as an ``action``."""
    if isinstance(error, EngineFailedError | ModelUnavailableError):
        return "no engine for the job", "job_without_engine"
    if isinstance(error, EngineUnavailableError) or run.goes_on:
        return "job handed back", "job_handed_back"
    if not run.ended:
        return "the job failed, but this attempt does not end it", "job_superseded"
    return "job failed", "job_failed"


def _trace(job: Job) -> dict[str, str]:
    """The id of the trace that a job with a ``traceparent`` belongs to."""
    found = _TRACEPARENT.fullmatch(job.traceparent or "")
    return {"trace_id": found.group(1)} if found else {}


def _fields(run: Run) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "type": run.job.type.value,
        "duration_ms": _ms(time.monotonic() - run.times.began),
        "tokens": run.answer.tokens,
    }
    if run.model is not None:
        fields["model"] = run.model
    if run.times.first_token_at is not None:
        fields["first_token_ms"] = _ms(run.times.first_token_at - run.times.began)
    return fields


def _stages(run: Run) -> dict[str, int]:
    """How long each stage took, in milliseconds; those that a job did not get to are left out."""
    waited = {} if run.claim.waited is None else {"queued_ms": _ms(run.claim.waited)}
    moments = [
        ("engine_wait_ms", run.times.granted_at),
        ("prompt_ms", run.times.first_token_at),
        ("generation_ms", run.times.made_at),
        ("closing_ms", time.monotonic()),
    ]
    stages: dict[str, int] = {}
    last = run.times.began
    for name, moment in moments:
        if moment is not None:
            stages[name] = _ms(moment - last)
            last = moment
    return waited | stages


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _quote(run: Run) -> None:
    """Log what was asked and what was answered."""
    private = {name: getattr(run.job.parameters, name, None) for name in sorted(PRIVATE)}
    asked = {name: _cut(value) for name, value in private.items() if value is not None}
    fields: dict[str, Any] = {}
    if isinstance(run.outcome, Done):
        fields["answer"] = _cut(run.outcome.result.get("message") or run.outcome.result.get("text"))
    if isinstance(run.outcome, JobError):
        fields["error"] = _cut(str(run.outcome))
    log.info("prompt and answer of a job", action="job_texts", asked=asked, **_trace(run.job), **fields)


def _cut(value: Any) -> Any:  # noqa: ANN401 (any JSON)
    """Return a value as the log shows it."""
    text = value if isinstance(value, str) else repr(value)
    return value if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}… ({len(text)} characters)"


def _measure(run: Run, outcome: Done | JobError) -> None:
    """Count a job that this run ended."""
    operation, model = metrics.operation_label(run.job.type), metrics.model_label(run.model)
    now = time.monotonic()
    error = "" if isinstance(outcome, Done) else outcome.code
    metrics.DURATION.labels(operation, model, error).observe(now - run.times.began)
    if isinstance(outcome, Done) and not run.answer.cached:
        metrics.count_usage(run.job.type, run.model, outcome.result, run.job.priority)
    if isinstance(outcome, Done) and outcome.finish_reason != "cancelled":
        _measure_pace(run, outcome, operation, model)


def _measure_pace(run: Run, done: Done, operation: str, model: str) -> None:
    """Measure how soon tokens came: of answers that were made here, and are whole."""
    first = run.times.first_token_at
    if first is None or run.answer.cached:
        return
    if run.claim.first:
        metrics.FIRST_TOKEN.labels(operation, model).observe(first - run.times.began)
    usage = None if run.answer.before.begun else done.result.get("usage")
    tokens = metrics.figure(usage, "completion_tokens") or run.answer.tokens
    if tokens > 1 and run.times.made_at is not None:
        metrics.PER_TOKEN.labels(operation, model).observe((run.times.made_at - first) / (tokens - 1))
