"""A black box: nothing here but redis-py and the wire protocol, on the real llama.cpp server."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import pytest
from redis.cluster import RedisCluster

from tests.support.processes import MakeWorker
from tests.support.servers import RedisServer, Topology, wait_until
from tests.support.tiny import model_path

__all__ = ["model_path"]  # a fixture

Entry = tuple[str, str, dict[str, Any]]

JOBS = 80
CONCURRENCY = 8

WITHOUT_ID: list[str] = [
    "no JSON at all",
    '{"id": "cut off", "type": "compl',
    "[1, 2, 3]",
    '{"type": "completion", "data": {"prompt": "no id"}}',
    '{"id": "a bad id!", "type": "completion", "data": {"prompt": "hi"}}',
]
WITH_ID: list[tuple[dict[str, Any], str]] = [
    ({"type": "poem", "data": {}}, "unknown_type"),
    ({"type": "completion", "data": {"prompt": "hi", "max_tokens": "many"}}, "bad_job"),
    ({"type": "completion", "data": {"prompt": "hi", "warmth": 3}}, "bad_job"),
    ({"type": "chat_completion", "data": {"messages": []}}, "bad_job"),
    ({"type": "completion", "data": {"prompt": "word " * 4000}}, "context_exceeded"),
]


def good_job(number: int, dice: random.Random) -> dict[str, Any]:
    data: dict[str, Any] = {"max_tokens": dice.randint(1, 6), "stream": dice.random() < 0.6, "seed": number}
    if dice.random() < 0.5:
        return {"id": f"job-{number}", "type": "completion", "data": {"prompt": f"One, {number},", **data}}
    data["messages"] = [{"role": "user", "content": f"{number}: naïve, 東京 🎈"}]
    return {"id": f"job-{number}", "type": "chat_completion", "data": data}


def read_new(redis: Any, after: dict[str, str]) -> list[Any]:
    """The new entries of many streams; in a Cluster they lie on different nodes."""
    if not isinstance(redis, RedisCluster):
        return redis.xread(after, block=500) or []
    batches = [batch for key, entry_id in after.items() for batch in redis.xread({key: entry_id}) or ()]
    time.sleep(0 if batches else 0.05)
    return batches


def follow(redis: Any, ids: list[str], limit: float) -> dict[str, list[Entry]]:
    """Read all streams at once until each has a terminal entry; a result must be there before that entry is."""
    entries: dict[str, list[Entry]] = {job_id: [] for job_id in ids}
    after = {f"stream:{job_id}": "0-0" for job_id in ids}
    open_streams = set(after)
    deadline = time.monotonic() + limit
    while open_streams:
        assert time.monotonic() < deadline, (
            f"{len(open_streams)} jobs have no terminal entry: {sorted(open_streams)[:5]}"
        )
        for key, batch in read_new(redis, {key: after[key] for key in open_streams}):
            for entry_id, fields in batch:
                after[key] = entry_id
                entries[key.removeprefix("stream:")].append((entry_id, fields["event"], json.loads(fields["data"])))
                if fields["event"] in {"done", "error"}:
                    assert redis.exists(key.replace("stream:", "result:")), "a terminal entry before its result"
                    open_streams.discard(key)
    return entries


def text_of(entry: dict[str, Any]) -> str:
    choice = entry["choices"][0]
    return choice["text"] if "text" in choice else choice["delta"].get("content") or ""


def assert_in_order(job_id: str, entries: list[Entry]) -> None:
    numbers = [tuple(int(part) for part in entry_id.split("-")) for entry_id, _, _ in entries]
    assert numbers == sorted(set(numbers)), job_id
    events = [event for _, event, _ in entries]
    assert sum(event in {"done", "error"} for event in events) == 1, (job_id, events)
    assert events[-1] in {"done", "error"}, (job_id, events)


def assert_complete(redis: Any, job: dict[str, Any], entries: list[Entry], *, seconds: float) -> None:
    job_id = job["id"]
    assert_in_order(job_id, entries)
    result = json.loads(redis.get(f"result:{job_id}"))
    start = entries[0]
    assert (start[0], start[1]) == ("1-0", "start")
    assert start[2]["type"] == job["type"]
    assert (start[2]["attempt"], start[2]["mode"]) == (1, "fresh")
    done = entries[-1][2]
    assert entries[-1][1] == "done", (job_id, done)
    assert done["finish_reason"] == result["finish_reason"]
    assert result["finish_reason"] in {"stop", "length"}
    assert 1 <= result["usage"]["completion_tokens"] <= job["data"]["max_tokens"]
    assert done["usage"] == result["usage"]
    tokens = [data for _, event, data in entries if event == "token"]
    if job["data"]["stream"]:
        assert "".join(text_of(token) for token in tokens).encode() == result["text"].encode()
    else:
        assert not tokens
    if job["type"] == "chat_completion":
        assert result["message"] == {"role": "assistant", "content": result["text"]}
    for key in (f"result:{job_id}", f"stream:{job_id}"):
        assert 3600 - seconds - 30 < redis.ttl(key) <= 3600


@pytest.mark.engine
@pytest.mark.topologies
@pytest.mark.timeout(600)
def test_mixed_jobs_are_each_answered_once_and_whole(plain: Any, topology: Topology, make_worker: MakeWorker) -> None:
    dice = random.Random(20)
    count = JOBS if isinstance(topology, RedisServer) else JOBS // 3
    bad = [{"id": f"bad-{number}", **WITH_ID[number % len(WITH_ID)][0]} for number in range(max(5, count // 20))]
    good = [good_job(number, dice) for number in range(count - 2 * len(bad))]
    dead = [WITHOUT_ID[number % len(WITHOUT_ID)] for number in range(len(bad))]
    payloads = [json.dumps(job, ensure_ascii=False) for job in (*good, *bad)] + dead
    assert len(payloads) == count
    dice.shuffle(payloads)
    began = time.monotonic()
    plain.lpush("llama_queue", *payloads[: count // 2])

    worker = make_worker(LLM_CONCURRENCY=str(CONCURRENCY))
    worker.wait_for("worker_ready")
    plain.lpush("llama_queue", *payloads[count // 2 :])
    entries = follow(plain, [job["id"] for job in (*good, *bad)], limit=480)

    for job in good:
        assert_complete(plain, job, entries[job["id"]], seconds=time.monotonic() - began)
    for number, job in enumerate(bad):
        assert_in_order(job["id"], entries[job["id"]])
        result = json.loads(plain.get(f"result:{job['id']}"))
        assert result["code"] == entries[job["id"]][-1][2]["code"] == WITH_ID[number % len(WITH_ID)][1], result
        assert set(entries[job["id"]][-1][2]) == {"error", "code", "retryable", "partial"}
    assert json.loads(plain.get("result:bad-0"))["error"] == "Unknown job type: poem"
    too_long = json.loads(plain.get("result:bad-4"))["error"]
    assert "4001 tokens" in too_long
    assert "512" in too_long
    wait_until(lambda: plain.llen("{llama_queue}:dead") == len(dead), "every job without an id is a dead letter")
    letters = [json.loads(letter) for letter in plain.lrange("{llama_queue}:dead", 0, -1)]
    assert sorted(letter["payload"] for letter in letters) == sorted(dead)
    assert all(letter["reason"] and letter["at"] and letter["worker"] for letter in letters)

    assert not plain.exists("llama_queue", "{llama_queue}:text", "{llama_queue}:image")
    assert worker.stop() == 0
    assert not plain.keys("{llama_queue}:active:*")
    assert not plain.exists("{llama_queue}:workers")
