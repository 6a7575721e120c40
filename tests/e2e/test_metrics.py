"""What workers tell at ``/metrics`` is what their clients saw: counted, not estimated."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from tests.doubles.paced_server import TOKENS, paced, push
from tests.support.fleet_of_four import (
    LIMIT,
    MARK,
    MAX_JOB_BYTES,
    Ended,
    Scraper,
    four_workers,
    run_them_all,
    shared_server,
)
from tests.support.observed import Figures, Page, ask, until
from tests.support.processes import MakeWorker, WorkerProcess
from tests.support.servers import free_port
from tests.support.tiny import brisk_model_path as model_path

__all__ = ["model_path"]  # a fixture

pytestmark = pytest.mark.engine

_ENDS = {"job_done", "job_failed", "job_without_engine"}


def seen_by_clients(redis: Any, ends: Sequence[Ended]) -> dict[str, Figures]:
    """What results and streams say, under the names of the metrics that say the same."""
    prompt: Figures = Counter()
    output: Figures = Counter()
    for end in ends:
        usage = end.result.get("usage")
        if usage and not end.cached:
            prompt[end.type, end.model] += usage["prompt_tokens"]
            output[end.type, end.model] += usage.get("completion_tokens") or 0
    ran = [end for end in ends if end.ran]
    asked = [end for end in ran if end.job.get("cache")]
    return {
        "velesio_jobs_total": Counter((end.type, end.outcome) for end in ends),
        "velesio_prompt_tokens_total": Counter({key: count for key, count in prompt.items() if count}),
        "velesio_output_tokens_total": Counter({key: count for key, count in output.items() if count}),
        "gen_ai_server_time_to_first_token_seconds_count": Counter(
            (end.operation, end.model) for end in ran if end.wrote and end.outcome == "done"
        ),
        "gen_ai_server_request_duration_seconds_count": Counter((end.operation, end.model, end.code) for end in ran),
        "velesio_cache_lookups_total": Counter(("hit" if end.cached else "miss",) for end in asked),
        "velesio_stream_entries_total": Counter({(): sum(redis.xlen(key) for key in redis.keys("stream:*"))}),
        "velesio_dead_letters_total": Counter({(): redis.llen("{llama_queue}:dead")}),
    }


LABELS: Mapping[str, tuple[str, ...]] = {
    "velesio_jobs_total": ("type", "outcome"),
    "velesio_prompt_tokens_total": ("type", "model"),
    "velesio_output_tokens_total": ("type", "model"),
    "gen_ai_server_time_to_first_token_seconds_count": ("gen_ai_operation_name", "gen_ai_response_model"),
    "gen_ai_server_request_duration_seconds_count": (
        "gen_ai_operation_name",
        "gen_ai_response_model",
        "error_type",
    ),
    "velesio_cache_lookups_total": ("result",),
    "velesio_stream_entries_total": (),
    "velesio_dead_letters_total": (),
}


def logged(workers: Sequence[WorkerProcess], *actions: str) -> list[dict[str, Any]]:
    """The lines of all logs with one of these actions."""
    return [line for worker in workers for line in worker.lines() if line.get("action") in actions]


def is_usable(created_at: object) -> bool:
    """Whether it can be when a job was made: not in days to come, and not a text."""
    return isinstance(created_at, float) and created_at < time.time() + 600


def test_four_workers_count_what_their_clients_saw(
    plain: Any, redis_url: str, model_path: Path, tmp_path: Path
) -> None:
    settings = {"REDIS_URL": redis_url, "LLM_CONCURRENCY": "2", "CACHE_MODE": "off", "PROBE_SECONDS": "0"}
    settings |= {"LOG_LEVEL": "debug", "MAX_JOB_BYTES": str(MAX_JOB_BYTES)}
    with (
        shared_server(model_path, tmp_path / "server.log") as url,
        four_workers(tmp_path, LLAMA_SERVER_URL=url, **settings) as workers,
    ):
        ports = [int(worker.environment["HEALTH_PORT"]) for worker in workers]
        scraper = Scraper(ports)
        with scraper.running():
            producers = run_them_all(plain)
            ends = producers.ends()
            assert len(ends) + producers.unusable >= 250

            def all_counted() -> bool:
                page = Page.of(*ports)
                return page.total("velesio_jobs_total") >= len(ends) and not page.total("velesio_jobs_active")

            until(all_counted, "all jobs are counted", LIMIT)
            page = Page.of(*ports)
            seen = seen_by_clients(plain, ends)
            told = {name: page.by(name, *labels) for name, labels in LABELS.items()}
            assert {
                name: (told[name] - seen[name], seen[name] - told[name]) for name in seen if told[name] != seen[name]
            } == {}
            check_what_follows_from_that(page, seen)
            check_the_logs_say_the_same(page, workers, ends)
            check_nothing_is_left(page, plain, ports, workers)
            for worker in workers:  # and it answers to the last moment
                assert worker.stop() == 0
        assert scraper.answers > 50
        assert scraper.wrong == []
        for worker in workers:
            assert "Traceback" not in worker.log_text()


def check_what_follows_from_that(page: Page, seen: Mapping[str, Figures]) -> None:
    """Hold metrics against each other, and against what cannot have happened."""
    assert not any(name.endswith("_created") for name in page.names), "they would double the number of series"
    outcomes = {outcome for _, outcome in seen["velesio_jobs_total"]}
    assert outcomes >= {"done", "cancelled", "bad_job", "unknown_type", "too_large", "expired", "no_worker", "timeout"}
    assert outcomes >= {"context_exceeded", "no_capacity"}
    assert seen["velesio_cache_lookups_total"] == {("hit",): 36, ("miss",): 12}
    assert page.total("velesio_publish_batch_entries_sum") == page.total("velesio_stream_entries_total")
    assert page.total("velesio_publish_delay_seconds_count") == page.total("velesio_publish_batch_entries_count")
    assert page.total("velesio_engine_starts_total", kind="text") == 4
    assert page.total("velesio_engine_load_seconds_count", kind="text") == 4
    for name in ("engine_restarts", "engine_start_failures", "jobs_fenced", "jobs_reaped", "workers_reaped"):
        assert page.total(f"velesio_{name}_total") == 0, name
    assert page.by("velesio_jobs_resumed_total", "mode") == page.by("velesio_jobs_handed_back_total", "type") == {}
    assert page.total("velesio_redis_reconnects_total") == 0


def check_the_logs_say_the_same(page: Page, workers: Sequence[WorkerProcess], ends: Sequence[Ended]) -> None:
    """Hold metrics and clients against the log: a line for each job that ran, and none that repeats a prompt."""
    ran = {end.job["id"]: end for end in ends if end.ran}
    lines = logged(workers, *_ENDS)
    assert Counter(line["job_id"] for line in lines) == Counter(ran.keys())
    for line in lines:
        end = ran[line["job_id"]]
        assert {"worker", "duration_ms", "attempt", "engine", "time", "level"} <= line.keys()
        assert (line["type"], line["attempt"], line["engine"]) == (end.type, 1, "text")
        assert line.get("code", "") == end.code
        if end.job["data"].get("stream") and not end.cached:
            assert line["tokens"] == end.pieces
    paced = [end for end in ran.values() if end.wrote and end.outcome == "done"]
    per_token = Counter((end.operation, end.model) for end in paced if end.result["usage"]["completion_tokens"] > 1)
    name = "gen_ai_server_time_per_output_token_seconds_count"
    assert page.by(name, "gen_ai_operation_name", "gen_ai_response_model") == per_token
    stages = {line["job_id"]: line for line in logged(workers, "job_stages")}
    assert stages.keys() == ran.keys()
    waited = [job_id for job_id, line in stages.items() if "queued_ms" in line]
    assert page.by("velesio_job_queue_wait_seconds_count", "type") == Counter((ran[job_id].type,) for job_id in waited)
    told = {job_id for job_id, end in ran.items() if is_usable(end.job.get("created_at"))}
    assert told <= set(waited)
    for job_id in told:
        between = ran[job_id].entries[0][2]["created"] - ran[job_id].job["created_at"]
        assert between - 10 < stages[job_id]["queued_ms"] / 1000 < between + 0.01, "from its making to its claim"
    in_all = sum(stages[job_id]["queued_ms"] for job_id in waited) / 1000
    assert page.total("velesio_job_queue_wait_seconds_sum") == pytest.approx(in_all, abs=0.001 * len(waited))
    assert all("worker" in line for worker in workers for line in worker.lines())
    texts = [worker.log_text() for worker in workers]
    assert not any(MARK in text for text in texts)
    answers = {end.result.get("text", "").strip() for end in ends}
    for answer in (answer for answer in answers if len(answer) > 15):
        assert not any(json.dumps(answer)[1:-1] in text for text in texts), answer


def check_nothing_is_left(page: Page, redis: Any, ports: Sequence[int], workers: Sequence[WorkerProcess]) -> None:
    """Look at what each worker says of itself, and of the queue that they share."""
    assert page.total("velesio_worker_ready") == page.total("velesio_redis_up") == 4
    assert page.by("velesio_engine_state", "kind", "state") == {("text", "ready"): 4}
    assert page.total("velesio_slots_used") == 0
    assert page.total("velesio_slots_free") == 8
    assert page.total("velesio_event_loop_lag_seconds_count") > 4
    letters = redis.llen("{llama_queue}:dead")

    def know_the_queue() -> bool:
        each = [Page.of(port) for port in ports]
        return all(
            one.total("velesio_workers") == 4
            and one.total("velesio_dead_letters_kept") == letters
            and not one.by("velesio_queue_jobs", "list") + one.by("velesio_queue_oldest_seconds", "list")
            for one in each
        )

    until(know_the_queue, "each worker knows the queue", 30)
    ids = {line["worker"] for worker in workers for line in worker.lines()}
    for port in ports:
        until(lambda port=port: ask(port, "/health")[0] == 200, "the loop has the time to report", 30)
        _, health = ask(port, "/health")
        assert health["worker"] in ids
        assert health["leases"].keys() == ids
        assert health["last_job"].keys() == {"job_type", "duration", "success", "timestamp", "gpu_utilization"}
    kept = [json.loads(redis.get(key)) for key in redis.keys("metrics:*")]
    assert kept
    for entry in kept:
        assert re.fullmatch("completion|chat_completion|embedding|(de)?tokenize|rerank|infill", entry["job_type"])
        assert entry["duration"] >= 0


@pytest.mark.anyio
async def test_an_event_of_the_engine_and_an_entry_of_a_stream_each_count_once(
    commands: Any, make_worker: MakeWorker
) -> None:
    port = free_port()
    async with paced(make_worker, HEALTH_PORT=str(port)) as server:
        await push(commands, "paced")
        for _ in range(TOKENS):
            server.release()
        with anyio.fail_after(60):
            while not (await anyio.to_thread.run_sync(Page.of, port)).by("velesio_jobs_total", "type", "outcome"):
                await anyio.sleep(0.05)
        page = await anyio.to_thread.run_sync(Page.of, port)
        assert page.by("velesio_jobs_total", "type", "outcome") == {("completion", "done"): 1}
        assert page.total("velesio_sse_events_total") == TOKENS + 1
        assert page.total("velesio_stream_entries_total") == await commands.xlen("stream:paced") == TOKENS + 2
