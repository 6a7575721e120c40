"""``created_at``: when a producer says that it made a job. Whatever stands there, no job is refused for it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velesio_worker.wire.jobs import Job, moment_of, parse_job

NOW = time.time()
ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def parsed(**fields: Any) -> Job:
    job = {"id": "a", "type": "completion", "data": {"prompt": "x"}, **fields}
    return parse_job(json.dumps(job).encode(), max_bytes=100_000)


@pytest.mark.parametrize("value", [NOW, int(NOW), NOW - 3600, NOW + 60], ids=["now", "whole", "past", "soon"])
def test_a_moment_is_taken_as_it_is(value: float) -> None:
    assert parsed(created_at=value).submitted_at == value


@pytest.mark.parametrize(
    "value",
    [None, True, False, "1700000000", "2026-01-01T00:00:00Z", [], [NOW], {}, {"at": NOW}, 0, -1, -0.0],
)
def test_what_is_no_moment_is_ignored(value: Any) -> None:
    assert parsed(created_at=value).submitted_at is None


@pytest.mark.parametrize("value", [NOW * 1000, NOW * 1e6, 2**64 - 1, 1e308, NOW + 3600], ids=range(5))
def test_a_moment_that_cannot_be_yet_is_ignored(value: float) -> None:
    """Such as milliseconds, which JavaScript counts in."""
    assert parsed(created_at=value).submitted_at is None


@pytest.mark.parametrize("value", [1, 0.5, 123456.789])
def test_seconds_that_count_from_something_else_are_ignored(value: float) -> None:
    """Such as a process's own clock: taken for Unix time they would be half a century of waiting."""
    assert parsed(created_at=value).submitted_at is None


def test_it_may_be_nested_as_deep_as_json_may_be() -> None:
    deep = b"[" * 900 + b"]" * 900
    payload = b'{"id":"a","type":"completion","data":{"prompt":"x"},"created_at":' + deep + b"}"
    assert parse_job(payload, max_bytes=100_000).submitted_at is None


@given(ANY_JSON)
def test_whatever_it_is_the_job_is_right(value: Any) -> None:
    moment = parsed(created_at=value).submitted_at
    assert moment is None or 0 < moment <= time.time() + 600
    assert moment == moment_of(value)
