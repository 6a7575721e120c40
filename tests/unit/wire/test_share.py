"""What a job is estimated to cost before it has run."""

from __future__ import annotations

from typing import Any, Final

import orjson
import pytest

from velesio_worker.wire.jobs import parse_job
from velesio_worker.wire.share import Share, share_of

TEXT: Final = "four" * 100
TOKENS: Final = 100
"""As many as ``TEXT`` has."""

ANSWER: Final = 2 * 10
MEDIA: Final = 512
PICTURE: Final = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{'A' * 300_000}"}}


def share(type_: str, data: dict[str, Any], **fields: Any) -> Share:
    payload = orjson.dumps({"id": "a", "type": type_, "data": data, **fields})
    return share_of(parse_job(payload, max_bytes=2**30), len(payload))


def cost(type_: str, **data: Any) -> int:
    return share(type_, data).cost


def chat(*content: Any, **data: Any) -> int:
    return cost(
        "chat_completion", messages=[{"role": "user", "content": one} for one in content], max_tokens=10, **data
    )


@pytest.mark.parametrize(
    ("type_", "data", "expected"),
    [
        ("completion", {"prompt": TEXT, "max_tokens": 10}, TOKENS + ANSWER),
        ("completion", {"prompt": [1, 20_000] * 50, "max_tokens": 10}, TOKENS + ANSWER),
        ("completion", {"prompt": TEXT, "max_tokens": -1}, TOKENS + 2 * 512),
        ("infill", {"input_prefix": TEXT, "input_suffix": TEXT, "prompt": TEXT, "max_tokens": 10}, 3 * TOKENS + ANSWER),
        ("embedding", {"input": TEXT}, TOKENS),
        ("embedding", {"content": TEXT}, TOKENS),
        ("rerank", {"query": TEXT, "documents": [TEXT, TEXT, TEXT]}, 6 * TOKENS),
        ("tokenize", {"content": TEXT}, TOKENS),
        ("detokenize", {"tokens": [7] * 100}, TOKENS),
        ("count_tokens", {"prompt": TEXT}, TOKENS),
    ],
)
def test_a_prompt_counts_by_its_length_and_its_answer_by_what_it_may_have(
    type_: str, data: dict[str, Any], expected: int
) -> None:
    assert cost(type_, **data) == expected
    assert share(type_, data, tenant="alice", traceparent=f"00-{'a' * 32}-{'b' * 16}-01").cost == expected


@pytest.mark.parametrize(
    ("type_", "more"), [("chat_completion", {"max_tokens": 10}), ("apply_template", {}), ("count_tokens", {})]
)
def test_a_chat_counts_by_its_texts(type_: str, more: dict[str, Any]) -> None:
    def counted(*texts: str) -> int:
        return cost(type_, messages=[{"role": "user", "content": text} for text in texts], **more)

    assert counted(TEXT, TEXT) - counted(TEXT, "") == TOKENS
    assert counted(TEXT, "") - counted(TEXT) < 10


def test_many_texts_and_lists_of_tokens_are_embedded_together() -> None:
    assert TOKENS * 3 <= cost("embedding", input=[TEXT, TEXT, TEXT]) <= TOKENS * 3 + 4
    assert TOKENS * 2 <= cost("embedding", input=[[1] * 100, [2] * 100]) <= TOKENS * 2 + 4


def test_a_picture_in_a_chat_counts_the_same_whatever_its_file_weighs() -> None:
    small = PICTURE | {"image_url": {"url": "data:image/png;base64,AAAA"}}
    assert chat([PICTURE]) == chat([small])
    text = {"type": "text", "text": TEXT}
    assert chat([text, PICTURE, PICTURE]) - chat([text]) == 2 * MEDIA


def test_tools_and_earlier_calls_are_read_too() -> None:
    function = {"name": "look", "description": TEXT, "parameters": {"type": "object"}}
    tools = [{"type": "function", "function": function}]
    assert TOKENS <= chat("Look.", tools=tools) - chat("Look.") <= TOKENS + 50
    call = {"id": "a", "type": "function", "function": {"name": "look", "arguments": orjson.dumps([TEXT]).decode()}}

    def went_on(**answer: Any) -> int:
        said = [{"role": "user", "content": "Look."}, {"role": "assistant", "content": "", **answer}]
        return cost("chat_completion", messages=[*said, {"role": "tool", "content": "x"}])

    assert TOKENS <= went_on(tool_calls=[call]) - went_on() <= TOKENS + 50


def test_what_the_model_does_not_read_does_not_count() -> None:
    schema = {"type": "object", "properties": {f"field{number}": {"type": "string"} for number in range(50)}}
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    assert chat("Hello.", response_format=form) == chat("Hello.")


def test_letters_beyond_ascii_count_by_their_bytes() -> None:
    assert cost("embedding", input="ä" * 400) == 200
    assert cost("embedding", input="語" * 400) == 300


@pytest.mark.parametrize("prompt", ["x" * 8_000_000, [1] * 400_000])
def test_nobody_is_believed_to_need_more_than_so_many_before_he_has(prompt: Any) -> None:
    assert cost("completion", prompt=prompt, max_tokens=10**9) == 3 * 32768


def test_an_image_counts_by_its_pixels_and_steps() -> None:
    data = {"prompt": "a fox", "width": 512, "height": 512, "steps": 20}
    assert cost("txt2img", **data) == 512 * 512 * 20 // 4096
    assert cost("txt2img", **data, batch_size=2) == 2 * cost("txt2img", **data)


def test_a_job_about_models_counts_as_little_as_can_be() -> None:
    assert cost("list_models") == 1
