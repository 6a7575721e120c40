"""Progress is told of the caller's own images."""

from __future__ import annotations

import base64
from typing import Any

from velesio_worker.gateway.caller import Caller
from velesio_worker.gateway.sdapi.progress import RunningImage, RunningImages, progress_answer, shown
from velesio_worker.wire.events import StreamEvent

ANNE, BEN = Caller("anne", b"a"), Caller("ben", b"b")


def event(name: str, **data: Any) -> StreamEvent:
    return StreamEvent("1-1", name, data)


def sampling(step: int, **more: Any) -> StreamEvent:
    return event("progress", stage="sampling", step=step, steps=20, fraction=step / 20, eta=1.5, **more)


def test_nobody_has_images_at_first() -> None:
    told = progress_answer(RunningImages().of(ANNE), None)
    assert (told["progress"], told["eta_relative"], told["current_image"], told["textinfo"]) == (0.0, 0.0, None, None)
    assert (told["state"]["job_count"], told["state"]["job"]) == (0, "")


def test_an_image_is_its_callers_alone_and_as_long_as_it_runs() -> None:
    images = RunningImages()
    with images.kept(ANNE, RunningImage("a")):
        assert [image.job_id for image in images.of(ANNE)] == ["a"]
        assert images.of(BEN) == []
    assert images.of(ANNE) == []


def test_an_image_goes_through_the_queue_the_engine_and_its_steps() -> None:
    image = RunningImage("a", steps=20)
    waiting = progress_answer([image], None)
    assert (waiting["progress"], waiting["state"]["job_count"], waiting["state"]["sampling_steps"]) == (0.0, 1, 20)
    assert waiting["textinfo"] == "Waiting in the queue…"
    image.note(event("progress", stage="loading", processed=1, total=None, state="starting"))
    assert progress_answer([image], None)["textinfo"] == "The engine is starting…"
    image.note(event("start", mode="fresh"))
    image.note(sampling(5))
    told = progress_answer([image], b"\xff\xd8")
    assert (told["progress"], told["eta_relative"], told["textinfo"]) == (0.25, 1.5, None)
    assert (told["state"]["sampling_step"], told["state"]["sampling_steps"]) == (5, 20)
    assert base64.b64decode(told["current_image"]) == b"\xff\xd8"


def test_an_eta_that_nobody_knows_is_no_number_of_seconds() -> None:
    image = RunningImage("a")
    image.note(event("progress", stage="sampling", step=1, steps=20, fraction=0.05, eta=None))
    assert progress_answer([image], None)["eta_relative"] == 0.0


def test_a_new_attempt_begins_from_nothing() -> None:
    image = RunningImage("a")
    image.note(sampling(5, preview="{result:a}:preview"))
    assert image.has_preview
    image.note(event("start", mode="restart"))
    assert (image.fraction, image.has_preview) == (0.0, False)


def test_the_oldest_that_runs_is_told_of() -> None:
    first, second = RunningImage("a"), RunningImage("b")
    assert shown([first, second]) is first
    second.note(event("start", mode="fresh"))
    assert shown([first, second]) is second
    second.note(event("done", finish_reason="stop"))
    assert shown([first, second]) is first
