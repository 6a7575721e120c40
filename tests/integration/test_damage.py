"""Whatever has a readable id gets its result and its one last entry, whatever others did to its keys."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import partial
from typing import Any, cast

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.exceptions import ResponseError

from tests.support.llama_chunks import COMPLETION
from tests.support.text_bench import PATIENCE, READY, Bench, whole
from velesio_worker.execution.handler import JobHandler
from velesio_worker.execution.published import read_published
from velesio_worker.observability.monitor import Monitor
from velesio_worker.queue.claims import Held
from velesio_worker.queue.keys import job_key, result_key, stream_key
from velesio_worker.wire.errors import BadJobError
from velesio_worker.wire.events import TERMINAL, Done

pytestmark = pytest.mark.anyio

STREAM, RESULT, STATE = stream_key("a"), result_key("a"), job_key("a")
LIVE = {"id": "a", "type": "completion", "data": {"prompt": "hi", "stream": True}}


class Handled:
    """A worker's handler between the real Redis and a scripted engine."""

    def __init__(self, bench: Bench, commands: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bench = bench
        self.commands = commands
        side = bench.side
        monkeypatch.setattr(bench, "published", partial(read_published, commands))
        monitor = cast("Monitor", type("MonitorDouble", (), {"utilisation": None, "last_job": None})())
        self.handler = JobHandler(side.closer, side.admission, bench.executor(), side.fleet, monitor)

    async def handle(self, payload: bytes) -> None:
        slot = self.bench.side.slot()
        await self.commands.lpush(READY, payload)
        assert await self.bench.side.slots.take(READY, slot) == payload
        with anyio.fail_after(PATIENCE):
            await self.handler.process(slot, payload)
            while await self.commands.lrem(READY, 1, payload):  # it goes on with its next attempt
                await self.commands.lpush(slot.key, payload)
                await self.handler.process(slot, payload)
        assert not await self.commands.exists(slot.key), "the slot is free"

    async def result(self) -> dict[str, Any] | None:
        """The job's result; None if its key holds something else."""
        try:
            return json.loads(await self.commands.get(RESULT) or b"null")
        except (ResponseError, ValueError):
            return None

    async def last_entries(self) -> list[tuple[str, dict[str, Any]]] | None:
        """The last entries in the job's stream, of which there should be one; None if its key is no stream."""
        try:
            found = await self.commands.xrange(STREAM)
        except ResponseError:
            return None
        entries = [(fields.get(b"event", b"").decode(), fields.get(b"data")) for _, fields in found]
        return [(event, json.loads(data)) for event, data in entries if event in TERMINAL]

    async def letters(self) -> list[str]:
        return [letter["reason"] for letter in await self.bench.letters()]


@pytest.fixture
def handled(bench: Bench, commands: Any, monkeypatch: pytest.MonkeyPatch) -> Handled:
    bench.double.answers[COMPLETION] = [whole("Once", " upon")]
    return Handled(bench, commands, monkeypatch)


def live(**fields: Any) -> bytes:
    return json.dumps(LIVE | fields).encode()


FOREIGN = f"{STREAM} has entries that no worker wrote: delete it, or use another id."


async def test_a_job_ends_as_soon_as_its_stream_is_seen_to_hold_what_no_worker_wrote(
    handled: Handled, commands: Any
) -> None:
    await commands.xadd(STREAM, {"event": "queued", "data": "{}"})
    handled.bench.double.answers[COMPLETION] = [whole(*["x"] * 3000)]
    await handled.handle(live())
    assert await handled.result() == {"error": FOREIGN, "code": "bad_job"}
    assert await handled.last_entries() == [("error", BadJobError(FOREIGN).entry(partial=False))]
    assert await handled.letters() == [FOREIGN]


@pytest.mark.parametrize("emptied", [False, True])
async def test_an_answer_that_was_faster_says_that_its_stream_holds_none_of_it(
    handled: Handled, commands: Any, *, emptied: bool
) -> None:
    await commands.xadd(STREAM, {"event": "queued", "data": "{}"})
    if emptied:
        await commands.xtrim(STREAM, maxlen=0)
    await handled.handle(live())
    result, last = await handled.result(), await handled.last_entries()
    assert result is not None
    assert last is not None
    (event, data) = last[0]
    if event == "done":
        assert result["text"] == "Once upon"
        assert result["warnings"] == data["warnings"]
    assert STREAM in (result["warnings"][0] if event == "done" else result["error"])


async def test_entries_that_come_while_the_job_runs_cost_it_no_result(handled: Handled, commands: Any) -> None:
    claim_stream = handled.bench.side.publisher.open("b", 1)
    claim_stream.put("start", b"{}")
    await claim_stream.flushed()
    await commands.xadd(stream_key("b"), {"event": "note", "data": "[1]"})
    slot = handled.bench.side.slot()
    payload = live(id="b")
    await commands.lpush(slot.key, payload)
    reply = await handled.bench.side.claims.claim("b", slot, 3)
    held = Held("b", slot, payload, reply.attempt)
    done = Done({"text": "all of it", "finish_reason": "stop"}, "stop")
    assert await handled.bench.side.closer.done(held, done, claim_stream)
    assert json.loads(await commands.get(result_key("b")))["text"] == "all of it"
    (_, fields), *_ = await commands.xrevrange(stream_key("b"), count=1)
    assert fields[b"event"] == b"done"


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (key, kind)
        for key, right in ((STREAM, "stream"), (RESULT, "string"), (STATE, "hash"))
        for kind in ("string", "list", "hash", "set")
        if kind != right
    ],
)
async def test_a_key_of_another_type_is_named(handled: Handled, commands: Any, key: str, kind: str) -> None:
    await spoil(commands, key, kind)
    await handled.handle(live())
    result, last = await handled.result(), await handled.last_entries()
    letters = await handled.letters()
    assert (result is None, last is None, len(letters)) == (key == RESULT, key == STREAM, 1)
    assert f"{key} is a {kind}, where a" in letters[0]
    for told in (result, last[0][1] if last else None):
        assert told is None or key in json.dumps(told)
    assert last is None or len(last) == 1


async def test_a_result_that_redis_does_not_take_is_told(handled: Handled, commands: Any) -> None:
    before = (await commands.config_get("proto-max-bulk-len"))["proto-max-bulk-len"]
    handled.bench.double.answers[COMPLETION] = [whole(*["x" * 500_000] * 5)]
    await commands.config_set("proto-max-bulk-len", 2_000_000)
    try:
        await handled.handle(live())
    finally:
        await commands.config_set("proto-max-bulk-len", before)
    result, last = await handled.result(), await handled.last_entries()
    assert result is not None
    assert (result["code"], "Redis does not take the result of 25" in result["error"]) == ("too_large", True)
    assert last is not None
    assert [(event, data["code"], data["partial"]) for event, data in last] == [("error", "too_large", True)]
    assert await commands.keys("*:parts:*") == []
    assert await handled.letters() == []


async def test_a_result_above_the_limit_is_told(handled: Handled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handled.bench.side.closer, "_largest", 100)
    handled.bench.double.answers[COMPLETION] = [whole("x" * 200)]
    await handled.handle(live())
    result = await handled.result()
    assert result is not None
    assert result["code"] == "too_large"
    assert "MAX_RESULT_BYTES allows 100" in result["error"]


async def test_a_mistake_of_the_workers_is_answered(handled: Handled, monkeypatch: pytest.MonkeyPatch) -> None:
    async def break_off(*_: object) -> None:
        raise KeyError("my secret")

    monkeypatch.setattr(handled.bench.side.admission, "admit", break_off)
    await handled.handle(live())
    assert await handled.result() == {
        "error": "The job could not be handled: the worker made a mistake (KeyError); its log has the details.",
        "code": "internal",
    }
    assert [event for event, _ in await handled.last_entries() or []] == ["error"]
    assert "secret" not in (await handled.letters())[0]


async def test_a_job_that_another_worker_holds_is_not_answered_in_its_place(
    handled: Handled, commands: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def break_off(*_: object) -> None:
        raise KeyError

    other = handled.bench.side.keys.slot("w1", "text-1")
    await commands.lpush(other.key, live())
    await handled.bench.side.claims.claim("a", other, 3)
    monkeypatch.setattr(handled.bench.side.admission, "admit", break_off)
    await handled.handle(live())
    assert await handled.result() is None
    assert await handled.last_entries() == []
    assert len(await handled.letters()) == 1


async def spoil(commands: Any, key: str, kind: str) -> None:
    match kind:
        case "string":
            await commands.set(key, "in the way")
        case "list":
            await commands.lpush(key, "in the way")
        case "hash":
            await commands.hset(key, "in", "the way")
        case "set":
            await commands.sadd(key, "in the way")
        case _:
            await commands.xadd(key, {"in": "the way"}, id=kind)


KINDS = ["string", "list", "set"]
IDS = ["*", "0-1", "1-0", "1-5", "7-3", "4000000000-1"]
ODD = st.sampled_from(["", "0", "-1", "abc", "1e400", "nan", "99999999999999999999", "1.5", "w9", "\x00"])
CHANGED: list[dict[str, Any]] = [
    {},
    {"data": {"prompt": "hi"}},
    {"data": {"prompt": 7}},
    {"type": "banana"},
    {"expires_at": 1},
    {"max_attempts": 1},
]
DAMAGE = st.lists(
    st.one_of(
        st.tuples(st.just("type"), st.sampled_from([STREAM, RESULT, STATE]), st.sampled_from(KINDS)),
        st.tuples(st.just("entry"), st.just(STREAM), st.sampled_from(IDS)),
        st.tuples(
            st.sampled_from(["attempt", "base", "returned", "owner", "slot", "nonce", "cancel", "finished_by"]),
            st.just(STATE),
            ODD,
        ),
    ),
    max_size=4,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=DAMAGE, changed=st.sampled_from(CHANGED))
async def test_whatever_is_done_to_its_keys_a_job_ends(
    handled: Handled, commands: Any, damage: list[tuple[str, str, str]], changed: dict[str, Any]
) -> None:
    await commands.delete(STREAM, RESULT, STATE, "{llama_queue}:dead", "{llama_queue}:text")
    handled.bench.double.answers[COMPLETION] = [whole("Once", " upon")]
    for what, key, value in damage:
        with suppress(ResponseError):  # the key is spoilt otherwise already
            if what == "type":
                await commands.delete(key)
            if what in {"type", "entry"}:
                await spoil(commands, key, value)
            else:
                await commands.hset(key, what, value)
    spoilt_result = await commands.exists(RESULT)
    await handled.handle(live(**changed))
    result, last, letters = await handled.result(), await handled.last_entries(), await handled.letters()
    assert last is None or len(last) == 1, "one last entry"
    assert result is not None or (last is not None and letters) or spoilt_result
    assert last is not None or letters, "a stream that takes no entries is told in a dead letter"
    assert result is not None or letters
