from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.doubles.engine import PROPS, Answer, End, EngineDouble, document, healthy, sse
from tests.support.generations import Token, events_of
from tests.support.llama_chunks import (
    CHAT,
    COMPLETION,
    FIRST_DELTA,
    chat,
    chat_end,
    choices,
    completion,
    conversation,
    last_piece,
    piece,
    run,
)
from velesio_worker.engines.http import EngineHTTP
from velesio_worker.engines.llama.engine import LlamaEngine, read_properties
from velesio_worker.engines.llama.stops import StopStrings
from velesio_worker.wire.chat_parameters import ChatCompletionParameters
from velesio_worker.wire.events import piece_text
from velesio_worker.wire.text_parameters import CompletionParameters

LETTERS = st.text("ab", min_size=1, max_size=4)


def timed(count: int, prompt: int = 3, cached: int = 1) -> dict[str, Any]:
    return {"timings": {"prompt_n": prompt, "cache_n": cached, "predicted_n": count}}


def pieces(*texts: str) -> list[dict[str, Any]]:
    return [piece(text, **timed(count)) for count, text in enumerate(texts, 1)]


def cut_at_once(text: str, pieces_: list[str], stops: list[str]) -> str:
    """Cut a text as it grows, at the first place where a stop string is whole."""
    said = ""
    for one in pieces_:
        said += one
        found = [at for stop in stops if (at := said.find(stop)) >= 0]
        if found:
            return said[: min(found)]
    return text


@given(st.lists(LETTERS, max_size=12), st.lists(LETTERS, min_size=1, max_size=3))
def test_whatever_the_pieces_the_text_is_cut_where_a_stop_string_begins(texts: list[str], stops: list[str]) -> None:
    held = StopStrings(stops)
    out = [choice for text in texts for choice in held.add({"text": text, "index": 0})]
    whole = "".join(texts)
    said = "".join(piece_text(choice) for choice in out)
    assert not any(stop in said for stop in stops)
    rest = "".join(piece_text(choice) for choice in held.rest())
    assert said + rest == cut_at_once(whole, texts, stops)
    assert held.found == any(stop in whole for stop in stops)


@pytest.mark.anyio
class TestAnswers:
    async def test_a_tail_behind_half_a_stop_string_is_not_lost(self, double: EngineDouble, http: EngineHTTP) -> None:
        double.answers[COMPLETION] = [Answer([sse(*pieces("UNO ", "TRE", " and "), last_piece("limit"))])]
        tokens, _, done = await run(completion(http, stop=["TRE and xx"]))
        assert "stop" not in double.requests[-1].body
        assert "".join(map(piece_text, choices(tokens))) == "UNO TRE and "
        assert (done.result["text"], done.finish_reason) == ("UNO TRE and ", "length")

    async def test_a_completion_ends_before_a_stop_string_and_leaves_the_server(
        self, double: EngineDouble, http: EngineHTTP
    ) -> None:
        double.answers[COMPLETION] = [Answer([sse(*pieces("a", "b", "c<", "/s>d", "e"))], End.OPEN)]
        tokens, _, done = await run(completion(http, stop=["</s>", "zz"]))
        assert [piece_text(choice) for choice in choices(tokens)] == ["a", "b", "c"]
        assert (done.result["text"], done.finish_reason) == ("abc", "stop")
        assert done.usage == {"prompt_tokens": 4, "completion_tokens": 4, "total_tokens": 8}
        assert done.timings == timed(4)["timings"]
        await double.left.wait()

    async def test_a_chat_is_cut_in_the_same_way(self, double: EngineDouble, http: EngineHTTP) -> None:
        deltas = [chat({"content": text}, **timed(count)) for count, text in enumerate(("a", "b\n", "\nc", "d"), 1)]
        double.answers[CHAT] = [Answer([sse(FIRST_DELTA, *deltas)], End.OPEN)]
        tokens, _, done = await run(conversation(http, stop="\n\n"))
        assert [choice["delta"].get("content") for choice in choices(tokens)] == [None, "a", "b"]
        assert done.result["message"] == {"role": "assistant", "content": "ab"}
        assert done.usage == {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7}

    async def test_what_a_chat_held_back_is_handed_out_at_its_end(self, double: EngineDouble, http: EngineHTTP) -> None:
        double.answers[CHAT] = [Answer([sse(FIRST_DELTA, chat({"content": "a\n"}), *chat_end("length"))])]
        tokens, _, done = await run(conversation(http, stop="\n\n"))
        assert [choice["delta"].get("content") for choice in choices(tokens)] == [None, "a\n"]
        assert (done.result["text"], done.finish_reason) == ("a\n", "length")

    async def test_the_reasoning_is_cut_as_well_but_no_stop_string_goes_over_into_the_answer(
        self, double: EngineDouble, http: EngineHTTP
    ) -> None:
        deltas = [{"reasoning_content": "so "}, {"reasoning_content": "E"}, {"content": "ND"}, {"content": " END"}]
        double.answers[CHAT] = [Answer([sse(FIRST_DELTA, *map(chat, deltas))], End.OPEN)]
        _, _, done = await run(conversation(http, stop="END"))
        assert done.result["message"] == {"role": "assistant", "content": "ND ", "reasoning_content": "so E"}

    async def test_probabilities_go_with_the_text_that_is_cut_off(self, double: EngineDouble, http: EngineHTTP) -> None:
        entries: list[dict[str, Any]] = [{"token": text} for text in ("a", "bE", "N", "D")]
        chunks = [piece(entry["token"], completion_probabilities=[entry]) for entry in entries]
        double.answers[COMPLETION] = [Answer([sse(*chunks)], End.OPEN)]
        tokens, _, done = await run(completion(http, stop="END", n_probs=1))
        assert done.result["text"] == "ab"
        assert done.result["completion_probabilities"] == entries[:2]
        assert [choice["completion_probabilities"] for choice in choices(tokens)] == [[entries[0]], [entries[1]]]

    async def test_arguments_of_a_tool_call_are_put_together_whole(
        self, double: EngineDouble, http: EngineHTTP
    ) -> None:
        fragments: list[dict[str, Any]] = [
            {"index": 0, "id": "c1", "type": "function", "function": {"name": "weather", "arguments": ""}},
            {"index": 0, "function": {"arguments": '{"city":'}},
            {"index": 0, "function": {"arguments": '"Oslo"}'}},
        ]
        deltas = [chat({"tool_calls": [fragment]}) for fragment in fragments]
        double.answers[CHAT] = [Answer([sse(FIRST_DELTA, *deltas, *chat_end("tool_calls"))])]
        _, _, done = await run(conversation(http, stop='"}x'))
        assert done.result["message"]["tool_calls"][0]["function"] == {
            "name": "weather",
            "arguments": '{"city":"Oslo"}',
        }

    async def test_a_job_that_is_cancelled_tells_what_it_held_back(
        self, double: EngineDouble, http: EngineHTTP
    ) -> None:
        double.answers[COMPLETION] = [Answer([sse(*pieces("a", "E"))], End.OPEN)]
        generation = completion(http, stop="END")
        events = events_of(generation)
        batch = await anext(events)
        await events.aclose()
        done = generation.cut_short()
        said = [*choices([event for event in batch if isinstance(event, Token)]), *done.unsaid]
        assert list(map(piece_text, said)) == ["a", "E"]
        assert done.result["text"] == "aE"

    @pytest.mark.parametrize(
        ("stops", "sent"),
        [
            (["END", "</think>"], ["</think>"]),
            (["x</think>y", "[/CALL]", "</div>", "[1]", "<"], ["x</think>y", "[/CALL]"]),
            (["END"], None),
            (None, None),
        ],
    )
    async def test_what_has_a_mark_of_the_template_in_it_llama_server_finds_alone(
        self, double: EngineDouble, http: EngineHTTP, stops: list[str] | None, sent: list[str] | None
    ) -> None:
        double.answers |= {CHAT: [Answer([sse(FIRST_DELTA, *chat_end())])], COMPLETION: [Answer([sse(last_piece())])]}
        template = "{{ '<think>' }}a</think>[CALL]b[/CALL]{% if x < 1 %}{% endif %}"
        double.answers |= healthy() | {"/props": [document(PROPS | {"chat_template": template})]}
        seen = await read_properties(http)
        assert seen is not None
        asked = {"messages": [{"role": "user", "content": "hi"}], "stop": stops}
        await run(LlamaEngine(http, seen).generate(ChatCompletionParameters.model_validate(asked)))
        assert double.requests[-1].body.get("stop") == sent
        asked = {"prompt": "hi", "stop": stops}
        await run(LlamaEngine(http, seen).generate(CompletionParameters.model_validate(asked)))
        assert "stop" not in double.requests[-1].body

    async def test_jobs_without_stop_strings_ask_for_nothing_more(self, double: EngineDouble, http: EngineHTTP) -> None:
        double.answers[COMPLETION] = [Answer([sse(*pieces("a"), last_piece())])]
        await run(completion(http))
        assert "timings_per_token" not in double.requests[-1].body
