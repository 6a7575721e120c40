"""Which models a worker says that jobs may name, and how much of that fits into its hash."""

from __future__ import annotations

from typing import cast

import orjson
import pytest

from velesio_worker.execution.offers import offer
from velesio_worker.wire.jobs import Kind
from velesio_worker.wire.limits import MOST_OFFERED_BYTES, MOST_OFFERED_NAMES


def told(names: list[str], more: int = 0) -> tuple[list[str], int]:
    facts = offer(Kind.TEXT, names, "", more=more, exchanges=True)
    text = cast("str", facts["text_models"])
    assert len(text.encode()) <= MOST_OFFERED_BYTES
    return orjson.loads(text), int(facts["text_models_more"])


def test_the_fields_are_named_after_the_kind() -> None:
    assert offer(Kind.IMAGE, ["b", "a"], "b", more=1, exchanges=False) == {
        "image_models": '["b","a"]',
        "image_models_more": 1,
        "image_default": "b",
        "image_exchanges": 0,
    }


def test_each_name_is_told_once_and_an_unknown_one_not_at_all() -> None:
    assert told(["b", "", "a", "b"]) == (["b", "a"], 0)
    assert told([""]) == ([], 0)


@pytest.mark.parametrize("count", [MOST_OFFERED_NAMES, MOST_OFFERED_NAMES + 7])
def test_more_names_than_there_may_be_are_counted(count: int) -> None:
    names = [str(number) for number in range(count)]
    assert told(names, 2) == (names[:MOST_OFFERED_NAMES], count - MOST_OFFERED_NAMES + 2)


@pytest.mark.parametrize("letter", ["a", "ü", "\U0001f600", '"'])
def test_long_names_end_where_there_is_no_more_room(letter: str) -> None:
    names = [f"{number:03}{letter * 200}" for number in range(200)]
    kept, more = told(names)
    assert 0 < len(kept) < 100
    assert kept == names[: len(kept)]
    assert more == 200 - len(kept)
