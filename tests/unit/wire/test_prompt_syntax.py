"""Prompts that a WebUI's parser would take minutes for are refused, with the limit."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from velesio_worker.wire.jobs import RefusedJobError, parse_job

SIGNS = "( ) [ ] : |"


def said(field: str, prompt: str, **more: Any) -> str | None:
    data: dict[str, Any] = {"prompt": "a cat"} | more | {field: prompt}
    try:
        parse_job(orjson.dumps({"id": "a1", "type": "txt2img", "data": data}), max_bytes=2**24)
    except RefusedJobError as error:
        return str(error.error)
    return None


@pytest.mark.parametrize("field", ["prompt", "negative_prompt", "hr_prompt", "hr_negative_prompt"])
@pytest.mark.parametrize(
    "prompt",
    ["(" * 3000, "[" * 3000, "()" * 3000, ":" * 3000, "(a:1.1), " * 3000, "[a|b]" * 3000, "|" * 3000, ")" * 401],
)
def test_a_prompt_with_very_many_signs_is_refused_with_the_limit(field: str, prompt: str) -> None:
    told = said(field, prompt)
    assert told is not None
    assert told.startswith(f"data.{field}: ")
    assert SIGNS in told
    assert "400 are allowed" in told
    assert prompt[:50] not in told


@pytest.mark.parametrize("prompt", ["(" * 33, "[(" * 20 + "a" + ")]" * 20, "(a" * 40])
def test_a_prompt_with_very_deep_brackets_is_refused_with_the_limit(prompt: str) -> None:
    told = said("prompt", prompt)
    assert told is not None
    assert "more than 32" in told


def test_a_prompt_of_very_many_parts_is_refused_with_the_limit() -> None:
    told = said("prompt", " AND ".join(["a cat"] * 65))
    assert told is not None
    assert "more than 64 parts" in told
    assert said("prompt", " AND ".join(["a cat"] * 64)) is None
    assert said("prompt", " and ANDROID" * 5000) is None


@pytest.mark.parametrize(
    "prompt",
    [
        *("((masterpiece)), (best quality:1.2), [blurry], [cat:dog:0.5], [a|b]", "(a:1.1), " * 100),
        *("(" * 32 + "a" + ")" * 32, ":-( " * 30, "\\(" * 5000, "a, b. c " * 5000, "", ")" * 400),
    ],
)
def test_prompts_as_people_write_them_are_taken(prompt: str) -> None:
    assert said("prompt", prompt) is None


def test_a_long_prompt_is_looked_through_once_and_a_longer_one_not_at_all() -> None:
    assert said("prompt", "\\" * 65_536) is None
    assert said("prompt", "AND" * 20_000) is None
    told = said("prompt", "\\" * 65_537)
    assert told is not None
    assert "65536 characters" in told


@pytest.mark.parametrize("network", ["<lora:{}:1>", "<lora:{}", "<LoRA:{}>", "<hypernet:{}:1>", "<lyco:{}>"])
def test_a_prompt_of_very_many_networks_is_refused_with_the_limit(network: str) -> None:
    assert said("prompt", "".join(network.format(number) for number in range(64))) is None
    told = said("prompt", "".join(network.format(number) for number in range(65)))
    assert told is not None
    assert "more than 64 LoRAs and hypernetworks" in told
