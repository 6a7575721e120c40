"""What is counted and measured: one process, one registry, read by Prometheus at ``/metrics``.

Names that OpenTelemetry's conventions for generative AI have are theirs
(https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/), with their buckets and some longer ones. All
others begin with ``velesio_``. What is only looked up when somebody asks (slots, memory, queues) is in ``gauges.py``.

Whatever happens for every token is counted by a :class:`Tally`, which costs one addition, or a :class:`Spread`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final, cast

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from velesio_worker.wire.jobs import PRIORITIES, JobType

REGISTRY: Final = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

UNKNOWN: Final = "unknown"
"""The type of a job whose type could not be read."""

OTHER: Final = "other"
MOST_MODELS: Final = 50
"""So many models are told apart; further ones count as ``other``, since each costs every scrape."""

_FIRST_TOKEN_BUCKETS: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0, 160.0, 320.0, 640.0),
)
_PER_TOKEN_BUCKETS: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0)
_DURATION_BUCKETS: Final = (
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
    *(163.84, 327.68, 655.36, 1310.72),
)
_WAIT_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
_LOAD_BUCKETS: Final = (0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 300.0, 600.0)
_DELAY_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)
_BATCH_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_LAG_BUCKETS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)

_OPERATIONS: Final[Mapping[str, str]] = {
    JobType.COMPLETION: "text_completion",
    JobType.INFILL: "text_completion",
    JobType.CHAT_COMPLETION: "chat",
    JobType.EMBEDDING: "embeddings",
}

FAULTS: Final = (
    *("engine_crashed", "engine_error", "engine_stalled", "engine_unavailable"),
    *("internal", "timeout", "out_of_memory", "worker_lost"),
)
"""The codes of what is the service's fault, not the client's."""


class Tally(Collector):
    """A counter for what happens very often: ``tally.count += 1``, by the event loop alone.

    Args:
        name: the metric's name, without ``_total``.
        documentation: what is counted.
    """

    def __init__(self, name: str, documentation: str) -> None:
        self._name = name
        self._documentation = documentation
        self.count = 0
        REGISTRY.register(self)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield the metric as it stands."""
        yield CounterMetricFamily(self._name, self._documentation, value=self.count)


class Spread(Collector):
    """A histogram of what happens very often: one search among its buckets and two additions, by the event loop alone.

    Args:
        name: the metric's name.
        documentation: what is measured.
        buckets: their upper bounds, in order.
    """

    def __init__(self, name: str, documentation: str, buckets: Sequence[float]) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = (*buckets, math.inf)
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0
        REGISTRY.register(self)

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the metric as it stands."""
        buckets = [
            ("+Inf" if bound == math.inf else str(float(bound)), count)
            for bound, count in zip(self._bounds, accumulate(self._counts), strict=True)
        ]
        yield HistogramMetricFamily(self._name, self._documentation, buckets=buckets, sum_value=self._sum)


def _counter(name: str, documentation: str, *labels: str) -> Counter:
    return Counter(name, documentation, labels, registry=REGISTRY)


def _histogram(name: str, documentation: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
    return Histogram(name, documentation, labels, buckets=buckets, registry=REGISTRY)


_GEN_AI: Final = ("gen_ai_operation_name", "gen_ai_response_model")

FIRST_TOKEN: Final = _histogram(
    "gen_ai_server_time_to_first_token_seconds",
    "From the claim of a job to its first token; jobs that were done at the first attempt, not from the cache.",
    _FIRST_TOKEN_BUCKETS,
    *_GEN_AI,
)
PER_TOKEN: Final = _histogram(
    "gen_ai_server_time_per_output_token_seconds",
    "Time per token after the first, of jobs that were done.",
    _PER_TOKEN_BUCKETS,
    *_GEN_AI,
)
DURATION: Final = _histogram(
    "gen_ai_server_request_duration_seconds",
    "From the claim of a job to its terminal entry; error_type is empty, or the error's code.",
    _DURATION_BUCKETS,
    *_GEN_AI,
    "error_type",
)

JOBS: Final = _counter(
    "velesio_jobs",
    "Jobs that this worker ended, with a result and a terminal entry. outcome: done, cancelled or the error's code.",
    *("type", "outcome"),
)
QUEUE_WAIT: Final = _histogram(
    "velesio_job_queue_wait_seconds",
    "From a job's created_at, else from its intake by this worker, to its claim; first attempts only.",
    _WAIT_BUCKETS,
    "type",
)
PROMPT_TOKENS: Final = _counter("velesio_prompt_tokens", "Tokens of prompts, by the usage in results.", "type", "model")
CACHED_TOKENS: Final = _counter(
    "velesio_prompt_tokens_cached",
    "Tokens of prompts that the engine had read for earlier jobs, and did not read again.",
    *("type", "model"),
)
WARM: Final = _counter(
    "velesio_warm_jobs",
    "Jobs that were taken before others since this worker's engine should have read what their session begins with. "
    "outcome: hit, it held half of the prompt at least, or miss.",
    "outcome",
)
OUTPUT_TOKENS: Final = _counter(
    "velesio_output_tokens", "Tokens that were made, by the usage in results.", "type", "model"
)
PRIORITY_WAIT: Final = _histogram(
    "velesio_priority_queue_wait_seconds",
    "As velesio_job_queue_wait_seconds, of text and image jobs, by their priority.",
    _WAIT_BUCKETS,
    *("kind", "priority"),
)
PRIORITY_TOKENS: Final = _counter(
    "velesio_priority_tokens",
    "Tokens that were served, prompts and answers, by the priority of their jobs.",
    "priority",
)
IMAGES: Final = _counter("velesio_images", "Images that were made.", "type", "model")
RESUMED: Final = _counter(
    "velesio_jobs_resumed", "Later attempts of jobs, by how they went on: continue or restart.", "mode"
)
HANDED_BACK: Final = _counter("velesio_jobs_handed_back", "Attempts that were given back to the queue.", "type")
FENCED: Final = _counter("velesio_jobs_fenced", "Attempts that found their job owned by another.")
REAPED_WORKERS: Final = _counter("velesio_workers_reaped", "Lost workers whose jobs this one put back.")
REAPED_JOBS: Final = _counter("velesio_jobs_reaped", "Jobs of lost workers that this one put back.")
DEAD_LETTERS: Final = _counter("velesio_dead_letters", "Payloads that this worker moved to the dead letters.")
CACHE: Final = _counter("velesio_cache_lookups", "Lookups in the prompt cache. result: hit or miss.", "result")
RECONNECTS: Final = _counter("velesio_redis_reconnects", "How often Redis was away and came back.")

PUBLISH_DELAY: Final = Spread(
    "velesio_publish_delay_seconds",
    "Age of the oldest entry of a flush when Redis has acknowledged it.",
    _DELAY_BUCKETS,
)
PUBLISH_BATCH: Final = Spread("velesio_publish_batch_entries", "Entries of one flush to Redis.", _BATCH_BUCKETS)
STREAM_ENTRIES: Final = Tally("velesio_stream_entries", "Stream entries that Redis has acknowledged.")
SSE_EVENTS: Final = Tally("velesio_sse_events", "Events that engines sent for running jobs.")

STARTS: Final = _counter("velesio_engine_starts", "Engines that became ready.", "kind")
RESTARTS: Final = _counter("velesio_engine_restarts", "Engines that were lost while they served.", "kind")
START_FAILURES: Final = _counter("velesio_engine_start_failures", "Engines that did not become ready.", "kind")
LOAD: Final = _histogram(
    "velesio_engine_load_seconds",
    "From the start of an engine, or of an exchange of its model, to ready.",
    _LOAD_BUCKETS,
    "kind",
)
LOOP_LAG: Final = _histogram(
    "velesio_event_loop_lag_seconds", "How late the event loop is, looked at twice a second.", _LAG_BUCKETS
)

for _priority in PRIORITIES:
    PRIORITY_TOKENS.labels(_priority)
for _mode in ("continue", "restart"):  # from 0 on: a counter that begins at 1 has never risen
    RESUMED.labels(_mode)
for _result in ("hit", "miss"):
    CACHE.labels(_result)

_models: Final[set[str]] = set()


def model_label(model: str | None) -> str:
    """Return the label value of a model; the number of different ones is bounded."""
    if not model:
        return UNKNOWN
    if model not in _models:
        if len(_models) >= MOST_MODELS:
            return OTHER
        _models.add(model)
    return model


def count_engines(kind: str) -> None:
    """Have the counters of an engine begin at 0; ``kind`` is that of its jobs."""
    for counter in (STARTS, RESTARTS, START_FAILURES):
        counter.labels(kind)


def count_jobs(types: Iterable[JobType]) -> None:
    """Have the counters of jobs begin at 0, for each way of ending that says something of the worker that runs them."""
    for job_type in types:
        for outcome in ("done", *FAULTS):
            JOBS.labels(job_type, outcome)


def operation_label(job_type: str) -> str:
    """Return what OpenTelemetry calls a type of job; the type itself where it has no name for it."""
    return _OPERATIONS.get(job_type, job_type)


def count_usage(job_type: str, model: str | None, result: Mapping[str, Any], priority: str = "normal") -> None:
    """Count the tokens, or images, of a job's result."""
    labels = (job_type, model_label(model))
    usage: Any = result.get("usage")
    if isinstance(usage, dict):
        PROMPT_TOKENS.labels(*labels).inc(figure(usage, "prompt_tokens"))
        OUTPUT_TOKENS.labels(*labels).inc(figure(usage, "completion_tokens"))
        CACHED_TOKENS.labels(*labels).inc(figure(result.get("timings"), "cache_n"))
        served = figure(usage, "prompt_tokens") + figure(usage, "completion_tokens")
        PRIORITY_TOKENS.labels(priority).inc(served)
    images: Any = result.get("images")
    if isinstance(images, list) and images:
        IMAGES.labels(*labels).inc(len(cast("list[object]", images)))


def figure(usage: Any, name: str) -> int:  # noqa: ANN401 (any JSON)
    """Return a number of tokens out of a result's ``usage``; 0 for what is none."""
    value: Any = cast("dict[str, Any]", usage).get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and value > 0 else 0
