from __future__ import annotations

from typing import Any

import pytest

from velesio_worker.wire.events import Done, StreamEvent, piece_text

USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        ({"text": "a", "index": 0}, "a"),
        ({"text": ""}, ""),
        ({"text": None}, ""),
        ({"delta": {"content": "b"}}, "b"),
        ({"delta": {"role": "assistant", "content": None}}, ""),
        ({"delta": {"reasoning_content": "hm"}}, ""),
        ({"delta": {}}, ""),
        ({}, ""),
    ],
)
def test_the_text_of_a_piece_is_its_text_or_its_content(choice: dict[str, Any], text: str) -> None:
    assert piece_text(choice) == text


@pytest.mark.parametrize(
    ("event", "data", "text"),
    [
        ("token", {"choices": [{"text": "a"}, {"text": "b"}]}, "ab"),
        ("token", {"choices": [{"delta": {"content": "c"}}]}, "c"),
        ("token", {"choices": []}, ""),
        ("token", {}, ""),
        ("done", {"choices": [{"text": "a"}]}, ""),
        ("start", {"type": "completion"}, ""),
    ],
)
def test_only_token_entries_add_text(event: str, data: dict[str, Any], text: str) -> None:
    assert StreamEvent("1-1", event, data).text == text


@pytest.mark.parametrize(
    ("event", "terminal"), [("start", False), ("token", False), ("progress", False), ("done", True), ("error", True)]
)
def test_nothing_follows_done_or_error(event: str, terminal: bool) -> None:  # noqa: FBT001
    assert StreamEvent("1-1", event, {}).terminal is terminal


def test_the_done_entry_holds_the_end_and_not_the_text() -> None:
    done = Done({"text": "long"}, "stop", USAGE, {"predicted_ms": 1})
    assert done.entry() == {"finish_reason": "stop", "usage": USAGE, "timings": {"predicted_ms": 1}}
    assert Done({}, "cancelled").entry() == {"finish_reason": "cancelled", "usage": None, "timings": None}
