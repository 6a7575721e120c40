"""Rates and requests at a time, by token."""

from __future__ import annotations

import pytest

from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.limits import RateLimits

pytestmark = pytest.mark.anyio


async def test_without_limits_anything_goes() -> None:
    limits = RateLimits(None, None)
    for _ in range(100):
        await limits.admit("alice")


async def test_what_is_more_than_one_of_several_rates_is_refused_with_when_to_ask_again() -> None:
    limits = RateLimits("2/second;3/15minutes", None)
    for _ in range(2):
        await limits.admit("alice")
    with pytest.raises(ApiError, match="2 times in a second") as caught:
        await limits.admit("alice")
    assert (caught.value.status, caught.value.retry_after) == (429, 1)
    await limits.admit("bob")  # whose requests are others


async def test_a_request_that_has_ended_makes_room_and_one_that_was_refused_takes_none() -> None:
    limits = RateLimits("3/day", 1)
    for _ in range(3):
        await limits.admit("alice")
        with pytest.raises(ApiError, match="CONCURRENCY_LIMIT"):
            await limits.admit("alice")
        limits.end("alice")
    for _ in range(2):
        with pytest.raises(ApiError, match="3 times in a day"):
            await limits.admit("alice")
