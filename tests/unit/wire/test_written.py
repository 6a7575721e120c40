"""What an engine sent and JSON does not hold is the engine's mistake, and no job stays without an end for it."""

from __future__ import annotations

from typing import Any

import orjson
import psutil
import pytest

from velesio_worker.wire.errors import EngineRefusedError
from velesio_worker.wire.events import written


@pytest.mark.parametrize("value", [orjson.loads(b"[" * 300 + b"]" * 300), 2 * (2**64 - 1), "\ud800"])
def test_what_can_be_read_and_not_written_is_the_engines_mistake(value: Any) -> None:
    with pytest.raises(EngineRefusedError, match="cannot be written as JSON"):
        written({"data": value})


def test_all_else_is_written() -> None:
    assert written({"data": [1, "ü", None]}) == '{"data":[1,"ü",null]}'.encode()


def test_what_is_kept_of_a_token_takes_no_more_than_it_has_bytes() -> None:
    """Cut from the block of 4 KB that it was written in, it would keep the rest of it from others."""
    before = psutil.Process().memory_info().rss
    kept = [written({"choices": [orjson.loads(b'{"text": " a", "index": %d}' % number)]}) for number in range(20_000)]
    grown = psutil.Process().memory_info().rss - before
    assert grown < 20_000 * 1024, f"{grown / len(kept):.0f} bytes a token"
