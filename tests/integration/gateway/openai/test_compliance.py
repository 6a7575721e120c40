"""The compliance tests of llm-comply for chats, without its network: all of them, and without a warning."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from anyio.to_thread import run_sync

from tests.support.compliance import cases, comply
from tests.support.scripted_worker import ROLE, Desk, ScriptedGateway, delta

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore:jsonschema.RefResolver is deprecated")]

NEEDS_OTHERS = {"chat-reasoning-summary"}
"""Skipped by the suite itself unless the model is one of some vendors'."""


async def script(desk: Desk) -> None:
    if desk.data.get("tool_choice") != "required":
        await desk.stream([ROLE, delta({"content": "Hello "}), delta({"content": "there."})])
        return
    call = {"index": 0, "id": "c0", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    await desk.stream([ROLE, delta({"tool_calls": [call]})], "tool_calls")


@pytest.mark.parametrize("case", cases("openai_chat", "OPENAI_CHAT_TESTS"), ids=lambda case: case.id)
async def test_chats_comply(gateway: ScriptedGateway, case: Any) -> None:
    gateway.worker.script = script
    asked = partial(comply, case, f"{gateway.url}/v1", model="tiny", specification="openai_chat.json")
    result = await run_sync(asked)
    assert (result.errors, result.warnings) == ([], []) or case.id in NEEDS_OTHERS, result
    assert result.status.value == ("skipped" if case.id in NEEDS_OTHERS else "passed")
