"""Jobs over HTTP: submitted, followed from any point, cancelled, and nobody else's."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.support.gateway import QUEUE, GatewayProcess, WorkerInRedis, nothing_waits
from tests.support.servers import wait_until
from velesio_worker.gateway.caller import Caller
from velesio_worker.gateway.ids import new_job_id
from velesio_worker.gateway.tokens import read_tokens

COMPLETION = {"type": "completion", "data": {"prompt": "Once", "stream": True}}
PNG = b"\x89PNG\r\n\x1a\n-an-image"


def submitted(client: httpx.Client, body: dict[str, Any] = COMPLETION) -> str:
    response = client.post("/jobs", json=body)
    assert response.status_code == 202, response.text
    job_id = response.json()["id"]
    assert response.headers["location"] == response.json()["links"]["self"] == f"/jobs/{job_id}"
    assert response.json()["links"]["events"] == f"/jobs/{job_id}/events"
    return job_id


def events(lines: Iterator[str]) -> Iterator[tuple[str, str, Any]]:
    """Yield a stream's events: id, event and data."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.strip()
        elif "data" in fields:
            yield fields.get("id", ""), fields.get("event", "message"), json.loads(fields["data"])
            fields = {}
        else:
            fields = {}


def test_a_job_is_submitted_for_the_tokens_name_and_followed_to_its_result(
    alice: httpx.Client, worker: WorkerInRedis
) -> None:
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    response = alice.post(
        "/jobs",
        json={**COMPLETION, "timeout": 5, "on_crash": "fail", "priority": "low"},
        headers={"x-session-id": "s1", "traceparent": traceparent},
    )
    job_id = response.json()["id"]
    assert job_id.startswith("alice.")
    standing = alice.get(f"/jobs/{job_id}").json()
    assert (standing["state"], standing["result"]) == ("waiting", None)
    assert standing["queue"]["incoming"]["jobs"] in {0, 1}  # known a second ago
    job = worker.take()
    assert {
        name: job[name] for name in ("id", "type", "data", "tenant", "priority", "session", "timeout", "on_crash")
    } == {
        "id": job_id,
        "type": "completion",
        "data": COMPLETION["data"],
        "tenant": "alice",
        "priority": "low",
        "session": "s1",
        "timeout": 5.0,
        "on_crash": "fail",
    }
    assert job["traceparent"] == traceparent
    assert abs(job["created_at"] - time.time()) < 60
    worker.begin(job_id)
    standing = alice.get(f"/jobs/{job_id}").json()
    assert (standing["state"], standing["last"]) == ("running", {"id": "1-0", "event": "start"})
    worker.say(job_id, 1, "upon")
    worker.end(job_id, 2, {"text": "upon", "finish_reason": "stop", "usage": None, "timings": None})
    standing = alice.get(f"/jobs/{job_id}").json()
    assert (standing["state"], standing["result"]["text"]) == ("done", "upon")


@pytest.mark.parametrize(
    ("result", "state"),
    [
        ({"error": "It broke.", "code": "internal"}, "failed"),
        ({"text": "", "finish_reason": "cancelled"}, "cancelled"),
        ({"text": "", "finish_reason": "length"}, "done"),
    ],
)
def test_how_a_job_ended_is_told_by_its_result_and_without_one_by_its_stream(
    alice: httpx.Client, worker: WorkerInRedis, plain: Any, result: dict[str, Any], state: str
) -> None:
    job_id = submitted(alice)
    worker.end(job_id, 0, result)
    standing = alice.get(f"/jobs/{job_id}").json()
    assert (standing["state"], standing["result"]) == (state, result)
    plain.delete(f"result:{job_id}")
    standing = alice.get(f"/jobs/{job_id}").json()
    assert (standing["state"], standing["result"]) == (state, None)


def test_a_job_of_another_token_and_one_of_nobody_are_told_alike(
    alice: httpx.Client, bob: httpx.Client, worker: WorkerInRedis
) -> None:
    job_id = submitted(alice)
    worker.end(job_id, 0, {"images": ["x"]})
    turned = job_id[:-1] + ("A" if job_id[-1] != "A" else "B")
    answers: set[tuple[object, ...]] = set()

    def note(response: httpx.Response) -> None:
        told = {name: value for name, value in response.headers.items() if name not in {"date", "x-request-id"}}
        answers.add((response.status_code, response.text, *told.items()))

    for client, asked in ((bob, job_id), (alice, turned), (alice, "nobody"), (bob, job_id.replace("alice", "bob"))):
        for path in ("", "/events", "/images/0"):
            note(client.get(f"/jobs/{asked}{path}"))
        note(client.delete(f"/jobs/{asked}"))
    assert [answer[0] for answer in answers] == [404], answers
    assert alice.get(f"/jobs/{job_id}").status_code == 200


def test_a_job_that_expired_long_ago_is_gone(
    alice: httpx.Client, worker: WorkerInRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert worker
    [token] = read_tokens("alice=alice-s-long-token")
    now = time.time()
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: now - 600)
        job_id = new_job_id(Caller(token.name, token.key))
    for path in ("", "/events", "/images/0"):
        assert alice.get(f"/jobs/{job_id}{path}").status_code == 404


def test_a_job_that_has_waited_long_still_waits(
    alice: httpx.Client, worker: WorkerInRedis, plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert worker
    [token] = read_tokens("alice=alice-s-long-token")
    now = time.time()
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: now - 600)
        job_id = new_job_id(Caller(token.name, token.key))
    plain.lpush(QUEUE, json.dumps({"id": job_id, **COMPLETION, "created_at": now - 600}))
    wait_until(lambda: alice.get(f"/jobs/{job_id}").status_code == 200, "what waits is looked at again")
    assert alice.get(f"/jobs/{job_id}").json()["state"] == "waiting"


def test_a_stream_is_followed_live_and_resumed_where_it_was_left(alice: httpx.Client, worker: WorkerInRedis) -> None:
    job_id = submitted(alice)
    worker.begin(job_id)
    worker.say(job_id, 1, "a")
    with alice.stream("GET", f"/jobs/{job_id}/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-accel-buffering"] == "no"
        seen = events(response.iter_lines())
        assert [next(seen)[:2], next(seen)[:2]] == [("1-0", "start"), ("1-1", "token")]
        worker.say(job_id, 2, "b")
        entry, event, data = next(seen)
        assert (entry, event, data["choices"][0]["text"]) == ("1-2", "token", "b")
    worker.say(job_id, 3, "c")
    worker.end(job_id, 4, {"text": "abc", "finish_reason": "stop"})
    for headers, params in (({"last-event-id": "1-2"}, {}), ({}, {"after": "1-2"})):
        response = alice.get(f"/jobs/{job_id}/events", headers=headers, params=params)
        found = [entry[:2] for entry in events(iter(response.text.splitlines()))]
        assert found == [("1-3", "token"), ("1-4", "done")]
    wait_until(lambda: "velesio_gateway_frames_total 0.0" not in alice.get("/metrics").text, "they are counted")
    both = alice.get(f"/jobs/{job_id}/events", headers={"last-event-id": "1-3"}, params={"after": "1-0"})
    assert [entry[0] for entry in events(iter(both.text.splitlines()))] == ["1-4"]
    for wrong in ("x", "1", "1-", "$", "99999999999-1"):
        response = alice.get(f"/jobs/{job_id}/events", params={"after": wrong})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "after")


def test_whatever_many_ask_at_a_time_the_gateway_has_five_connections_to_redis(
    alice: httpx.Client, worker: WorkerInRedis, plain: Any
) -> None:
    assert worker
    job_id = submitted(alice)

    def ask(number: int) -> int:
        if number % 3 == 0:
            return alice.post("/jobs", json={"type": "txt2img", "data": {"prompt": "a"}}).status_code
        return alice.get(f"/jobs/{job_id}" if number % 3 == 1 else "/queue/status").status_code

    with ThreadPoolExecutor(30) as threads:
        assert set(threads.map(ask, range(90))) <= {200, 202, 429}  # MAX_QUEUE is small here
    ours = [one for one in plain.client_list() if one["name"].startswith("velesio-")]
    assert len(ours) <= 5, ours


def test_head_of_a_stream_ends_at_once(alice: httpx.Client) -> None:
    response = alice.head(f"/jobs/{submitted(alice)}/events")
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-type"].startswith("text/event-stream")


def test_a_viewer_that_leaves_does_not_stop_the_job(
    alice: httpx.Client, worker: WorkerInRedis, plain: Any, gateway: GatewayProcess
) -> None:
    job_id = submitted(alice)
    worker.begin(job_id)
    before = len([line for line in gateway.lines("request") if line["route"] == "/jobs/{id}/events"])
    with alice.stream("GET", f"/jobs/{job_id}/events") as response:
        next(events(response.iter_lines()))

    def left() -> bool:
        return len([line for line in gateway.lines("request") if line["route"] == "/jobs/{id}/events"]) > before

    wait_until(left, "the viewer is gone")
    assert not plain.exists(f"{{result:{job_id}}}:cancel")


def test_a_job_is_cancelled(alice: httpx.Client, plain: Any) -> None:
    job_id = submitted(alice)
    response = alice.delete(f"/jobs/{job_id}")
    assert (response.status_code, response.json()["id"]) == (202, job_id)
    assert plain.exists(f"{{result:{job_id}}}:cancel")
    assert plain.xlen(f"{{{QUEUE}}}:control") == 1


def test_images_of_a_result_are_files(alice: httpx.Client, worker: WorkerInRedis) -> None:
    job_id = submitted(alice, {"type": "txt2img", "data": {"prompt": "a cat"}})
    assert alice.get(f"/jobs/{job_id}/images/0").json()["error"]["code"] == "image_not_found"
    worker.end(job_id, 0, {"images": [base64.b64encode(PNG).decode(), "no base64!"]})
    response = alice.get(f"/jobs/{job_id}/images/0")
    assert (response.status_code, response.headers["content-type"], response.content) == (200, "image/png", PNG)
    for number in (1, 2):
        assert alice.get(f"/jobs/{job_id}/images/{number}").status_code == 404


def test_the_latest_preview_of_an_image_is_a_file_for_whose_job_it_is(
    alice: httpx.Client, bob: httpx.Client, plain: Any
) -> None:
    job_id = submitted(alice, {"type": "txt2img", "data": {"prompt": "a cat"}})
    assert alice.get(f"/jobs/{job_id}/preview").json()["error"]["code"] == "preview_not_found"
    for preview in ("first", "second"):
        plain.set(f"{{result:{job_id}}}:preview", preview)
        response = alice.get(f"/jobs/{job_id}/preview")
        assert (response.status_code, response.headers["content-type"], response.text) == (200, "image/jpeg", preview)
    assert bob.get(f"/jobs/{job_id}/preview").json()["error"]["code"] == "job_not_found"


def test_the_chat_page_is_served_to_anybody(gateway: GatewayProcess) -> None:
    with gateway.client() as anybody:
        page = anybody.get("/")
        assert page.text.startswith("<!doctype html>")
        assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        head = anybody.head("/")
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(page.content)))
        known = anybody.get("/", headers={"if-none-match": page.headers["etag"]})
        assert (known.status_code, known.content) == (304, b"")
        assert anybody.get("/static/../routes.py").status_code == 404
        assert "/static/" not in anybody.get("/openapi.json").text


def test_images_that_are_stored_elsewhere_are_pointed_to(alice: httpx.Client, worker: WorkerInRedis) -> None:
    job_id = submitted(alice, {"type": "txt2img", "data": {"prompt": "a cat"}})
    stored = ["https://images.example.org/a.png", "file:///srv/images/a.png"]
    worker.end(job_id, 0, {"images": stored, "images_stored": True})
    response = alice.get(f"/jobs/{job_id}/images/0")
    assert (response.status_code, response.headers["location"]) == (302, stored[0])
    response = alice.get(f"/jobs/{job_id}/images/1")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "image_elsewhere")
    assert "/srv" not in response.text


def test_the_queue_and_its_workers_are_told_without_what_is_the_operators(
    alice: httpx.Client, worker: WorkerInRedis
) -> None:
    assert worker
    wait_until(lambda: alice.get("/queue/status").json()["workers"], "what is known is new")
    status = alice.get("/queue/status")
    [told] = status.json()["workers"]
    assert (told["id"], told["engines"]["text"]["model"], told["engines"]["text"]["slots"]) == ("w1", "small", 4)
    assert status.json()["slots"] == {"text": 4, "image": 4}
    assert set(status.json()["waiting"]) == {"incoming", "text", "image", "manage", "manage-image"}
    priorities = {(kind, name) for kind, of in status.json()["waiting_by_priority"].items() for name in of}
    assert priorities == {(kind, name) for kind in ("text", "image") for name in ("high", "normal", "low")}
    assert "/secret" not in status.text


def test_a_line_that_is_full_takes_no_more_and_says_when_to_ask_again(alice: httpx.Client, plain: Any) -> None:
    for number in range(3):
        plain.lpush(f"{{{QUEUE}}}:text", json.dumps({"id": str(number), "created_at": time.time() - 100}))
    wait_until(lambda: alice.post("/jobs", json=COMPLETION).status_code == 429, "the line is seen to be full")
    response = alice.post("/jobs", json=COMPLETION)
    assert response.json()["error"]["code"] == "queue_full"
    assert 1 <= int(response.headers["retry-after"]) <= 60


def test_without_a_worker_for_its_kind_no_job_is_taken(alice: httpx.Client, plain: Any) -> None:
    plain.hset(f"{{{QUEUE}}}:worker:w1", "kinds", "image")
    wait_until(lambda: alice.post("/jobs", json=COMPLETION).status_code == 503, "the worker is seen to be another")
    response = alice.post("/jobs", json=COMPLETION)
    assert (response.json()["error"]["code"], response.headers["retry-after"]) == ("no_worker", "5")
    plain.delete(QUEUE)
    wait_until(lambda: nothing_waits(alice), "what was taken before is seen to be gone")
    assert alice.post("/jobs", json={"type": "txt2img", "data": {"prompt": "a"}}).status_code == 202


def test_health_tells_whether_jobs_would_be_run(alice: httpx.Client, gateway: GatewayProcess, plain: Any) -> None:
    with gateway.client() as anybody:
        assert anybody.get("/livez").json() == {"alive": True}
        wait_until(lambda: anybody.get("/readyz").status_code == 200, "the worker is seen")
        assert anybody.get("/health").json()["status"] == "ok"
        plain.delete(f"{{{QUEUE}}}:worker:w1")
        wait_until(lambda: anybody.get("/readyz").status_code == 503, "the worker is seen to be gone")
        assert anybody.get("/readyz").json() == {"ready": False, "reasons": ["no worker lives"]}
        assert anybody.get("/health").status_code == 200
    figures = alice.get("/metrics").text
    assert 'velesio_gateway_requests_total{route="/readyz",status="200"}' in figures
    assert 'velesio_gateway_waiting_jobs{list="incoming"} 0.0' in figures
