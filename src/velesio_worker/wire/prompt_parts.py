"""What a prompt is made of, to estimate its length: nothing is put together for that, and it may be left halfway."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast

Part = str | int
"""A text, or a number of tokens."""

MEDIA_TOKENS: Final = 512
"""As how many tokens a picture or a sound in a chat counts, whatever its file's size."""

_FRAME: Final = 4
"""What a template puts around a message, in tokens, about."""


def parts_in(value: Any) -> Iterator[Part]:  # noqa: ANN401 (any JSON)
    """Yield the texts of any JSON, the names of fields among them, and a token for each value beside."""
    waiting: list[Iterator[Any]] = [iter((value,))]
    while waiting:
        for one in waiting[-1]:
            if isinstance(one, str):
                yield one
                continue
            yield 1
            if isinstance(one, dict):
                waiting.append(item for pair in cast("dict[str, Any]", one).items() for item in pair)
                break
            if isinstance(one, list):
                waiting.append(iter(cast("list[Any]", one)))
                break
        else:
            waiting.pop()


def parts_of_chat(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None) -> Iterator[Part]:
    """Yield what a chat's prompt is made of; a template writes its tools as JSON."""
    for message in messages:
        yield _FRAME
        content = message.get("content")
        if isinstance(content, list):
            for part in cast("list[Any]", content):
                match part:
                    case {"type": "text", "text": str(text)}:
                        yield text
                    case _:
                        yield MEDIA_TOKENS
        elif isinstance(content, str):
            yield content
        for name in ("reasoning_content", "tool_calls"):
            if more := message.get(name):
                yield from parts_in(more)
    if tools:
        yield from parts_in(tools)
