"""Which image job is next, and which are run together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from velesio_worker.queue.choice import PASSES, Affinity

LIMIT = 64 * 1024
TOO_LARGE = b""


class Numbered:
    """Makes payloads, each with an id of its own."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(
        self, model: str | None = None, *, type_: str = "txt2img", worker: str | None = None, **data: Any
    ) -> bytes:
        self.count += 1
        whole = {"prompt": "a cat"} | data | ({"model": model} if model else {})
        if type_ == "img2img":
            whole |= {"init_images": ["aGVsbG8="]}
        return orjson.dumps(
            {"id": f"job-{self.count}", "type": type_, "data": whole} | ({"worker": worker} if worker else {})
        )


payload = Numbered()


def affinity(loaded: str | None = "A", most: int = 4) -> Affinity:
    """One whose default model is A."""
    return Affinity(max_bytes=LIMIT, loaded=lambda: loaded, known_as=lambda name: name or "A", most=lambda: most)


def test_the_next_job_is_taken_if_it_needs_what_is_loaded() -> None:
    assert affinity().first([payload("A"), payload("B")]) is None
    assert affinity().first([payload(), payload("B")]) is None
    assert affinity("B").first([payload("B"), payload("A")]) is None


def test_a_job_for_the_loaded_model_goes_before_others() -> None:
    other, fitting, late = payload("B"), payload("A"), payload("A")
    assert affinity().first([other, fitting, late]) == fitting


def test_a_job_that_names_no_model_wants_the_default_one() -> None:
    switched, plain = payload("B"), payload()
    assert affinity("B").first([plain, switched]) == switched
    assert affinity("A").first([switched, plain]) == plain


def test_the_next_job_is_taken_if_none_fits_or_nothing_waits_or_nothing_is_loaded() -> None:
    assert affinity().first([payload("B"), payload("C")]) is None
    assert affinity().first([]) is None
    assert affinity(None).first([payload("B"), payload("A")]) is None


def test_a_job_is_passed_over_so_often_and_not_once_more() -> None:
    choice, passed = affinity(), payload("B")
    for _ in range(PASSES):
        fitting = payload("A")
        assert choice.first([passed, fitting]) == fitting
    fitting = payload("A")
    assert choice.first([passed, fitting]) is None, "it is its turn"
    assert choice.first([passed, fitting]) == fitting, "and the next one may be passed over again"


def test_patience_is_counted_anew_once_the_next_job_was_taken() -> None:
    choice, passed, fitting = affinity(), payload("B"), payload("A")
    for _ in range(PASSES - 1):
        assert choice.first([passed, fitting]) == fitting
    assert choice.first([fitting]) is None
    for _ in range(PASSES):
        assert choice.first([passed, fitting]) == fitting


@pytest.mark.parametrize("wrong", [TOO_LARGE, b"{", b"[]", b'{"id": "a1", "type": "txt2img", "data": {"steps": 0}}'])
def test_what_cannot_be_read_is_taken_in_its_turn_and_never_chosen(wrong: bytes) -> None:
    other, fitting = payload("B"), payload("A")
    assert affinity().first([wrong, fitting]) is None
    assert affinity().first([other, wrong, fitting]) == fitting
    assert affinity().first([other, wrong]) is None


@given(st.lists(st.sampled_from(["A", "B", None, "wrong"]), max_size=6), st.sampled_from(["A", "B"]))
def test_a_choice_waits_fits_and_is_the_first_that_does(models: list[str | None], loaded: str) -> None:
    waiting = [b"{" if model == "wrong" else payload(model) for model in models]
    chosen = affinity(loaded).first(waiting)
    fitting = [job for job, model in zip(waiting, models, strict=True) if (model or "A") == loaded]
    if chosen is not None:
        assert chosen == fitting[0]
        assert chosen != waiting[0]
    elif models and models[0] != "wrong":
        assert not fitting or fitting[0] == waiting[0]


def test_every_job_has_its_turn_however_many_of_another_model_come() -> None:
    choice, left_out = affinity(), payload("B")
    waiting = [left_out]
    for taken in range(100):
        waiting += [payload("A"), payload("A")]
        job = choice.first(waiting) or waiting[0]
        waiting.remove(job)
        if job == left_out:
            assert taken == PASSES
            return
    pytest.fail("it waits for ever")


def mates_of(job: bytes, waiting: Sequence[bytes], most: int = 4) -> list[bytes]:
    return list(affinity(most=most).mates(job, waiting))


def test_jobs_that_ask_for_the_same_are_run_together() -> None:
    same = [payload(), payload(seed=-1), payload(width=512)]
    others = [payload(prompt="a dog"), payload(seed=7), payload(steps=4), payload("B"), payload(type_="img2img")]
    assert mates_of(payload(), [others[0], same[0], *others[1:], same[1], same[2]]) == same


def test_no_more_images_are_made_at_once_than_fit() -> None:
    same = [payload() for _ in range(9)]
    assert mates_of(payload(), same) == same[:3]
    assert mates_of(payload(), same, most=1) == []
    pairs = [payload(batch_size=2) for _ in range(3)]
    assert mates_of(payload(batch_size=2), pairs) == pairs[:1]
    assert mates_of(payload(batch_size=3), [payload(batch_size=3)]) == []
    assert mates_of(payload(batch_size=9), [payload(batch_size=9)]) == []


@pytest.mark.parametrize(
    "alone",
    [payload(seed=7), payload(type_="img2img"), payload(n_iter=2), TOO_LARGE, b"{", payload(type_="completion")],
)
def test_a_job_that_is_run_alone_has_no_mates(alone: bytes) -> None:
    assert mates_of(alone, [alone, payload(), payload()]) == []


def test_a_job_that_names_a_worker_is_left_to_it() -> None:
    assert mates_of(payload(), [payload(worker="w1"), TOO_LARGE, b"{"]) == []


@given(st.lists(st.integers(1, 4), max_size=8), st.integers(1, 4), st.integers(1, 9))
def test_mates_wait_are_in_order_and_fit(sizes: list[int], own: int, most: int) -> None:
    waiting = [payload(batch_size=size) for size in sizes]
    mates = mates_of(payload(batch_size=own), waiting, most)
    assert [job for job in waiting if job in mates] == mates
    assert own * (1 + len(mates)) <= max(most, own)
