from __future__ import annotations

from typing import Any

import orjson
import pytest

from velesio_worker.wire.events import FOREIGN_RESULT, Done, StreamEvent, piece_text, read_result, sound_result

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


@pytest.mark.parametrize("stored", [b'{"text": "Hi"}', b'{"error": "No.", "code": "internal"}'])
def test_a_result_is_read_as_it_was_stored(stored: bytes) -> None:
    assert read_result(stored) == sound_result(stored) == orjson.loads(stored)


@pytest.mark.parametrize("stored", [b"", b"{}", b"[1]", b"{", b'{"error": 1}', b'{"finish_reason": []}'])
def test_a_result_that_no_worker_wrote_is_an_error(stored: bytes) -> None:
    assert sound_result(stored) is None
    assert read_result(stored) == {"error": FOREIGN_RESULT, "code": "internal"}
