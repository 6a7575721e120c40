"""What llama-server would pass over without a word is refused, with what there is."""

from __future__ import annotations

from typing import Any

import pytest

from tests.doubles.engine import EngineDouble, document, healthy
from velesio_worker.engines.http import EngineHTTP
from velesio_worker.engines.llama.engine import LlamaEngine, LlamaProperties
from velesio_worker.engines.llama.limits import LlamaLimits, read_limits
from velesio_worker.engines.llama.server import asked
from velesio_worker.wire.chat_parameters import ChatCompletionParameters
from velesio_worker.wire.errors import BadJobError
from velesio_worker.wire.text_parameters import CompletionParameters, InfillParameters, TextParameters

pytestmark = pytest.mark.anyio

MODELS = {"data": [{"id": "tiny", "meta": {"n_vocab": 100}}]}
ADAPTERS = [{"id": 0, "path": "a.gguf", "scale": 1.0}, {"id": 3, "path": "b.gguf", "scale": 0.0}]
KNOWN = LlamaLimits(100, frozenset({0, 3}))
TOKENS = "the model has 100 tokens: their ids are 0 to 99"

BEYOND: list[tuple[dict[str, Any], str]] = [
    ({"id_slot": 2}, "id_slot: llama-server has the slots 0 to 1; -1 is any of them"),
    (
        {"lora": [{"id": 0, "scale": 1}, {"id": 1, "scale": 1}]},
        "no adapter 1: llama-server has those with the ids 0, 3",
    ),
    *(
        ({"logit_bias": bias}, f"logit_bias: {TOKENS}")
        for bias in ([[5, 1], [100, 1]], {"100": 1}, {" +100": False}, {"-1": 1}, {"4294967301": 1})
    ),
]
WITHIN: list[dict[str, Any]] = [
    {"id_slot": 1},
    {"id_slot": -1},
    {"lora": [{"id": 3, "scale": 1}]},
    {"lora": []},
    {"logit_bias": [[99, 1], ["100", 1], ["word", 1]]},
    {"logit_bias": {"99": 1, "100x": 1, "word": 1}},
]


def jobs(asked: dict[str, Any]) -> list[TextParameters]:
    return [
        CompletionParameters.model_validate({"prompt": "x"} | asked),
        ChatCompletionParameters.model_validate({"messages": [{"role": "user", "content": "x"}]} | asked),
        InfillParameters.model_validate({"input_prefix": "a", "input_suffix": "b"} | asked),
    ]


def engine(http: EngineHTTP, limits: LlamaLimits) -> LlamaEngine:
    return LlamaEngine(http, LlamaProperties("tiny", 2048, 2, limits=limits))


@pytest.mark.parametrize(("asked", "told"), [*BEYOND, ({"prompt": [1, 100]}, f"prompt: {TOKENS}")])
async def test_what_is_not_there_is_a_bad_job(http: EngineHTTP, asked: dict[str, Any], told: str) -> None:
    for job in jobs(asked) if "prompt" not in asked else [CompletionParameters.model_validate(asked)]:
        with pytest.raises(BadJobError, match=r".") as refused:
            engine(http, KNOWN).generate(job)
        assert told in str(refused.value)


@pytest.mark.parametrize("asked", WITHIN)
async def test_what_is_there_is_taken(http: EngineHTTP, asked: dict[str, Any]) -> None:
    for job in jobs(asked):
        engine(http, KNOWN).generate(job)
    engine(http, KNOWN).generate(CompletionParameters.model_validate({"prompt": [0, 99]}))


@pytest.mark.parametrize("asked", [asked for asked, _ in BEYOND if "id_slot" not in asked])
async def test_nothing_is_refused_where_a_server_does_not_say_what_it_has(
    http: EngineHTTP, asked: dict[str, Any]
) -> None:
    for job in jobs(asked):
        engine(http, LlamaLimits()).generate(job)


async def test_adapters_are_said_to_be_none_with_the_remedy(http: EngineHTTP) -> None:
    job = CompletionParameters.model_validate({"prompt": "x", "lora": [{"id": 0, "scale": 1}]})
    with pytest.raises(BadJobError, match=r"no adapter 0: llama-server has none: .*LLAMA_ARGS='--lora FILE'"):
        engine(http, LlamaLimits(100, frozenset())).generate(job)


async def test_a_server_is_asked_what_it_has_once_it_is_ready(double: EngineDouble, http: EngineHTTP) -> None:
    double.answers |= healthy() | {"/v1/models": [document(MODELS)], "/lora-adapters": [document(ADAPTERS)]}
    seen = await asked(http)
    assert isinstance(seen, LlamaProperties)
    assert seen.limits == KNOWN


@pytest.mark.parametrize(
    ("models", "adapters", "known"),
    [
        (MODELS, [], LlamaLimits(100, frozenset())),
        ({"data": [{"meta": None}]}, {"error": "x"}, LlamaLimits()),
        ({"data": []}, None, LlamaLimits()),
        ([], [{"id": "0"}, 5, {"id": 2}], LlamaLimits(None, frozenset({2}))),
    ],
)
async def test_what_a_server_does_not_say_in_the_usual_form_is_not_known(
    double: EngineDouble, http: EngineHTTP, models: Any, adapters: Any, known: LlamaLimits
) -> None:
    double.answers |= {"/v1/models": [document(models)], "/lora-adapters": [document(adapters)]}
    assert await read_limits(http) == known


async def test_a_server_without_such_routes_has_limits_that_are_not_known(http: EngineHTTP) -> None:
    assert await read_limits(http) == LlamaLimits()
