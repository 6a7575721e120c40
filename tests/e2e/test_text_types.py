"""Every type of text job on the real llama.cpp server, through a real worker and the real Redis."""

from __future__ import annotations

import base64
import json
import math
import re
import struct
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.model_files import TINY_WORDS
from tests.support.places import SETTINGS, Place, wait_for
from tests.support.processes import WorkerProcess
from tests.support.servers import RedisServer
from tests.support.streams import Entries
from tests.support.streams import result as result_of
from tests.support.tiny import model_path

__all__ = ["model_path"]  # a fixture

pytestmark = pytest.mark.engine

USER: Final = {"role": "user", "content": "Name a colour."}
PIXEL: Final = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
    "rkJggg=="
)


class TextPlace(Place):
    """The same, with a view of its llama-server's own counters and of the cache."""

    def counters(self) -> dict[str, float]:
        """What llama-server says that it has done so far."""
        url = f"http://127.0.0.1:{self.worker.environment['LLAMA_PORT']}/metrics"
        with urllib.request.urlopen(url, timeout=60) as answer:
            text = answer.read().decode()
        counted = ("prompt_tokens_total", "tokens_predicted_total", "n_decode_total")
        return {name: float(re.findall(rf"^llamacpp:{name} (\S+)$", text, re.MULTILINE)[0]) for name in counted}

    def kept(self, number: int) -> None:
        """Wait until the cache has so many answers: they are put there once their jobs have ended."""
        wait_for(lambda: len(self.redis.keys("prompt_cache:*")) == number, f"{number} answers in the cache")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> Iterator[TextPlace]:
    """One worker for all tests here but one, which can make embeddings beside texts."""
    folder = tmp_path_factory.mktemp("text-types")
    with RedisServer(folder / "redis") as server, server.plain() as redis:
        worker = WorkerProcess(
            folder / "worker.log",
            REDIS_URL=server.url,
            MODEL_PATH=str(model_path),
            LLAMA_ARGS="--embeddings --pooling mean",
            **SETTINGS,
        )
        try:
            worker.start()
            worker.wait_for("worker_ready")
            yield TextPlace(redis, worker)
        finally:
            worker.end()


@pytest.fixture
def caching(place: TextPlace) -> TextPlace:
    """The same, with nothing in the cache."""
    for key in place.redis.keys("prompt_cache:*"):
        place.redis.delete(key)
    return place


def tokens(found: Entries) -> list[dict[str, Any]]:
    """The only choice of each token entry."""
    return [data["choices"][0] for _, event, data in found if event == "token"]


def said(found: Entries) -> str:
    return "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in tokens(found))


@pytest.mark.parametrize("content", ["Hello, world", "naïve 東京 🎈\n\ttabs", ""])
def test_what_is_tokenized_can_be_put_together_again(place: Place, content: str) -> None:
    answer, found = place.run("tokenize", {"content": content})
    assert all(isinstance(token, int) for token in answer["tokens"])
    assert bool(answer["tokens"]) is bool(content)
    assert [event for _, event, _ in found] == ["start", "done"]
    assert (found[0][2]["type"], found[0][2]["mode"]) == ("tokenize", "fresh")
    assert place.result("detokenize", {"tokens": answer["tokens"]}) == {"content": content}


def test_tokens_come_with_their_pieces_where_they_are_wanted(place: Place) -> None:
    pieces = place.result("tokenize", {"content": "Hello 猫", "with_pieces": True})["tokens"]
    told = b"".join(one["piece"].encode() if isinstance(one["piece"], str) else bytes(one["piece"]) for one in pieces)
    assert told.decode() == "Hello 猫"


def test_a_token_that_there_is_not_is_an_error(place: Place) -> None:
    code, message = place.error("detokenize", {"tokens": [TINY_WORDS]})
    assert code in {"engine_error", "bad_job"}
    assert str(TINY_WORDS) in message


CALL: Final[dict[str, Any]] = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {}}},
}


@pytest.mark.parametrize(
    "chat",
    [
        {"messages": [USER]},
        {"messages": [USER, {"role": "assistant", "content": "Blue, or"}]},
        {"messages": [USER], "tools": [CALL]},
        {"messages": [USER], "add_generation_prompt": False},
        {"messages": [{"role": "system", "content": "Be brief."}, USER, {"role": "assistant", "content": ""}]},
    ],
    ids=["plain", "begun", "tools", "bare", "empty-end"],
)
def test_a_chat_has_as_many_tokens_as_are_counted_and_its_prompt_is_that_of_the_template(
    place: Place, chat: dict[str, Any]
) -> None:
    answer = place.result("chat_completion", chat | {"max_tokens": 1})
    assert place.result("count_tokens", chat) == {"tokens": answer["usage"]["prompt_tokens"]}
    result, found = place.run("apply_template", chat)
    assert [event for _, event, _ in found] == ["start", "done"]
    assert result.keys() == {"prompt"}
    assert "Name a colour." in result["prompt"]
    assert place.result("count_tokens", {"prompt": result["prompt"]}) == {"tokens": answer["usage"]["prompt_tokens"]}


@pytest.mark.parametrize("prompt", ["Hello, world", "<|im_start|>user\nnaïve 猫", [1, 2, 3]])
def test_a_prompt_has_as_many_tokens_as_are_counted(place: Place, prompt: str | list[int]) -> None:
    usage = place.result("completion", {"prompt": prompt, "max_tokens": 1})["usage"]
    assert place.result("count_tokens", {"prompt": prompt}) == {"tokens": usage["prompt_tokens"]}


def test_an_image_that_the_model_cannot_see_is_not_counted(place: Place) -> None:
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PIXEL}}]}
    for type_ in ("count_tokens", "apply_template"):
        code, message = place.error(type_, {"messages": [image]})
        assert (code, "--mmproj" in message) == ("bad_job", True), message


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


def test_texts_become_vectors(place: Place) -> None:
    answer, found = place.run("embedding", {"input": ["The cat sleeps.", "The dog barks.", "The cat sleeps."]})
    vectors = [one["embedding"] for one in answer["data"]]
    assert [len(vector) for vector in vectors] == [576, 576, 576]
    assert [one["index"] for one in answer["data"]] == [0, 1, 2]
    assert all(math.hypot(*vector) == pytest.approx(1) for vector in vectors)
    assert cosine(vectors[0], vectors[1]) < 0.99 < cosine(vectors[0], vectors[2])
    assert answer["model"] == found[0][2]["model"] == Path(place.worker.environment["MODEL_PATH"]).stem
    assert found[-1][2]["usage"] == answer["usage"]
    assert answer["usage"]["prompt_tokens"] > 0


def test_a_vector_is_the_same_in_each_of_its_forms(place: Place) -> None:
    text = "The cat sleeps."
    vector = place.result("embedding", {"input": text})["data"][0]["embedding"]
    coded = place.result("embedding", {"input": text, "encoding_format": "base64"})["data"][0]["embedding"]
    (own,) = place.result("embedding", {"content": text})["data"]
    assert struct.unpack(f"<{len(vector)}f", base64.b64decode(coded)) == pytest.approx(vector, abs=1e-6)
    assert own["embedding"][0] == pytest.approx(vector, abs=1e-6)
    raw = place.result("embedding", {"content": text, "embd_normalize": -1})["data"][0]["embedding"][0]
    assert math.hypot(*raw) > 2
    assert cosine(raw, vector) == pytest.approx(1)


def test_an_input_that_is_too_long_for_a_vector_is_told_as_such(place: Place) -> None:
    code, message = place.error("embedding", {"input": "word " * 1000})
    assert (code, "1001 tokens" in message) == ("context_exceeded", True), message


def test_a_server_that_cannot_rank_says_what_would_do_it(place: Place) -> None:
    code, message = place.error("rerank", {"query": "cats", "documents": ["a"]})
    assert code == "bad_job"
    assert "LLAMA_ARGS=--rerank" in message


def test_documents_are_ranked(place: Place, model_path: Path, tmp_path: Path) -> None:
    worker = WorkerProcess(
        tmp_path / "worker.log",
        REDIS_URL=place.worker.environment["REDIS_URL"],
        QUEUE_NAME="ranks",
        MODEL_PATH=str(model_path),
        LLAMA_ARGS="--rerank",
        **SETTINGS,
    )
    job = {"query": "cats", "documents": ["cats sleep", "taxes rise", "it rains"], "top_n": 2}
    try:
        worker.start()
        place.redis.lpush("ranks", json.dumps({"id": "rank", "type": "rerank", "data": job}))
        worker.wait_for("job_done")
    finally:
        worker.end()
    answer = result_of(place.redis, "rank")
    scores = [one["relevance_score"] for one in answer["results"]]
    assert len(scores) == 2
    assert scores == sorted(scores, reverse=True)
    assert {one["index"] for one in answer["results"]} <= {0, 1, 2}
    assert answer["model"] == model_path.stem


SCHEMA: Final = {
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": ["red", "green"]}, "count": {"type": "integer"}},
    "required": ["colour", "count"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_can_be_held_to_a_schema(place: Place, *, stream: bool) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    data = {"messages": [USER], "response_format": wanted, "max_tokens": 100, "stream": stream, "seed": 1}
    answer, found = place.run("chat_completion", data, cache=False)
    value = json.loads(answer["text"])
    assert set(value) == {"colour", "count"}
    assert value["colour"] in {"red", "green"}
    assert isinstance(value["count"], int)
    assert answer["message"]["content"] == answer["text"]
    assert said(found) == (answer["text"] if stream else "")


@pytest.mark.parametrize(
    ("type_", "data"),
    [
        ("completion", {"prompt": "Is water wet?", "grammar": 'root ::= "yes" | "no"'}),
        ("chat_completion", {"messages": [USER], "grammar": 'root ::= "yes" | "no"'}),
        ("completion", {"prompt": "Is water wet?", "json_schema": {"enum": ["yes", "no"]}}),
    ],
)
def test_a_text_can_be_held_to_a_grammar(place: Place, type_: str, data: dict[str, Any]) -> None:
    text = place.result(type_, data | {"max_tokens": 20})["text"]
    assert text.strip('"') in {"yes", "no"}


def test_a_grammar_that_is_none_is_refused(place: Place) -> None:
    code, message = place.error("completion", {"prompt": "hi", "grammar": "root = ((("})
    assert (code, "grammar" in message.lower()) == ("bad_job", True), message


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_tells_how_likely_its_tokens_were(place: Place, *, stream: bool) -> None:
    data = {"messages": [USER], "logprobs": True, "top_logprobs": 2, "max_tokens": 4, "ignore_eos": True}
    data |= {"stream": stream, "temperature": 0}  # else a character of several tokens may come, told of as one
    answer, found = place.run("chat_completion", data)
    told = answer["logprobs"]["content"]
    assert len(told) == answer["usage"]["completion_tokens"]
    assert all(one["logprob"] <= 0 and len(one["top_logprobs"]) == 2 for one in told)
    parts = [choice["logprobs"]["content"] for choice in tokens(found) if choice.get("logprobs")]
    assert [one for part in parts for one in part] == (told if stream else [])


def test_a_completion_tells_how_likely_its_tokens_were(place: Place) -> None:
    data = {"prompt": "One, two,", "n_probs": 2, "max_tokens": 4, "stream": True, "temperature": 0, "ignore_eos": True}
    answer, found = place.run("completion", data)
    told = answer["completion_probabilities"]
    assert len(told) == answer["usage"]["completion_tokens"]
    assert [one for choice in tokens(found) for one in choice.get("completion_probabilities", ())] == told


TOOL: Final = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"]},
    },
}


def test_a_tool_that_must_be_called_by_a_model_that_knows_none_is_refused(place: Place) -> None:
    data = {"messages": [{"role": "user", "content": "Hi."}], "tools": [TOOL], "tool_choice": "required"}
    code, message = place.error("chat_completion", data)
    assert (code, "knows no tools" in message) == ("bad_job", True)


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_tools_reach_the_engine_and_calls_come_back_as_they_were_sent(place: Place, choice: str) -> None:
    asked = {"role": "user", "content": "What is the weather in Oslo?"}
    data = {"messages": [asked], "tools": [TOOL], "tool_choice": choice, "max_tokens": 40, "stream": True}
    answer, found = place.run("chat_completion", data | {"temperature": 0}, cache=False)
    calls: dict[int, dict[str, str]] = {}
    for delta in (one["delta"] for one in tokens(found)):
        for part in delta.get("tool_calls") or ():
            call = calls.setdefault(part["index"], {"name": "", "arguments": ""})
            for name, value in part.get("function", {}).items():
                call[name] += value
    message = answer["message"]
    assert [call["function"] for call in message.get("tool_calls", ())] == [calls[index] for index in sorted(calls)]
    assert said(found) == answer["text"] == message["content"]
    assert (answer["finish_reason"] == "tool_calls") is bool(calls), "whether a small model calls is its own affair"
    assert found[0][2]["type"] == "chat_completion"
    assert bool(answer.get("warnings")) == bool(found[-1][2].get("warnings")) == (choice == "auto")
    if choice == "none":
        assert not calls


def picture(url: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}


def test_a_picture_for_a_model_without_eyes_is_told_with_the_setting_that_gives_it_some(place: Place) -> None:
    code, message = place.error("chat_completion", picture(PIXEL))
    assert code == "bad_job"
    assert "image input is not supported" in message
    assert "LLAMA_ARGS='--mmproj FILE'" in message


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/cat.png", "https://example.org/cat.png", "file:///cat.png"])
def test_a_picture_that_would_have_to_be_fetched_never_reaches_the_engine(place: Place, url: str) -> None:
    result, found = place.run("chat_completion", picture(url))
    assert (result["code"], "base64" in result["error"]) == ("bad_job", True)
    assert url not in result["error"]
    assert [event for _, event, _ in found] == ["error"], "it was never begun"


def test_a_model_without_the_markers_for_filling_in_says_so(place: Place) -> None:
    code, message = place.error("infill", {"input_prefix": "def f(", "input_suffix": "return x"})
    assert code == "bad_job"
    assert "Infill is not supported by this model" in message


@pytest.mark.parametrize("adapters", [[], [{"id": 0, "scale": 1}], [{"id": 7, "scale": 0.5}]])
def test_adapters_that_are_not_loaded_are_the_engines_affair(place: Place, adapters: list[dict[str, Any]]) -> None:
    result, found = place.run("completion", {"prompt": "One,", "max_tokens": 2, "lora": adapters})
    assert found[-1][1] == "done" or result["code"] in {"bad_job", "engine_error"}, result


@pytest.mark.parametrize("type_", ["completion", "chat_completion"])
@pytest.mark.parametrize("first", [False, True], ids=["whole-first", "streamed-first"])
@pytest.mark.parametrize("second", [False, True], ids=["then-whole", "then-streamed"])
def test_the_same_job_again_is_answered_from_the_cache(
    caching: TextPlace, type_: str, *, first: bool, second: bool
) -> None:
    data = {"prompt": "One, two,"} if type_ == "completion" else {"messages": [USER]}
    data |= {"temperature": 0, "max_tokens": 12}
    made, made_entries = caching.run(type_, data | {"stream": first})
    caching.kept(1)
    before = caching.counters()
    given, given_entries = caching.run(type_, data | {"stream": second})
    assert caching.counters() == before, "the engine ran"
    assert given == made | {"cached": True}
    assert "cached" not in made_entries[-1][2]
    assert given_entries[-1][2] == made_entries[-1][2] | {"cached": True}
    assert given_entries[0][2]["model"] == made_entries[0][2]["model"]
    assert said(given_entries) == (made["text"] if second else "")
    if first and second:
        assert tokens(given_entries) == tokens(made_entries)
    caching.kept(1)


def test_a_vector_is_made_once(caching: TextPlace) -> None:
    made = caching.result("embedding", {"input": "The cat sleeps."})
    caching.kept(1)
    assert caching.result("embedding", {"input": "The cat sleeps."}) == made | {"cached": True}


def test_another_seed_or_none_or_a_job_that_does_not_want_it_runs(caching: TextPlace) -> None:
    data = {"prompt": "One, two,", "max_tokens": 4, "seed": 1}
    caching.result("completion", data)
    caching.kept(1)
    for other, fields in (
        (data | {"seed": 2}, {}),
        (data | {"max_tokens": 5}, {}),
        (data, {"cache": False}),
        ({"prompt": "One, two,", "max_tokens": 4}, {}),
    ):
        before = caching.counters()
        assert "cached" not in caching.result("completion", other, **fields)
        assert caching.counters()["tokens_predicted_total"] > before["tokens_predicted_total"]
    caching.kept(3)
    assert caching.result("completion", data)["cached"]


def test_a_job_that_wants_it_is_cached_though_it_is_random(caching: TextPlace) -> None:
    data = {"prompt": "One, two,", "max_tokens": 12, "temperature": 1.5}
    made = caching.result("completion", data, cache=True)
    caching.kept(1)
    assert caching.result("completion", data, cache=True) == made | {"cached": True}
