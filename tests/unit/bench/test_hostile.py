"""What the fuzzer draws is what it says: payloads of a bounded size, of which some are jobs and some are not."""

from __future__ import annotations

from collections import Counter

from bench import hostile
from hypothesis import HealthCheck, Phase, given, settings

from velesio_worker.wire.errors import UnusablePayloadError
from velesio_worker.wire.jobs import RefusedJobError, parse_job


def kind_of(payload: bytes) -> str:
    try:
        parse_job(payload, max_bytes=hostile.MOST_BYTES)
    except RefusedJobError:
        return "refused"
    except UnusablePayloadError:
        return "unusable"
    return "taken"


def test_of_what_is_drawn_some_is_taken_some_is_refused_and_some_cannot_be_read() -> None:
    kinds: Counter[str] = Counter()

    @settings(
        max_examples=150,
        phases=[Phase.generate],
        database=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(hostile.payloads())
    def draw(payload: bytes) -> None:
        assert len(payload) <= hostile.MOST_BYTES + 200_000  # what a bad line may add
        kinds[kind_of(payload)] += 1

    draw()
    assert min(kinds[kind] for kind in ("refused", "unusable", "taken")) > 5, kinds
