"""Answers of jobs, whole and live: errors in front of the first piece and behind it, and clients that hang up."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import anyio
import anyio.lowlevel
import orjson
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.doubles.fleet import CALLER, JobsDouble, done, failed, start, text
from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.jobs import UNREAD_SECONDS, Jobs
from velesio_worker.gateway.live import LiveResponse, answer, answers, dialect
from velesio_worker.wire.events import StreamEvent

pytestmark = pytest.mark.anyio

PARTS = [("completion", {"prompt": "a"})]


class PlainFrames:
    """The texts, each behind its job's number."""

    def feed(self, index: int, event: StreamEvent) -> bytes:
        if event.event == "start":
            return b"<start>"
        return f"{index}:{event.text} ".encode() if event.text else b""

    def end(self) -> bytes:
        return b"end"

    def error(self, error: ApiError) -> bytes:
        return f"error {error.code}".encode()


@dataclass
class Peer:
    """The client's end of one request over ASGI."""

    hangs_up: anyio.Event = field(default_factory=anyio.Event)
    sent: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    deaf: bool = False

    async def receive(self) -> dict[str, Any]:
        await self.hangs_up.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        if self.deaf and message["type"] == "http.response.body":
            await anyio.sleep_forever()

    @property
    def status(self) -> int:
        return self.sent[0]["status"]

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])

    @property
    def request(self) -> Request:
        return Request({"type": "http", "method": "POST", "path": "/", "headers": []}, self.receive)

    async def get(self, jobs: JobsDouble, parts: Sequence[Any] = PARTS, **options: Any) -> None:
        live = LiveResponse(cast("Jobs", jobs), CALLER, list(parts), PlainFrames(), error_body, **options)
        with anyio.fail_after(20):
            await live({"type": "http"}, self.receive, self.send)


def error_body(error: ApiError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message}


async def test_pieces_are_sent_as_they_come_behind_the_right_headers() -> None:
    jobs, peer = JobsDouble([[[start()], [text(1, "Once")], [text(2, "upon"), done(3)]]]), Peer()
    await peer.get(jobs)
    assert peer.status == 200
    assert peer.headers[b"content-type"].startswith(b"text/event-stream")
    assert peer.headers[b"cache-control"] == b"no-store"
    assert peer.headers[b"x-accel-buffering"] == b"no"
    assert [message["body"] for message in peer.sent[1:]] == [b"<start>0:Once ", b"0:upon ", b"end"]
    assert [message["more_body"] for message in peer.sent[1:]] == [True, True, False]
    assert jobs.cancelled == []
    assert jobs.options == [{"tenant": "acme", "session": None, "unread_timeout": UNREAD_SECONDS}]


async def test_what_fails_before_the_first_piece_is_a_status() -> None:
    jobs, peer = JobsDouble([[[start()], [failed(1, "context_exceeded", "Too long.")]]]), Peer()
    await peer.get(jobs)
    assert peer.status == 400
    assert orjson.loads(peer.body) == {"code": "context_length_exceeded", "message": "Too long."}
    assert jobs.cancelled == []


async def test_what_fails_later_is_an_event_and_nothing_follows() -> None:
    jobs, peer = JobsDouble([[[start(), text(1, "Once")], [failed(2)]]]), Peer()
    await peer.get(jobs)
    assert peer.status == 200
    assert peer.body == b"<start>0:Once error internal_error"
    assert peer.sent[-1]["more_body"] is False


async def test_a_job_that_is_not_taken_is_a_status() -> None:
    full = ApiError(429, "queue_full", "Full.", retry_after=7)
    peer = Peer()
    await peer.get(JobsDouble(refusals={0: full}))
    assert (peer.status, peer.headers[b"retry-after"]) == (429, b"7")


async def test_a_client_that_hangs_up_has_its_job_cancelled() -> None:
    jobs, peer = JobsDouble([[[start(), text(1, "Once")]]]), Peer()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(peer.get, jobs)
        with anyio.fail_after(10):
            while len(peer.sent) < 2:
                await anyio.lowlevel.checkpoint()
        peer.hangs_up.set()
    assert jobs.cancelled == ["job-0"]


async def test_a_client_that_reads_nothing_and_hangs_up_has_its_job_cancelled() -> None:
    jobs, peer = JobsDouble([[[start(), text(1, "Once")]]]), Peer(deaf=True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(peer.get, jobs)
        with anyio.fail_after(10):
            while len(peer.sent) < 2:
                await anyio.lowlevel.checkpoint()
        peer.hangs_up.set()
    assert jobs.cancelled == ["job-0"]


async def test_an_answer_that_is_long_in_coming_begins_and_says_that_it_lives() -> None:
    jobs, peer = JobsDouble([[[start()]]]), Peer()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: peer.get(jobs, quiet=0.01))
        with anyio.fail_after(10):
            while len(peer.sent) < 3:
                await anyio.lowlevel.checkpoint()
        peer.hangs_up.set()
    assert peer.status == 200
    assert {message["body"] for message in peer.sent[1:]} == {b": ping\n"}


async def test_several_jobs_are_told_apart_and_end_together() -> None:
    jobs = JobsDouble([[[start(), text(1, "a")], [done(2)]], [[start(), text(1, "b"), done(2)]]])
    peer = Peer()
    await peer.get(jobs, [*PARTS, *PARTS])
    assert sorted(peer.body.replace(b"<start>", b"").split()) == [b"0:a", b"1:b", b"end"]
    assert peer.body.endswith(b"end")


async def test_one_of_several_jobs_that_fails_ends_the_others() -> None:
    jobs, peer = JobsDouble([[[start(), text(1, "a")]], [[start(), text(1, "b")], [failed(2)]]]), Peer()
    await peer.get(jobs, [*PARTS, *PARTS])
    assert peer.body.endswith(b"error internal_error")
    assert jobs.cancelled == ["job-0"]


async def test_a_mistake_of_the_gateways_is_told_as_one_without_its_words() -> None:
    class Broken(PlainFrames):
        def end(self) -> bytes:
            raise RuntimeError("secret")

    jobs, peer = JobsDouble([[[start(), done(1)]]]), Peer()
    await LiveResponse(cast("Jobs", jobs), CALLER, list(PARTS), Broken(), error_body)(
        {"type": "http"}, peer.receive, peer.send
    )
    assert peer.status == 500
    assert b"secret" not in peer.body


async def test_whole_answers_come_in_order() -> None:
    jobs = JobsDouble([[[start()], [done(1)]], [[done(1)]]], results=[{"text": "a"}, {"text": "b"}])
    assert await answers(Peer().request, cast("Jobs", jobs), CALLER, [*PARTS, *PARTS]) == [{"text": "a"}, {"text": "b"}]
    assert jobs.cancelled == []


async def test_a_whole_answer_that_fails_is_an_error_and_ends_the_others() -> None:
    jobs = JobsDouble([[[failed(1, "no_worker", "Gone.")]], [[start()]]])
    with pytest.raises(ApiError) as caught:
        await answers(Peer().request, cast("Jobs", jobs), CALLER, [*PARTS, *PARTS])
    assert (caught.value.status, caught.value.code, caught.value.message) == (503, "no_worker", "Gone.")
    assert jobs.cancelled == ["job-1"]


async def test_jobs_that_were_taken_before_one_was_not_are_cancelled() -> None:
    jobs = JobsDouble([[[start()]]], refusals={1: ApiError(429, "queue_full", "Full.")})
    with pytest.raises(ApiError, match="Full"):
        await answers(Peer().request, cast("Jobs", jobs), CALLER, [*PARTS, *PARTS])
    assert jobs.cancelled == ["job-0"]


async def test_who_hangs_up_before_a_whole_answer_has_it_cancelled() -> None:
    jobs, peer = JobsDouble([[[start()]]]), Peer()
    peer.hangs_up.set()
    with anyio.fail_after(10), pytest.raises(ApiError) as caught:
        await answer(peer.request, cast("Jobs", jobs), CALLER, *PARTS[0])
    assert caught.value.status == 499
    assert jobs.cancelled == ["job-0"]


class Away(JobsDouble):
    """Jobs whose queue is lost once they are submitted."""

    async def watch(self, job_id: str, after: str = "0-0") -> AsyncGenerator[Sequence[StreamEvent], None]:
        assert (job_id[:4], after) == ("job-", "0-0")
        yield [start()]
        raise RedisConnectionError("gone")


async def test_a_queue_that_is_lost_meanwhile_is_told_as_such() -> None:
    jobs = Away()
    with pytest.raises(ApiError) as caught:
        await answer(Peer().request, cast("Jobs", jobs), CALLER, *PARTS[0])
    assert (caught.value.status, caught.value.code, caught.value.retry_after) == (503, "queue_unavailable", 5)
    peer = Peer()
    await peer.get(jobs)
    assert (peer.status, peer.headers[b"retry-after"]) == (503, b"5")
    assert jobs.cancelled == ["job-0", "job-1"]


async def test_a_handler_that_finds_the_queue_lost_tells_so() -> None:
    async def handler(_: Request) -> Response:
        raise RedisConnectionError("gone")

    [route] = dialect([Route("/", handler)], error_body)
    response = await route.endpoint(Peer().request)
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
