"""Filling in between a prefix and a suffix: as a completion, on a path of its own."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any, Final

import pytest

from tests.doubles.engine import Answer, End, EngineDouble, document, sse
from tests.support.generations import events_of
from tests.support.llama_chunks import COMPLETION, TIMINGS, USAGE, choices, last_piece, piece, run
from tests.support.waiting import until
from velesio_worker.engines.base import Generation
from velesio_worker.engines.http import EngineHTTP
from velesio_worker.engines.llama.engine import LlamaEngine, LlamaProperties
from velesio_worker.wire.errors import BadJobError, EngineCrashedError
from velesio_worker.wire.text_parameters import InfillParameters

pytestmark = pytest.mark.anyio

INFILL: Final = "/infill"
TOKENIZE: Final = "/tokenize"
SAMPLING: Final = {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "repeat_penalty": 1.1}
AROUND: Final = {"input_prefix": "def f(", "input_suffix": "return x"}


def infill(http: EngineHTTP, *, after: str = "", pieces: int = 0, **parameters: Any) -> Generation:
    return LlamaEngine(http, LlamaProperties("tiny", 2048, 2)).generate(
        InfillParameters.model_validate(AROUND | parameters), after, pieces
    )


async def test_the_server_is_asked_with_prefix_and_suffix(double: EngineDouble, http: EngineHTTP) -> None:
    double.answers[INFILL] = [Answer([sse(last_piece())])]
    extra = [{"filename": "a.py", "text": "x = 1"}]
    await run(infill(http))
    await run(infill(http, prompt="    ", max_tokens=7, stream=True, seed=3, input_extra=extra, model="tiny"))
    whole = {"stream": True, "return_progress": True, **AROUND, **SAMPLING}
    assert [request.path for request in double.requests] == [INFILL, INFILL]
    assert [request.body for request in double.requests] == [
        {"prompt": "", "n_predict": 150, **whole},
        {"prompt": "    ", "n_predict": 7, "seed": 3, "input_extra": extra, **whole},
    ]


async def test_the_text_between_comes_in_tokens_and_is_the_result(double: EngineDouble, http: EngineHTTP) -> None:
    double.answers[INFILL] = [Answer([sse(piece("x")), sse(piece("):\n")), sse(last_piece())])]
    tokens, _, done = await run(infill(http))
    assert choices(tokens) == [
        {"text": "x", "index": 0, "finish_reason": None},
        {"text": "):\n", "index": 0, "finish_reason": None},
    ]
    assert done.result == {"text": "x):\n", "finish_reason": "stop", "usage": USAGE, "timings": TIMINGS}


async def test_the_text_between_ends_before_a_stop_string(double: EngineDouble, http: EngineHTTP) -> None:
    double.answers[INFILL] = [Answer([sse(piece("x):"), piece("\n"), piece("\ny")), sse(last_piece())], End.OPEN)]
    tokens, _, done = await run(infill(http, stop="\n\n"))
    assert "stop" not in double.requests[-1].body
    assert [choice["text"] for choice in choices(tokens)] == ["x):"]
    assert (done.result["text"], done.finish_reason) == ("x):", "stop")


async def test_a_stop_string_that_an_infill_only_begins_is_not_lost(double: EngineDouble, http: EngineHTTP) -> None:
    double.answers[INFILL] = [Answer([sse(piece("x):"), piece("\n"), last_piece("limit"))])]
    _, _, done = await run(infill(http, stop="\n\n"))
    assert (done.result["text"], done.finish_reason) == ("x):\n", "length")


async def test_going_on_after_a_loss_lengthens_the_prompt(double: EngineDouble, http: EngineHTTP) -> None:
    double.answers[TOKENIZE] = [document({"tokens": [1, 2, 3]})]
    double.answers[INFILL] = [Answer([sse(piece(":\n")), sse(last_piece(tokens_evaluated=12, tokens_predicted=1))])]
    tokens, _, done = await run(infill(http, after="x)", pieces=2, prompt="    ", max_tokens=9))
    counted, asked = double.requests
    assert (counted.path, counted.body) == (TOKENIZE, {"content": "x)"})
    assert (asked.body["prompt"], asked.body["n_predict"]) == ("    x)", 6)
    assert {name: asked.body[name] for name in AROUND} == AROUND
    assert [choice["text"] for choice in choices(tokens)] == [":\n"]
    assert done.result["text"] == "x):\n"
    assert done.usage == {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}


async def test_a_model_that_cannot_is_told_in_the_servers_words(double: EngineDouble, http: EngineHTTP) -> None:
    reason = "Infill is not supported by this model: prefix token is missing. "
    double.answers[INFILL] = [document({"error": {"code": 501, "message": reason, "type": "not_supported_error"}}, 501)]
    with pytest.raises(BadJobError, match="prefix token is missing"):
        await run(infill(http))


@pytest.mark.parametrize("end", [End.CUT, End.RESET, End.WHOLE])
async def test_an_answer_that_ends_early_is_a_crash(double: EngineDouble, http: EngineHTTP, end: End) -> None:
    double.answers[INFILL] = [Answer([sse(piece("x"))], end)]
    with pytest.raises(EngineCrashedError):
        await run(infill(http))
    assert COMPLETION not in {request.path for request in double.requests}


async def test_closing_a_run_early_closes_the_connection(double: EngineDouble, http: EngineHTTP) -> None:
    double.answers[INFILL] = [Answer([sse(piece("x"))], End.OPEN)]
    generation = infill(http)
    async with aclosing(events_of(generation)) as batches:
        async for _ in batches:
            break
    await until(double.left.is_set)
    assert generation.cut_short().result["text"] == "x"
