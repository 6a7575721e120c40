"""The shapes of llama-server's chunks, as its build b11434 sends them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.support.generations import Token, Told, events_of
from velesio_worker.engines.base import Generation
from velesio_worker.engines.http import EngineHTTP
from velesio_worker.engines.llama.engine import LlamaEngine, LlamaProperties
from velesio_worker.wire.chat_parameters import ChatCompletionParameters
from velesio_worker.wire.events import Done, Progress
from velesio_worker.wire.text_parameters import CompletionParameters

COMPLETION = "/completion"
CHAT = "/v1/chat/completions"
TIMINGS = {"cache_n": 0, "prompt_n": 4, "prompt_ms": 10.5, "predicted_n": 2, "predicted_ms": 20.5}
USAGE = {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}


def piece(content: str, **more: Any) -> dict[str, Any]:
    """A middle chunk of ``/completion``."""
    return {
        "index": 0,
        "content": content,
        "tokens": [29],
        "stop": False,
        "id_slot": 0,
        "tokens_predicted": 1,
        "tokens_evaluated": 4,
        **more,
    }


def progress(processed: int, total: int, cache: int = 0) -> dict[str, Any]:
    counts = {"total": total, "cache": cache, "processed": processed, "time_ms": 7}
    return piece("", tokens=[0], tokens_predicted=0, prompt_progress=counts)


def last_piece(stop_type: str = "eos", **more: Any) -> dict[str, Any]:
    """The last chunk of ``/completion``."""
    return {
        "index": 0,
        "content": "",
        "tokens": [],
        "id_slot": 0,
        "stop": True,
        "model": "tiny",
        "tokens_predicted": 2,
        "tokens_evaluated": 4,
        "generation_settings": {"seed": 4294967295},
        "prompt": "hi",
        "has_new_line": False,
        "truncated": False,
        "stop_type": stop_type,
        "stopping_word": "",
        "tokens_cached": 5,
        "timings": TIMINGS,
        **more,
    }


def chat(delta: dict[str, Any], finish_reason: str | None = None, **more: Any) -> dict[str, Any]:
    """A chunk of ``/v1/chat/completions``; ``logprobs`` stands in its choice."""
    choice: dict[str, Any] = {"finish_reason": finish_reason, "index": 0, "delta": delta}
    if "logprobs" in more:
        choice["logprobs"] = more.pop("logprobs")
    return {"choices": [choice], "created": 1, "id": "chatcmpl-1", "object": "chat.completion.chunk", **more}


FIRST_DELTA = chat({"role": "assistant", "content": None})


def chat_end(reason: str = "stop") -> list[Any]:
    """The end of a chat: an empty delta with the reason, the usage in a chunk of its own, ``[DONE]``."""
    usage = USAGE | {"prompt_tokens_details": {"cached_tokens": 0}}
    return [chat({}, reason), {"choices": [], "created": 1, "usage": usage, "timings": TIMINGS}, b"[DONE]"]


def completion(http: EngineHTTP, **parameters: Any) -> Generation:
    properties = LlamaProperties("tiny", 2048, 2)
    return LlamaEngine(http, properties).generate(CompletionParameters.model_validate({"prompt": "hi"} | parameters))


def conversation(http: EngineHTTP, **parameters: Any) -> Generation:
    whole = {"messages": [{"role": "user", "content": "hi"}]} | parameters
    return LlamaEngine(http, LlamaProperties("tiny", 2048, 2)).generate(ChatCompletionParameters.model_validate(whole))


async def run(generation: Generation) -> tuple[list[Token], list[Progress], Done]:
    """Run a job to its end; returns its events, sorted by kind."""
    events: list[Told] = []
    async for batch in events_of(generation):
        events.extend(batch)
    done = events.pop()
    assert isinstance(done, Done)
    return (
        [event for event in events if isinstance(event, Token)],
        [event for event in events if isinstance(event, Progress)],
        done,
    )


def choices(tokens: Sequence[Token]) -> list[dict[str, Any]]:
    """The only choice of each token entry."""
    return [token.choice for token in tokens]
