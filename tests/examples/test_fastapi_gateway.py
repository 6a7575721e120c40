"""The gateway on FastAPI: answers are streamed, and nobody's job runs on."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import httpx
import pytest
from httpx_sse import connect_sse

from tests.examples.conftest import EXAMPLES, ChatWorker, program
from tests.support.servers import RedisServer, free_port, wait_until

pytestmark = pytest.mark.processes


def answers(http: httpx.Client) -> bool:
    try:
        return http.get("/openapi.json").is_success
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def http(shared_redis: RedisServer) -> Iterator[httpx.Client]:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--app-dir", EXAMPLES, "fastapi_gateway:app", "--port", str(port)]
    with (
        program(command, env={"REDIS_URL": shared_redis.url}),
        httpx.Client(base_url=f"http://127.0.0.1:{port}") as http,
    ):
        wait_until(lambda: answers(http), "the example answers")
        yield http


def test_an_answer_comes_entry_by_entry_while_it_is_made(worker: ChatWorker, http: httpx.Client) -> None:
    asked = {"prompt": "Say hello.", "max_tokens": 7}
    with connect_sse(http, "POST", "/chat", json=asked) as source:
        events = source.iter_sse()
        job = worker.take()
        assert job["data"] == {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 7, "stream": True}
        worker.start(job["id"])
        worker.token(job["id"], "1-1", "Hello.")
        assert next(events).event == "start"  # the answer is not over yet
        token = next(events)
        worker.done(job["id"], "1-2", "Hello.")
        done = next(events)
        assert list(events) == []
    assert (token.id, token.event, token.json()["choices"][0]["delta"]) == ("1-1", "token", {"content": "Hello."})
    assert (done.event, done.json()["finish_reason"]) == ("done", "stop")
    assert not worker.cancelled(job["id"])


def test_who_hangs_up_has_the_job_cancelled(worker: ChatWorker, http: httpx.Client) -> None:
    with connect_sse(http, "POST", "/chat", json={"prompt": "Say hello."}) as source:
        job = worker.take()
        worker.start(job["id"])
        assert next(source.iter_sse()).event == "start"
    wait_until(lambda: worker.cancelled(job["id"]), "the job is cancelled")


def test_a_wrong_question_becomes_no_job(worker: ChatWorker, http: httpx.Client) -> None:
    assert http.post("/chat", json={"prompt": "Hello", "max_tokens": 0}).status_code == 422
    assert worker.take_if_any() is None


def test_a_queue_that_is_away_is_told_before_the_answer_begins(own_redis: RedisServer) -> None:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--app-dir", EXAMPLES, "fastapi_gateway:app", "--port", str(port)]
    with program(command, env={"REDIS_URL": own_redis.url}), httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
        wait_until(lambda: answers(http), "the example answers")
        refused = http.post("/chat", json={"prompt": "Hello"}, timeout=60)
    assert refused.status_code == 503
    assert refused.headers["retry-after"]
