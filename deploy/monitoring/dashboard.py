"""Writes the Grafana dashboard. Usage: ``python dashboard.py > grafana-dashboard.json``.

Users import the JSON and need nothing of this. What changes is changed here, where a panel is a line or two.
In expressions ``{own}`` stands for the workers that are chosen above the dashboard.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Final

from panels import Json, Query, choice, graph, layout, named, source, stat, table, timeline

CLIENTS_FAULT: Final = "bad_job|unknown_type|too_large|expired|no_worker|no_capacity|context_exceeded"
"""As in rules.yaml: outcomes that say nothing of the service, beside ``cancelled``."""

STATES: Final = {
    "stopped": "#8e8e8e",
    "starting": "#5794f2",
    "ready": "#56a64b",
    "draining": "#b877d9",
    "stopping": "#b8b8b8",
    "backoff": "#ff9830",
    "failed": "#e02f44",
}
"""An engine's states and their colours."""

JOBS: Final = "suffix: jobs/s"
TOKENS: Final = "suffix: tokens/s"
PER_SECOND: Final = "suffix: /s"

FIRST_TOKEN: Final = "gen_ai_server_time_to_first_token_seconds"  # noqa: S105 (a metric)
PER_TOKEN: Final = "gen_ai_server_time_per_output_token_seconds"  # noqa: S105 (a metric)
DURATION: Final = "gen_ai_server_request_duration_seconds"
OF_MODEL: Final = ', gen_ai_response_model=~"$model"'


def _by(labels: str) -> str:
    return f" by ({labels}) " if labels else ""


def _rate(metric: str, by: str = "", match: str = "") -> str:
    return f"sum{_by(by)}(rate({metric}{{own{match}}}[$__rate_interval]))"


def _increase(metric: str, by: str = "") -> str:
    return f"sum{_by(by)}(increase({metric}{{own}}[$__rate_interval]))"


def _quantile(part: float, histogram: str, by: str = "", match: str = "") -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({part:g}, {_rate(f'{histogram}_bucket', labels, match)})"


def _quantiles(
    histogram: str, by: str = "", match: str = "", parts: Sequence[float] = (0.5, 0.95, 0.99)
) -> list[Query]:
    legend = f" {{{{{by}}}}}" if by else ""
    return [(_quantile(part, histogram, by, match), f"p{part * 100:g}{legend}") for part in parts]


def _failed() -> str:
    """The share of the jobs that failed by the service's fault."""
    failed = _rate("velesio_jobs_total", match=f', outcome!~"done|cancelled|{CLIENTS_FAULT}"')
    judged = _rate("velesio_jobs_total", match=f', outcome!~"cancelled|{CLIENTS_FAULT}"')
    return f"({failed} or 0 * {judged}) / ({judged} > 0)"


def _state_numbers() -> str:
    """The number of each engine's state: its place in ``STATES``, from 1 on."""
    states = [f'{n} * velesio_engine_state{{own, state="{state}"}}' for n, state in enumerate(STATES, 1)]
    return f"sum by (instance, kind) ({' or '.join(states)})"


def _at_a_glance() -> list[Json]:
    waiting = "max by (job, list) (velesio_queue_jobs{own})"
    oldest = "max by (job, list) (velesio_queue_oldest_seconds{own})"
    prior = "max by (job, kind, priority) (velesio_priority_jobs{own})"
    first = "max by (job, kind, priority) (velesio_priority_oldest_seconds{own})"
    redis = stat("Redis", "none", "min(velesio_redis_up{own})", note="As the worker sees it that sees it worst.")
    ready = "velesio_worker_ready{own} * on (job, instance) group_left (worker, version) velesio_worker_info{own}"
    columns = {"instance": "instance", "worker": "worker", "version": "version", "job": "scrape job", "Value": "state"}
    workers = table("Workers", ready, columns, note="Those that are scraped.")
    return [
        stat("Workers ready", "none", "sum(velesio_worker_ready{own})", note="Of those that are scraped."),
        stat("Workers alive", "none", "sum(max by (job) (velesio_workers{own}))", note="By their leases in Redis."),
        named(redis, [(0, "away", "red"), (1, "up", "green")]),
        stat("Jobs waiting", "none", f"sum({waiting})"),
        stat("Oldest waiting job", "s", f"max({oldest})", warn=60),
        stat("Jobs ended", JOBS, _rate("velesio_jobs_total")),
        stat("Failed jobs", "percentunit", _failed(), warn=0.05, note="By the service's fault, not the client's."),
        stat("Tokens made", TOKENS, _rate("velesio_output_tokens_total"), note="Counted when a job ends."),
        graph("Waiting jobs by list", "short", (waiting, "{{job}} {{list}}"), width=12, stack=True),
        graph("Age of the next job by list", "s", (oldest, "{{job}} {{list}}"), width=12),
        graph("Waiting jobs by priority", "short", (prior, "{{job}} {{kind}} {{priority}}"), width=12, stack=True),
        graph("Oldest job by priority", "s", (first, "{{job}} {{kind}} {{priority}}"), width=12),
        named(workers, [(0, "not ready", "orange"), (1, "ready", "green")]),
    ]


def _latency() -> list[Json]:
    by_model = _quantile(0.95, FIRST_TOKEN, "gen_ai_response_model", OF_MODEL)
    wait = _quantiles("velesio_job_queue_wait_seconds", "type", parts=(0.5, 0.95))
    by_priority = _quantiles("velesio_priority_queue_wait_seconds", "priority", parts=(0.5, 0.95))
    took = _quantiles(DURATION, "gen_ai_operation_name", OF_MODEL, parts=(0.5, 0.95))
    return [
        graph("Time to first token", "s", *_quantiles(FIRST_TOKEN, match=OF_MODEL), note="From the claim of a job."),
        graph("Time to first token by model, p95", "s", (by_model, "{{gen_ai_response_model}}")),
        graph("Time per token after the first", "s", *_quantiles(PER_TOKEN, match=OF_MODEL)),
        graph("Wait in the queue", "s", *wait, width=12, note="From created_at, else from intake, to the claim."),
        graph("Wait in the queue by priority", "s", *by_priority, width=12, note="Of text and image jobs."),
        graph("Duration of jobs", "s", *took, width=12, note="From the claim of a job to its last entry."),
    ]


def _throughput() -> list[Json]:
    def rate(title: str, unit: str, metric: str, by: str, match: str = "") -> Json:
        return graph(title, unit, (_rate(metric, by, match), f"{{{{{by}}}}}"), stack=True)

    model = ', model=~"$model"'
    tokens = [_rate(f"velesio_prompt_tokens_{part}", "model", model) for part in ("cached_total", "total")]
    kept = (" / ".join(tokens), "{{model}}")
    warm = (_rate("velesio_warm_jobs_total", "outcome"), "{{outcome}}")
    missed = "Misses: the engine had forgotten the conversation. Give it more memory for prompts, or more slots."
    return [
        rate("Jobs by outcome", JOBS, "velesio_jobs_total", "outcome"),
        rate("Jobs by type", JOBS, "velesio_jobs_total", "type"),
        graph("Running jobs", "short", ("sum by (kind) (velesio_jobs_active{own})", "{{kind}}"), stack=True),
        rate("Tokens made, by model", TOKENS, "velesio_output_tokens_total", "model", model),
        rate("Tokens served, by priority", TOKENS, "velesio_priority_tokens_total", "priority"),
        rate("Tokens of prompts, by model", TOKENS, "velesio_prompt_tokens_total", "model", model),
        graph("Share of prompts that engines had read", "percentunit", kept, note="For earlier jobs; not read again."),
        graph("Jobs taken first for their session", JOBS, warm, stack=True, note=missed),
        rate("Images, by model", "suffix: images/s", "velesio_images_total", "model", model),
    ]


def _engines() -> list[Json]:
    used = ("sum by (kind) (velesio_slots_used{own})", "{{kind}} used")
    free = ("sum by (kind) (velesio_slots_free{own})", "{{kind}} free")
    changes = [
        (_increase("velesio_engine_starts_total", "kind"), "{{kind}} ready"),
        (_increase("velesio_engine_restarts_total", "kind"), "{{kind}} lost"),
        (_increase("velesio_engine_start_failures_total", "kind"), "{{kind}} not started"),
    ]
    sums = [f"sum by (instance, kind) (velesio_engine_load_seconds_{part}{{own}})" for part in ("sum", "count")]
    load = (" / ".join(sums), "{{instance}} {{kind}}")
    rests = "stopped: it rests until the next job. failed: see engine_failed in the log."
    return [
        timeline("State of each engine", (_state_numbers(), "{{instance}} {{kind}}"), STATES, note=rests),
        graph("Slots", "short", used, free, stack=True),
        graph("Engines that became ready or were lost", "short", *changes, bars=True),
        graph("Time to load, mean", "s", load, note="Of all loads since the worker began."),
    ]


def _gpus() -> list[Json]:
    gpu = "{{instance}} GPU {{gpu}}"
    used = "velesio_gpu_memory_used_bytes{own}"
    by_name = f"{used} * on (job, instance, gpu) group_left (name) velesio_gpu_info{{own}}"
    return [
        graph("Memory in use", "bytes", (by_name, f"{gpu}, {{{{name}}}}")),
        graph("Share of memory in use", "percentunit", (f"{used} / velesio_gpu_memory_total_bytes{{own}}", gpu)),
        graph("Free memory", "bytes", ("velesio_gpu_memory_free_bytes{own}", gpu)),
        graph("Utilisation", "percentunit", ("velesio_gpu_utilization_ratio{own}", gpu), width=12),
        graph("Temperature", "celsius", ("velesio_gpu_temperature_celsius{own}", gpu), width=12),
    ]


def _streaming() -> list[Json]:
    delay = _quantiles("velesio_publish_delay_seconds")
    batch = "velesio_publish_batch_entries"
    mean = (f"{_rate(f'{batch}_sum')} / {_rate(f'{batch}_count')}", "mean")
    sent = (_rate("velesio_sse_events_total"), "events of engines")
    written = (_rate("velesio_stream_entries_total"), "entries in Redis")
    cpu = "rate(process_cpu_seconds_total{own}[$__rate_interval])"
    alone = "The worker's own: engines are processes of their own."
    return [
        graph("Age of entries when Redis has them", "s", *delay, note="Of the oldest entry of each flush."),
        graph("Entries of a flush", "short", mean, (_quantile(0.95, batch), "p95"), note="More when Redis is slow."),
        graph("Lag of the event loop", "s", *_quantiles("velesio_event_loop_lag_seconds")),
        graph("From engine to stream", PER_SECOND, sent, written),
        graph("CPU", "percentunit", (cpu, "{{instance}}"), note=f"{alone} Of one core."),
        graph("Memory", "bytes", ("process_resident_memory_bytes{own}", "{{instance}}"), note=alone),
    ]


def _reliability() -> list[Json]:
    reaped = [
        (_increase("velesio_workers_reaped_total"), "workers"),
        (_increase("velesio_jobs_reaped_total"), "their jobs, put back"),
    ]
    ended = [
        (_increase("velesio_jobs_handed_back_total", "type"), "handed back: {{type}}"),
        (_increase("velesio_jobs_fenced_total"), "fenced"),
    ]
    resumed = (_increase("velesio_jobs_resumed_total", "mode"), "{{mode}}")
    modes = "continue: it went on where the text ended. restart: it began anew."
    kept = ("max by (job) (velesio_dead_letters_kept{own})", "{{job}} kept")
    buried = (_increase("velesio_dead_letters_total"), "new")
    lookups = _rate("velesio_cache_lookups_total")
    hits = _rate("velesio_cache_lookups_total", match=', result="hit"')
    share = f"({hits} or 0 * {lookups}) / {lookups}"
    away = (_increase("velesio_redis_reconnects_total", "instance"), "{{instance}}")
    return [
        graph("Lost workers", "short", *reaped, bars=True),
        graph("Attempts that went elsewhere", "short", *ended, bars=True),
        graph("Later attempts", "short", resumed, bars=True, note=modes),
        graph("Dead letters", "short", kept, buried),
        graph("Hits of the prompt cache", "percentunit", (share, "hits")),
        graph("Redis was away and came back", "short", away, bars=True),
    ]


def dashboard() -> Json:
    """Return the dashboard in Grafana's classic schema."""
    rows = [
        ("At a glance", _at_a_glance()),
        ("Latency", _latency()),
        ("Throughput", _throughput()),
        ("Engines", _engines()),
        ("GPU", _gpus()),
        ("Streaming", _streaming()),
        ("Reliability", _reliability()),
    ]
    models = f'label_values({DURATION}_count{{job=~"$job"}}, gen_ai_response_model)'
    variables = [
        source("datasource", "Prometheus"),
        choice("job", "Scrape job", "label_values(velesio_worker_info, job)"),
        choice("instance", "Worker", 'label_values(velesio_worker_info{job=~"$job"}, instance)'),
        choice("model", "Model", models),
    ]
    return {
        "id": None,
        "uid": "velesio-worker",
        "title": "velesio-worker",
        "description": "A queue of GPU inference jobs and its workers.",
        "tags": ["velesio"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": variables},
        "panels": layout(rows),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(dashboard(), indent=2) + "\n")
