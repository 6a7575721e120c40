"""What a run leaves in the log and in the metrics, and what it does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.figures import figure, rise
from tests.support.runs import MODEL, make_run
from velesio_worker.core.logs import configure_logging, fields_in_log
from velesio_worker.core.settings import LogFormat
from velesio_worker.engines.llama.refusals import decode_refusal
from velesio_worker.engines.webui.api import refusal
from velesio_worker.execution.report import report
from velesio_worker.execution.run import Outcome, Run
from velesio_worker.wire.errors import (
    BadJobError,
    EngineCrashedError,
    EngineFailedError,
    EngineRefusedError,
    EngineUnavailableError,
    FencedError,
    JobError,
    ModelUnavailableError,
    StreamLostError,
)
from velesio_worker.wire.events import Done

GEN_AI = {"gen_ai_operation_name": "text_completion", "gen_ai_response_model": MODEL}
FIRST_TOKEN = "gen_ai_server_time_to_first_token_seconds"
PER_TOKEN = "gen_ai_server_time_per_output_token_seconds"
DURATION = "gen_ai_server_request_duration_seconds"
USAGE = {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
DONE = Done({"text": "the ANSWER", "finish_reason": "stop", "usage": USAGE}, "stop", USAGE)

pytestmark = pytest.mark.anyio

Logged = Callable[..., list[dict[str, Any]]]


def generated(run: Run, tokens: int = 4) -> Run:
    """Have a run made some tokens: the first after half a second, the last after one and a half."""
    times = run.times
    times.granted_at, times.first_token_at, times.made_at = times.began + 0.1, times.began + 0.5, times.began + 1.5
    run.answer.tokens = tokens
    return run


@pytest.fixture
def logged(capsys: pytest.CaptureFixture[str]) -> Logged:
    """Have a run reported; returns the lines that it leaves in the log."""

    def reported(run: Run, outcome: Outcome, *, level: str = "INFO", log_prompts: bool = False) -> list[dict[str, Any]]:
        configure_logging(level, LogFormat.JSON, worker="w1")
        with fields_in_log(job_id=run.job.id, attempt=run.claim.held.attempt, engine="text"):
            run.outcome = outcome
            report(run, log_prompts=log_prompts)
        return [json.loads(line) for line in capsys.readouterr().err.splitlines()]

    return reported


async def test_a_job_that_is_done_leaves_one_line(logged: Logged) -> None:
    (line,) = logged(generated(make_run()), DONE)
    assert line.pop("time").endswith("Z")
    assert 2000 <= line.pop("duration_ms") < 60_000
    assert line == {
        "action": "job_done",
        "message": "job done",
        "level": "info",
        "logger": "velesio_worker.execution.report",
        "worker": "w1",
        "engine": "text",
        "job_id": "a",
        "attempt": 1,
        "type": "completion",
        "finish_reason": "stop",
        "tokens": 4,
        "model": MODEL,
        "first_token_ms": 500,
    }


async def test_an_answer_from_the_cache_is_told_as_such(logged: Logged) -> None:
    run = make_run()
    run.answer.cached = True
    (line,) = logged(run, DONE)
    assert (line["action"], line["cached"]) == ("job_done", True)


@pytest.mark.parametrize(
    ("outcome", "last", "action", "level"),
    [
        (None, False, "job_handed_back", "info"),
        (FencedError(), False, "job_fenced", "warning"),
        (StreamLostError(), False, "job_handed_back", "warning"),
        (EngineUnavailableError(), False, "job_handed_back", "warning"),
        (EngineFailedError(), False, "job_without_engine", "warning"),
        (ModelUnavailableError(), False, "job_without_engine", "warning"),
        (EngineCrashedError(), False, "job_handed_back", "warning"),
        (EngineCrashedError(), True, "job_failed", "warning"),
        (BadJobError("no"), False, "job_failed", "warning"),
    ],
)
async def test_each_other_end_leaves_one_line_too(
    logged: Logged, outcome: Outcome, action: str, level: str, *, last: bool
) -> None:
    run = make_run(last=last)
    run.ended = action == "job_failed"
    (line,) = logged(run, outcome)
    assert (line["action"], line["level"]) == (action, level)
    assert {"job_id", "attempt", "worker", "engine", "duration_ms"} <= line.keys()
    assert line.get("code") == (outcome.code if isinstance(outcome, JobError) else None)


async def test_a_result_that_came_too_late_is_not_told_as_done(logged: Logged) -> None:
    run = generated(make_run())
    run.ended = False
    with rise(f"{DURATION}_count", **GEN_AI, error_type="") as counted:
        (line,) = logged(run, DONE)
    assert line["action"] != "job_done"
    assert counted.by == 0


async def test_with_debug_each_stage_is_timed(logged: Logged) -> None:
    _, line = logged(generated(make_run(waited=3.25)), DONE, level="DEBUG")
    assert line["action"] == "job_stages"
    stages = {name: value for name, value in line.items() if name.endswith("_ms")}
    assert 500 <= stages.pop("closing_ms") < 60_000
    assert stages == {"queued_ms": 3250, "engine_wait_ms": 100, "prompt_ms": 400, "generation_ms": 1000}
    assert (line["job_id"], line["attempt"], line["worker"], line["engine"]) == ("a", 1, "w1", "text")


async def test_stages_that_a_job_did_not_get_to_are_left_out(logged: Logged) -> None:
    run = make_run()
    run.ended, run.times.made_at = False, run.times.began + 1
    _, line = logged(run, EngineUnavailableError(), level="DEBUG")
    assert {name for name in line if name.endswith("_ms")} == {"generation_ms", "closing_ms"}


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
@pytest.mark.parametrize("outcome", [DONE, BadJobError("no"), None])
async def test_neither_prompt_nor_answer_is_logged(logged: Logged, level: str, outcome: Outcome) -> None:
    text = json.dumps(logged(generated(make_run()), outcome, level=level))
    assert "PROMPT" not in text
    assert "ANSWER" not in text


@pytest.mark.parametrize(
    "said",
    [
        'llama-server: no such tool in {"content": "the PROMPT"}',
        "llama-server: bad token in ['the PROMPT']",
        "llama-server refuses the job:\nthe PROMPT",
    ],
)
@pytest.mark.parametrize("kind", [BadJobError, EngineRefusedError, ModelUnavailableError])
async def test_what_an_engine_quotes_of_a_job_is_left_out(logged: Logged, kind: type[JobError], said: str) -> None:
    (line,) = logged(make_run(), kind(said))
    assert "PROMPT" not in json.dumps(line)
    assert said[:12] in line["message"]


@pytest.mark.parametrize(
    "error",
    [
        decode_refusal(400, {"error": {"message": "unrecognized type the PROMPT", "type": "invalid_request_error"}}),
        decode_refusal(500, {"error": {"message": "last read: the PROMPT\nand the PROMPT"}}),
        refusal(500, {"error": "KeyError", "errors": "'the PROMPT'"}),
        refusal(422, {"detail": [{"loc": ["body", "prompt"], "msg": "bad: the PROMPT"}]}),
    ],
    ids=["refused", "failed", "webui", "webui's list"],
)
async def test_an_engines_own_words_are_in_the_result_and_not_in_the_log(logged: Logged, error: JobError) -> None:
    run = make_run()
    run.ended = True
    (line,) = logged(run, error)
    assert "PROMPT" in str(error)
    assert "PROMPT" not in json.dumps(line)
    assert "the words stand in the result" in line["message"]
    assert line["code"] == error.code


async def test_a_failure_of_what_is_another_attempts_is_not_told_as_the_jobs(logged: Logged) -> None:
    run = make_run()
    run.ended = False
    (line,) = logged(run, BadJobError("no"))
    assert (line["action"], line["code"]) == ("job_superseded", "bad_job")


async def test_both_are_logged_where_an_operator_wants_that(logged: Logged) -> None:
    _, line = logged(generated(make_run()), DONE, log_prompts=True)
    assert (line["action"], line["level"], line["job_id"], line["attempt"]) == ("job_texts", "info", "a", 1)
    assert (line["asked"], line["answer"]) == ({"prompt": "the PROMPT"}, "the ANSWER")


async def test_of_a_job_that_failed_there_is_no_answer(logged: Logged) -> None:
    _, line = logged(make_run(), BadJobError("no"), log_prompts=True)
    assert line["asked"] == {"prompt": "the PROMPT"}
    assert "answer" not in line


async def test_a_chats_messages_and_its_answer_are_logged_whole(logged: Logged) -> None:
    messages = [{"role": "user", "content": "the PROMPT"}]
    message: dict[str, Any] = {"role": "assistant", "content": "the ANSWER", "tool_calls": []}
    done = Done({"text": "the ANSWER", "message": message, "usage": None}, "stop")
    _, line = logged(make_run(type="chat_completion", data={"messages": messages}), done, log_prompts=True)
    assert (line["asked"], line["answer"]) == ({"messages": messages}, message)


async def test_images_are_cut(logged: Logged) -> None:
    image = "iVBOR" * 40_000
    url = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}}
    run = make_run(type="chat_completion", data={"messages": [{"role": "user", "content": [url]}]})
    _, line = logged(run, Done({"text": "a cat " * 10_000, "usage": None}, "stop"), log_prompts=True)
    assert len(json.dumps(line)) < 25_000
    assert line["asked"]["messages"].endswith("characters)")
    assert line["answer"].endswith("… (60000 characters)")
    data = {"prompt": "a cat", "init_images": [image], "denoising_strength": 0.5}
    _, line = logged(make_run(type="img2img", data=data), Done({"images": [image]}, "stop"), log_prompts=True)
    assert len(json.dumps(line)) < 15_000
    assert line["asked"]["prompt"] == "a cat"


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


async def test_a_trace_is_told_by_its_id(logged: Logged) -> None:
    run = make_run(traceparent=f"00-{TRACE}-00f067aa0ba902b7-01")
    for line in logged(generated(run), DONE, level="DEBUG", log_prompts=True):
        assert line["trace_id"] == TRACE


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "x",
        f"00-{TRACE}",
        f"00_{TRACE}",
        "-",
        "00-" + "x" * 200,
        "no-SECRET-of-mine",
        f"00-{TRACE.upper()}-00f067aa0ba902b7-01",
    ],
)
async def test_what_is_no_traceparent_is_not_logged(logged: Logged, traceparent: str) -> None:
    """It is the producer's own, and may be of any length."""
    (line,) = logged(make_run(traceparent=traceparent), DONE)
    assert "trace_id" not in line
    assert len(json.dumps(line)) < 1000


async def test_a_job_that_is_done_is_measured(logged: Logged) -> None:
    labels = {"type": "completion", "model": MODEL}
    with (
        rise(f"{DURATION}_count", **GEN_AI, error_type="") as ended,
        rise(f"{FIRST_TOKEN}_sum", **GEN_AI) as first,
        rise(f"{PER_TOKEN}_sum", **GEN_AI) as each,
        rise("velesio_prompt_tokens_total", **labels) as prompt,
        rise("velesio_output_tokens_total", **labels) as output,
        rise("velesio_priority_tokens_total", priority="normal") as served,
    ):
        logged(generated(make_run()), DONE)
    assert served.by == 9
    assert (ended.by, prompt.by, output.by) == (1, 5, 4)
    assert first.by == pytest.approx(0.5)
    assert each.by == pytest.approx(1 / 3), "a second for the three tokens after the first"


async def test_an_error_is_measured_under_its_code_and_made_no_tokens(logged: Logged) -> None:
    with (
        rise(f"{DURATION}_count", **GEN_AI, error_type="bad_job") as ended,
        rise(f"{FIRST_TOKEN}_count", **GEN_AI) as first,
    ):
        logged(generated(make_run()), BadJobError("no"))
    assert (ended.by, first.by) == (1, 0)


async def test_a_cached_answer_costs_no_tokens(logged: Logged) -> None:
    run = make_run()
    run.answer.cached, run.answer.tokens, run.times.first_token_at, run.times.made_at = (
        True,
        4,
        run.times.began,
        run.times.began + 1,
    )
    with (
        rise(f"{DURATION}_count", **GEN_AI, error_type="") as ended,
        rise(f"{FIRST_TOKEN}_count", **GEN_AI) as first,
        rise(f"{PER_TOKEN}_count", **GEN_AI) as each,
        rise("velesio_output_tokens_total", type="completion", model=MODEL) as output,
    ):
        logged(run, DONE)
    assert (ended.by, first.by, each.by, output.by) == (1, 0, 0, 0)


async def test_the_first_token_of_a_later_attempt_is_no_first_token(logged: Logged) -> None:
    with (
        rise(f"{FIRST_TOKEN}_count", **GEN_AI) as first,
        rise("velesio_jobs_resumed_total", mode="continue") as resumed,
    ):
        logged(generated(make_run(attempt=2)), DONE)
    assert (first.by, resumed.by) == (0, 1)


@pytest.mark.parametrize("outcome", [None, FencedError(), StreamLostError(), EngineUnavailableError()])
async def test_what_is_not_over_is_not_measured(logged: Logged, outcome: Outcome) -> None:
    run = generated(make_run())
    run.ended = False
    before = [figure(f"{DURATION}_count", **GEN_AI, error_type=code) for code in ("", "engine_unavailable")]
    logged(run, outcome)
    assert [figure(f"{DURATION}_count", **GEN_AI, error_type=code) for code in ("", "engine_unavailable")] == before


async def test_a_single_token_has_no_pace(logged: Logged) -> None:
    one = {"prompt_tokens": 5, "completion_tokens": 1}
    with rise(f"{PER_TOKEN}_count", **GEN_AI) as each:
        logged(generated(make_run(), tokens=1), Done({"text": "x", "usage": one}, "length", one))
    assert each.by == 0


@pytest.mark.parametrize("usage", [{"prompt_tokens": "8", "completion_tokens": -3}, "much", [1], None])
async def test_a_strange_usage_spoils_no_end(logged: Logged, usage: Any) -> None:
    (line,) = logged(generated(make_run()), Done({"text": "x", "usage": usage}, "stop"))
    assert line["action"] == "job_done"
