"""Intake and admission: right jobs go on, wrong ones are answered or buried, none is lost."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from tests.support.redis_side import MAX_BYTES, Side
from velesio_worker.core.logs import configure_logging
from velesio_worker.core.settings import LogFormat
from velesio_worker.execution.handler import JobHandler
from velesio_worker.execution.published import complete_stream
from velesio_worker.queue import slots as slots_module
from velesio_worker.queue.claims import Claim
from velesio_worker.queue.control import request_cancel
from velesio_worker.queue.intake import Arrivals, Intake
from velesio_worker.wire.events import Done
from velesio_worker.wire.jobs import JobType

pytestmark = [pytest.mark.anyio, pytest.mark.topologies]


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """An intake that is to end has not long to wait for its next job."""
    monkeypatch.setattr(slots_module, "BLOCK_SECONDS", 0.1)


def job(**fields: Any) -> bytes:
    return json.dumps({"id": "a", "type": "completion", "data": {"prompt": "hi"}} | fields).encode()


async def sort(side: Side, commands: Any, *payloads: bytes) -> None:
    """Push payloads and let the intake sort them all."""
    await commands.lpush("llama_queue", *payloads)
    slot = side.keys.slot("w1", "intake")
    intake = Intake(
        side.slots,
        side.keys,
        slot,
        Arrivals(),
        max_bytes=MAX_BYTES,
        refuse=side.admission.refuse,
    )
    stopping = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(intake.run, stopping)
        with anyio.fail_after(60):
            while await commands.exists("llama_queue", slot.key):
                await anyio.sleep(0.01)
        stopping.set()


async def admit(side: Side, commands: Any, payload: bytes) -> Claim | None:
    slot = side.slot()
    await commands.lpush(slot.key, payload)
    claim = await side.admission.admit(slot, payload)
    if claim is None:
        assert not await commands.exists(slot.key), "what is over leaves its slot"
    return claim


async def the_end(commands: Any, job_id: str = "a") -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The only terminal entry's event and data, and the result."""
    entries = await commands.xrange(f"stream:{job_id}")
    terminal = [entry for _, entry in entries if entry[b"event"] in {b"done", b"error"}]
    assert len(terminal) == 1, entries
    assert entries[-1][1] == terminal[0]
    result = json.loads(await commands.get(f"result:{job_id}"))
    return terminal[0][b"event"].decode(), json.loads(terminal[0][b"data"]), result


async def test_jobs_go_to_the_list_of_their_kind_in_order(side: Side, commands: Any) -> None:
    texts = [job(id=f"t{number}") for number in range(3)] + [job(id="e", type="embedding", data={"input": "a"})]
    images = [
        job(id="i", type="txt2img", data={"prompt": "a cat"}),
        job(id="j", type="img2img", data={"prompt": "a cat", "init_images": ["iVBORw0KGgo="]}),
    ]
    managing_images = [
        job(id="s", type="switch_model", data={"model": "m"}),
        job(id="u", type="unload_models", data={"kind": "image"}),
    ]
    managing = [job(id="h", type="health_check", data=None), job(id="l", type="load_model", data={"model": "m"})]
    await sort(side, commands, *texts, *images, *managing, *managing_images)
    assert await commands.lrange("{llama_queue}:text", 0, -1) == texts[::-1]
    assert await commands.lrange("{llama_queue}:image", 0, -1) == images[::-1]
    assert await commands.lrange("{llama_queue}:manage", 0, -1) == managing[::-1]
    assert await commands.lrange("{llama_queue}:manage-image", 0, -1) == managing_images[::-1]


async def test_a_job_for_one_worker_goes_to_its_list_or_is_told(side: Side, commands: Any) -> None:
    await sort(side, commands, job(id="here", worker="w1"), job(id="gone", worker="w9"))
    assert await commands.lrange("{llama_queue}:only:w1", 0, -1) == [job(id="here", worker="w1")]
    event, data, result = await the_end(commands, "gone")
    assert (event, data["code"], result["code"]) == ("error", "no_worker", "no_worker")


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"\x00\xff", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "no id"),
        (b'{"id": "a b"}', "a bad id"),
        (b'{"id": 7}', "a bad id"),
    ],
)
async def test_what_names_no_job_is_buried_with_the_reason(
    side: Side, commands: Any, payload: bytes, reason: str
) -> None:
    await sort(side, commands, payload)
    (letter,) = [json.loads(letter) for letter in await commands.lrange("{llama_queue}:dead", 0, -1)]
    assert reason in letter["reason"]


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({"type": "poem"}, "unknown_type", "Unknown job type: poem"),
        ({"type": "Embedding"}, "unknown_type", "Unknown job type: Embedding"),
        ({"type": "rerank", "data": {"query": "a"}}, "bad_job", "data.documents: required"),
        ({"type": "load_model", "data": None}, "bad_job", "data.model: required"),
        ({"data": {}}, "bad_job", "data.prompt: required"),
        ({"data": {"prompt": "x", "heat": 1}}, "bad_job", "data.heat: unknown parameter"),
        ({"timeout": -1}, "bad_job", "timeout"),
    ],
)
async def test_a_wrong_job_with_an_id_is_answered(
    side: Side, commands: Any, fields: dict[str, Any], code: str, message: str
) -> None:
    await sort(side, commands, job(**fields))
    event, data, result = await the_end(commands)
    assert (event, data["code"], data["retryable"], data["partial"]) == ("error", code, False, False)
    assert message in result["error"]
    assert not await commands.exists("{llama_queue}:dead")


async def test_a_job_that_is_too_large_is_buried_and_answered(side: Side, commands: Any) -> None:
    payload = job(data={"prompt": "x" * MAX_BYTES})
    await sort(side, commands, payload)
    event, data, _ = await the_end(commands)
    assert (event, data["code"]) == ("error", "too_large")
    assert "MAX_JOB_BYTES" in data["error"]
    (letter,) = [json.loads(letter) for letter in await commands.lrange("{llama_queue}:dead", 0, -1)]
    assert letter["payload"] == payload.decode()


async def test_a_wrong_job_does_not_disturb_the_running_job_whose_id_it_uses(side: Side, commands: Any) -> None:
    claim = await admit(side, commands, job())
    assert claim is not None
    await sort(side, commands, job(type="poem"))
    assert await commands.llen("{llama_queue}:dead") == 1
    assert await side.closer.done(claim.held, Done({"text": "x"}, "stop"))


async def test_a_right_job_is_claimed(side: Side, commands: Any) -> None:
    claim = await admit(side, commands, job())
    assert claim is not None
    assert (claim.job.id, claim.held.attempt, claim.first) == ("a", 1, True)
    assert await commands.exists(side.slot().key)


async def test_a_second_copy_of_a_running_job_is_dropped(side: Side, commands: Any) -> None:
    claim = await admit(side, commands, job())
    assert claim is not None
    slot = side.slot("text-1")
    await commands.lpush(slot.key, job())
    assert await side.admission.admit(slot, job()) is None
    assert not await commands.exists(slot.key)
    assert await side.closer.done(claim.held, Done({"text": "x"}, "stop")), "the first copy is not disturbed"


async def test_a_finished_job_is_not_run_again_and_its_stream_is_completed(side: Side, commands: Any) -> None:
    claim = await admit(side, commands, job())
    assert claim is not None
    stream = side.publisher.open("a", 1)
    stream.put("start", b"{}")
    await stream.flushed()
    await side.claims.finish(claim.held, b'{"text": "x", "finish_reason": "stop"}')
    await side.slots.ack(claim.held.slot, claim.held.payload)
    for _ in range(2):
        assert await admit(side, commands, job()) is None
        event, data, _ = await the_end(commands)
        assert (event, data["finish_reason"]) == ("done", "stop")


async def test_completing_a_stream_and_its_owner_write_one_end_between_them(side: Side, commands: Any) -> None:
    claim = await admit(side, commands, job())
    assert claim is not None
    await side.claims.finish(claim.held, b'{"error": "no", "code": "internal"}')
    await complete_stream(commands, "a", attempt=1, ttl=100)
    assert 0 < await commands.ttl("stream:a") <= 100
    stream = side.publisher.open("a", 1)
    stream.put("error", b'{"code": "internal"}')
    await stream.flushed()
    await the_end(commands)


TOLD: list[tuple[list[tuple[str, Any]], bool]] = [
    ([], False),
    ([("start", {"mode": "fresh"})], False),
    ([("start", {"mode": "fresh"}), ("token", {"choices": [{"text": "a"}]})], True),
    ([("token", {"choices": [{"text": "a"}]}), ("progress", {"stage": "loading"})], True),
    ([("token", {"choices": [{"text": "a"}]}), ("start", {"mode": "continue"})], True),
    ([("token", {"choices": [{"text": "a"}]}), ("start", {"mode": "restart"})], False),
    ([("token", {"choices": [{"delta": {"role": "assistant", "content": None}}]})], False),
    ([("token", {"choices": [{"delta": {"reasoning_content": "hm"}}]}), ("progress", {})], True),
]


@pytest.mark.parametrize(("entries", "partial"), TOLD)
async def test_an_error_that_is_completed_says_whether_the_stream_holds_output(
    side: Side, commands: Any, entries: list[tuple[str, Any]], *, partial: bool
) -> None:
    claim = await admit(side, commands, job())
    assert claim is not None
    stream = side.publisher.open("a", 1)
    for event, data in entries:
        stream.put(event, json.dumps(data).encode())
    await stream.flushed()
    await side.claims.finish(claim.held, b'{"error": "no", "code": "timeout"}')
    await complete_stream(commands, "a", attempt=1, ttl=100)
    event, data, _ = await the_end(commands)
    assert (event, data["code"], data["partial"]) == ("error", "timeout", partial)


async def test_a_job_that_wants_no_second_attempt_is_not_run_after_its_worker_was_lost(
    side: Side, commands: Any
) -> None:
    assert await admit(side, commands, job(on_crash="fail")) is not None
    await commands.delete(side.slot().key)
    assert await admit(side, commands, job(on_crash="fail")) is None
    assert (await the_end(commands))[1]["code"] == "worker_lost"


async def test_a_stream_that_redis_refuses_costs_no_result(side: Side, commands: Any) -> None:
    claim = await admit(side, commands, job())
    assert claim is not None
    await commands.set("stream:a", "in the way")
    assert await side.closer.done(claim.held, Done({"text": "x"}, "stop"))
    assert json.loads(await commands.get("result:a")) == {"text": "x"}


async def test_an_id_used_again_after_its_result_expired_is_a_new_job(side: Side, commands: Any) -> None:
    first = await admit(side, commands, job(max_attempts=1))
    assert first is not None
    await side.closer.done(first.held, Done({"text": "x"}, "stop"))
    await commands.delete("result:a")
    second = await admit(side, commands, job(max_attempts=1))
    assert second is not None
    assert (second.held.attempt, second.first) == (2, True)
    assert not await commands.exists("stream:a"), "the old end would be read as the new one's"


async def test_a_job_cancelled_while_it_waits_ends_without_running(side: Side, commands: Any) -> None:
    await commands.hset("{result:a}:job", "cancel", 1)
    assert await admit(side, commands, job()) is None
    event, data, result = await the_end(commands)
    assert (event, data["finish_reason"]) == ("done", "cancelled")
    assert (result["text"], result["finish_reason"]) == ("", "cancelled")


TEXT: dict[str, Any] = {"text": "One two", "index": 0}
THOUGHT: dict[str, Any] = {"delta": {"reasoning_content": "hm"}, "index": 0}


@pytest.mark.parametrize(
    ("how", "piece"),
    [("cancelled", TEXT), *((how, piece) for how in ("expired", "lost too often") for piece in (TEXT, THOUGHT))],
)
async def test_what_an_earlier_attempt_published_counts_when_the_job_ends_unrun(
    side: Side, commands: Any, how: str, piece: dict[str, Any]
) -> None:
    streamed: dict[str, Any] = {
        "data": {"prompt": "x", "stream": True},
        "max_attempts": 1 if how == "lost too often" else 3,
    }
    if how == "expired":
        streamed["expires_at"] = time.time() + 3600
    first = await admit(side, commands, job(**streamed))
    assert first is not None
    stream = side.publisher.open("a", 1)
    stream.put("start", b'{"mode": "fresh"}')
    stream.put("token", json.dumps({"choices": [piece]}).encode())
    await stream.flushed()
    await side.claims.hand_back(first.held, in_good_order=False)
    await commands.delete("{llama_queue}:text")
    if how == "cancelled":
        await commands.hset("{result:a}:job", "cancel", 1)
    if how == "expired":
        streamed["expires_at"] = time.time() - 1
    assert await admit(side, commands, job(**streamed)) is None
    event, data, result = await the_end(commands)
    if how == "cancelled":
        assert (event, data["finish_reason"], result["text"]) == ("done", "cancelled", "One two")
    else:
        assert (event, data["partial"]) == ("error", True)


async def test_a_new_submission_under_an_old_id_has_one_end(side: Side, commands: Any) -> None:
    first = await admit(side, commands, job())
    assert first is not None
    await side.closer.done(first.held, Done({"text": "x"}, "stop"))
    await commands.delete("result:a")
    await request_cancel(commands, side.keys, "a")
    assert await side.scripts.cancelled("a"), "a worker has heard it"
    assert await admit(side, commands, job()) is None
    assert (await the_end(commands))[1]["finish_reason"] == "cancelled"


async def test_a_job_past_its_expiry_never_runs(side: Side, commands: Any) -> None:
    assert await admit(side, commands, job(expires_at=time.time() - 1)) is None
    assert (await the_end(commands))[1]["code"] == "expired"
    assert await admit(side, commands, job(id="b", expires_at=time.time() + 100)) is not None


async def test_a_job_that_was_lost_too_often_is_buried_and_answered(side: Side, commands: Any) -> None:
    for _ in range(2):
        assert await admit(side, commands, job(max_attempts=2)) is not None
        await commands.delete(side.slot().key)
    assert await admit(side, commands, job(max_attempts=2)) is None
    event, data, result = await the_end(commands)
    assert (event, data["code"], result["code"]) == ("error", "worker_lost", "worker_lost")
    assert await commands.llen("{llama_queue}:dead") == 1


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.mark.parametrize("on_crash", ["fail", "restart"])
async def test_a_job_that_was_lost_too_often_leaves_lines_that_name_it(
    side: Side, commands: Any, capsys: pytest.CaptureFixture[str], on_crash: str
) -> None:
    configure_logging("INFO", LogFormat.JSON, worker="w1")
    assert await admit(side, commands, job(max_attempts=1, on_crash=on_crash)) is not None
    await commands.delete(side.slot().key)
    capsys.readouterr()
    assert await admit(side, commands, job(max_attempts=1, on_crash=on_crash)) is None
    lines = lines_of(capsys)
    named = {"job_id": "a", "attempt": 2, "engine": "text", "worker": "w1"}
    assert all(line.items() >= named.items() for line in lines), lines
    assert [line["action"] for line in lines] == ["job_failed", *(["job_buried"] if on_crash == "restart" else [])]
    assert (lines[0]["code"], lines[0]["type"]) == ("worker_lost", "completion")


async def test_a_wrong_job_and_one_that_expired_are_named_in_the_log(
    side: Side, commands: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("INFO", LogFormat.JSON, worker="w1")
    await sort(side, commands, job(id="wrong", type="nonsense"))
    await admit(side, commands, job(id="late", expires_at=time.time() - 1))
    named = [(line["action"], line["job_id"], line["attempt"], line["code"]) for line in lines_of(capsys)]
    assert named == [("job_refused", "wrong", 1, "unknown_type"), ("job_expired", "late", 1, "expired")]


async def test_a_job_that_could_not_be_handled_is_named_in_the_log(
    side: Side, commands: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    async def break_off(*_: object) -> None:
        raise RuntimeError("a mistake")

    configure_logging("INFO", LogFormat.JSON, worker="w1")
    admission = cast("Any", SimpleNamespace(admit=break_off))
    desk = JobHandler(side.closer, admission, cast("Any", None), cast("Any", None), cast("Any", None))
    await commands.lpush(side.slot().key, job())
    await desk.process(side.slot(), job())
    assert await commands.llen("{llama_queue}:dead") == 1
    assert [(line["action"], line["job_id"]) for line in lines_of(capsys)] == [
        ("job_unhandled", "a"),
        ("job_buried", "a"),
    ]


@pytest.mark.parametrize("how", ["as it comes in", "from the list of its kind"])
async def test_a_job_of_a_type_that_is_not_taken_is_refused_with_the_setting(
    side: Side, commands: Any, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    taken = frozenset({JobType.TOKENIZE})
    if how == "as it comes in":
        slot = side.keys.slot("w1", "intake")
        refuse = side.admission.refuse
        intake = Intake(side.slots, side.keys, slot, Arrivals(), max_bytes=10_000, refuse=refuse, types=taken)
        await commands.lpush("llama_queue", job())
        payload = await side.slots.take("llama_queue", slot)
        assert payload is not None
        await intake._sort(payload)  # pyright: ignore[reportPrivateUsage]
    else:
        monkeypatch.setattr(side.admission, "_types", taken)
        assert await admit(side, commands, job()) is None
    event, data, _ = await the_end(commands)
    assert (event, data["code"]) == ("error", "bad_job")
    assert data["error"] == "completion jobs are not taken here; JOB_TYPES allows tokenize."
