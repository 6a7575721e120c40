"""The line before a WebUI: one request at a time, jobs that are run together, progress, and interrupts."""

from __future__ import annotations

import base64
import itertools
import random
import subprocess
from dataclasses import replace
from typing import Any, Final
from unittest.mock import Mock

import anyio
import pytest
from PIL import Image

from tests.doubles.webui.client import Asking, ask
from tests.doubles.webui.pictures import encode
from tests.support.waiting import until
from tests.support.webui_bench import OFTEN, SLOW, Bench, Job, bench, cat, cat_from_image, size
from velesio_worker.wire.errors import EngineCrashedError, EngineRefusedError, EngineUnavailableError
from velesio_worker.wire.events import Begun, Done

pytestmark = [pytest.mark.processes, pytest.mark.anyio]

LONG = cat(steps=150, n_iter=16)
"""An image that nobody waits for the end of."""

PICTURES: Final = replace(OFTEN, preview_polls=1)
IMPATIENT: Final = replace(OFTEN, unknown=0.1)
SCRIPT: dict[str, object] = {"script_name": "x/y/z plot", "script_args": []}


async def test_one_request_is_in_flight_whatever_comes_and_whoever_leaves() -> None:
    chance = random.Random(4)
    async with bench(most=3) as bed:
        jobs = [bed.start(cat(prompt=f"cat {chance.randrange(4)}", steps=chance.randrange(1, 9))) for _ in range(40)]
        for job in chance.sample(jobs, 12):
            await until(lambda job=job: job.over or len(bed.double.requests) >= chance.randrange(9))
            await job.close()
        for job in jobs:
            await until(lambda job=job: job.over)
            assert not job.events or job.scope.cancel_called or size(job.result["images"][0]) == (64, 64)
        assert bed.double.peak == 1
        assert all(body["batch_size"] <= 3 for body in bed.sent)


async def test_jobs_are_run_in_the_order_in_which_they_came() -> None:
    async with bench() as bed:
        first = await bed.held()
        jobs = await bed.start_in_line(*(cat(prompt=f"cat {number}", seed=7) for number in range(6)))
        bed.double.go_on()
        for job in (first, *jobs):
            await job.ended()
        assert bed.prompts == ["in front", *(f"cat {number}" for number in range(6))]
        assert bed.double.peak == 1


async def test_jobs_that_differ_in_nothing_but_the_seed_are_one_request_and_each_gets_its_own_image() -> None:
    async with bench() as bed:
        first = await bed.held()
        jobs = await bed.start_in_line(cat(), cat(prompt="a dog"), cat(), cat())
        bed.double.go_on()
        for job in (first, *jobs):
            await job.ended()
        assert [(body["prompt"], body["batch_size"]) for body in bed.sent[1:]] == [("a cat", 3), ("a dog", 1)]
        merged = [jobs[0], jobs[2], jobs[3]]
        seeds = [job.result["seeds"] for job in merged]
        start = bed.sent[1]["seed"]
        assert seeds == [[start], [start + 1], [start + 2]]
        assert len({job.result["images"][0] for job in merged}) == 3
        for job, (seed,) in zip(merged, seeds, strict=True):
            alone = await bed.start(cat(seed=seed)).ended()
            assert alone["images"] == job.result["images"], "as if it had been run alone"
            assert job.result["parameters"]["batch_size"] == 1
            assert job.result["info"]["all_seeds"] == [seed]


async def test_jobs_of_several_images_are_run_together_up_to_the_limit() -> None:
    async with bench(most=5) as bed:
        first = await bed.held()
        jobs = await bed.start_in_line(*(cat(batch_size=2) for _ in range(3)))
        bed.double.go_on()
        for job in (first, *jobs):
            await job.ended()
        assert [body["batch_size"] for body in bed.sent[1:]] == [4, 2]
        assert [len(job.result["images"]) for job in jobs] == [2, 2, 2]
        assert len({image for job in jobs for image in job.result["images"]}) == 6


@pytest.mark.parametrize(
    "values", [{"seed": 7}, {"n_iter": 2}, SCRIPT, {"subseed": 3}], ids=["seed", "n_iter", "script", "subseed"]
)
async def test_a_job_that_wants_something_of_its_own_is_run_alone(values: dict[str, object]) -> None:
    async with bench() as bed:
        first = await bed.held()
        jobs = await bed.start_in_line(*(cat(**values) for _ in range(2)))
        bed.double.go_on()
        await first.ended()
        for job in jobs:
            await until(lambda job=job: job.over)
        assert [body["batch_size"] for body in bed.sent] == [1, 1, 1]


async def test_jobs_from_images_are_run_alone() -> None:
    async with bench() as bed:
        first = await bed.held()
        jobs = await bed.start_in_line(cat_from_image(), cat_from_image(), cat())
        bed.double.go_on()
        for job in (first, *jobs):
            await job.ended()
        assert [body["batch_size"] for body in bed.sent] == [1, 1, 1, 1]


async def test_after_out_of_memory_in_a_merged_request_nothing_is_merged_any_more() -> None:
    async with bench() as bed:
        first = await bed.held()
        jobs = await bed.start_in_line(cat(), cat(), cat(prompt="a dog"), cat(prompt="a dog"))
        bed.double.fail_next("oom")
        bed.double.go_on()
        await first.ended()
        assert [(await job.failed()).code for job in jobs[:2]] == ["out_of_memory"] * 2
        for job in jobs[2:]:
            await job.ended()
        assert [body["batch_size"] for body in bed.sent] == [1, 2, 1, 1]
        assert bed.engine.line.most == 1


async def test_out_of_memory_of_one_job_alone_does_not_end_the_merging() -> None:
    async with bench() as bed:
        bed.double.fail_next("oom")
        await bed.start(cat()).failed()
        assert bed.engine.line.most == 4


async def test_progress_never_goes_back_and_is_whole_only_at_the_end() -> None:
    async with bench(SLOW) as bed:
        for parameters in (cat(steps=30), cat(steps=8, n_iter=3), cat_from_image(steps=20)):
            job = bed.start(parameters)
            await job.ended()
            assert len(job.fractions) > 2
            assert job.fractions == sorted(job.fractions)
            assert job.fractions[-1] == 1.0
            assert all(fraction < 1.0 for fraction in job.fractions[:-1])
            assert [type(event) for event in job.events].count(Done) == 1


async def test_previews_are_small_pictures_and_come_after_ten_steps() -> None:
    async with bench(SLOW, pace=PICTURES) as bed:
        job = bed.start(cat(steps=30, width=512, height=256))
        await job.ended()
        previews = [event for event in job.progress if event.preview is not None]
        assert previews
        assert all(event.data["step"] >= 10 for event in previews)
        for event in previews:
            assert event.preview is not None
            assert event.preview.startswith(b"\xff\xd8"), "a JPEG"
            assert size(event.preview) == (256, 128)


EPS: Final = base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n%%EOF\n").decode()
TOO_LARGE: Final = encode(Image.new("L", (1100, 1100)))
"""More than four times the SD_MAX_PIXELS of a bench."""


@pytest.mark.parametrize("picture", [EPS, TOO_LARGE, "A" * (8 * 1024 * 1024 + 4), "no base64"], ids=len)
async def test_a_preview_that_cannot_be_used_is_none_and_no_matter(
    picture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench(SLOW, pace=PICTURES) as bed:
        report, shown = bed.double.studio.state.report, list[bool]()

        def with_another(*, with_image: bool) -> dict[str, Any]:
            shown.append(with_image)
            return report(with_image=with_image) | {"current_image": picture}

        monkeypatch.setattr(bed.double.studio.state, "report", with_another)
        job = bed.start(cat(steps=30))
        await job.ended()
        assert any(shown)
        assert all(event.preview is None for event in job.progress)


async def test_whatever_a_preview_raises_the_engine_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    raising = Mock(side_effect=subprocess.CalledProcessError(1, "gs"))
    monkeypatch.setattr("velesio_worker.engines.webui.line.preview", raising)
    async with bench(SLOW, pace=PICTURES) as bed:
        await bed.start(cat(steps=30)).ended()
        assert raising.called
        await bed.start(cat()).ended()


async def test_without_previews_there_are_none() -> None:
    async with bench(SLOW, previews=False, pace=PICTURES) as bed:
        job = bed.start(cat(steps=30))
        await job.ended()
        assert len(job.progress) > 2
        assert all(event.preview is None for event in job.progress)


async def test_a_server_without_progress_still_makes_the_image() -> None:
    async with bench(replace(SLOW, missing=frozenset({"progress"}))) as bed:
        job = bed.start(cat(steps=10))
        await job.ended()
        assert job.fractions == [1.0]
        assert any(not batch for batch in job.batches), "signs of life"


async def test_polls_that_fail_in_the_middle_are_no_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench(SLOW) as bed:
        polls = itertools.count()
        report = bed.double.studio.state.report

        def failing(*, with_image: bool) -> dict[str, object]:
            if next(polls) % 2:
                raise RuntimeError("no progress today")
            return report(with_image=with_image)

        monkeypatch.setattr(bed.double.studio.state, "report", failing)
        job = bed.start(cat(steps=20))
        await job.ended()
        assert job.fractions == sorted(job.fractions)
        assert next(polls) > 3


async def test_a_job_that_leaves_while_it_waits_is_never_seen_by_the_webui() -> None:
    async with bench() as bed:
        first = await bed.held()
        leaving, staying = await bed.start_in_line(cat(prompt="nobody"), cat(prompt="somebody"))
        await leaving.close()
        bed.double.go_on()
        await first.ended()
        await staying.ended()
        assert bed.prompts == ["in front", "somebody"]
        assert bed.double.interrupts == []


async def test_a_job_that_leaves_while_it_runs_is_interrupted_and_the_next_image_is_whole() -> None:
    async with bench(SLOW) as bed:
        want = await bed.start(cat(prompt="next", seed=9, steps=6)).ended()
        job = bed.start(LONG)
        await until(lambda: bed.double.step > 2)
        (following,) = await bed.start_in_line(cat(prompt="next", seed=9, steps=6))
        began = anyio.current_time()
        await job.close()
        result = await following.ended()
        assert anyio.current_time() - began < 15, "of 24 s"
        assert result["images"] == want["images"]
        assert bed.double.interrupts[0], "never an interrupt while nothing runs"


async def test_one_of_two_jobs_that_are_run_together_leaves_without_an_interrupt() -> None:
    async with bench() as bed:
        first = await bed.held()
        leaving, staying = await bed.start_in_line(cat(), cat())
        bed.double.go_on()
        await first.ended()
        await until(lambda: len(bed.sent) == 2)
        bed.double.pause()
        await leaving.close()
        bed.double.go_on()
        await staying.ended()
        assert bed.sent[1]["batch_size"] == 2
        assert bed.double.interrupts == []
        assert staying.result["seeds"] == [bed.sent[1]["seed"] + 1]


async def test_both_of_two_jobs_that_are_run_together_leave_and_it_is_interrupted() -> None:
    async with bench(SLOW) as bed:
        first = await bed.held()
        jobs = await bed.start_in_line(cat(steps=150), cat(steps=150))
        bed.double.go_on()
        await first.ended()
        await until(lambda: bed.double.step > 2)
        for job in jobs:
            await job.close()
        await bed.start(cat(prompt="next")).ended()
        assert bed.double.interrupts[0]


async def test_a_job_that_leaves_before_the_webui_has_begun_is_stopped_all_the_same() -> None:
    async with bench(SLOW) as bed:
        with bed.double.studio.turns.turn():  # the WebUI is busy with something that is no image
            job = bed.start(LONG)
            await until(lambda: bed.double.waiting)
            await job.close()
            await until(lambda: len(bed.double.interrupts) > 1)
        assert not any(bed.double.interrupts), "they came too early, and were lost"
        await bed.start(cat(prompt="next")).ended()
        assert any(bed.double.interrupts)


async def test_an_interrupt_arrives_before_the_next_request_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench(SLOW) as bed:
        order: list[str] = []
        api = bed.engine.line._api  # pyright: ignore[reportPrivateUsage]
        post = api.post

        async def slow(route: str, body: dict[str, object], **values: float | None) -> object:
            if route == "interrupt":
                answer = await post(route, body)
                if not order:
                    await until(lambda: bed.double.made)
                    await anyio.sleep(0.2)  # a slow network: the image comes before the interrupt's answer
                order.append("interrupt")
                return answer
            order.append(str(body["prompt"]))
            return await post(route, body, **values)

        job = await bed.held(cat(steps=50))
        monkeypatch.setattr(api, "post", slow)
        (following,) = await bed.start_in_line(cat(prompt="next"))
        await job.close()
        bed.double.go_on()
        await following.ended()
        assert order == ["interrupt", "next"]


async def test_somebody_elses_request_is_not_interrupted() -> None:
    async with bench(SLOW, shared=True) as bed:
        theirs = Asking(bed.double, "POST", "txt2img", {"prompt": "theirs", "steps": 60, "width": 64, "height": 64})
        await until(lambda: bed.double.running)
        ours = bed.start(LONG)
        await until(lambda: bed.double.waiting)
        await ours.close()
        await until(lambda: theirs.answered)
        assert len(theirs.answer()[1]["images"]) == 1
        await bed.start(cat(prompt="next")).ended()
        assert bed.double.interrupts
        assert bed.double.interrupts[0]


async def test_progress_of_somebody_elses_request_is_not_shown_as_ours() -> None:
    async with bench(SLOW, shared=True) as bed:
        theirs = Asking(bed.double, "POST", "txt2img", {"prompt": "theirs", "steps": 30, "width": 64, "height": 64})
        await until(lambda: bed.double.running)
        ours = bed.start(cat(steps=10))
        await until(lambda: theirs.answered)
        assert ours.progress == []
        assert ours.batches, "but signs of life are"
        await ours.ended()
        assert len(ours.fractions) > 1


THEIRS: Final[dict[str, object]] = {"prompt": "theirs", "steps": 120, "width": 64, "height": 64}
"""Takes longer than a second: a WebUI says in whole seconds when an image was begun, and so tells one from the next."""


@pytest.mark.parametrize("pages", [True, False], ids=["ids without effect", "no ids"])
async def test_where_requests_have_no_ids_ours_is_taken_to_be_at_work_once_what_was_in_front_has_ended(
    *, pages: bool
) -> None:
    async with bench(replace(SLOW, task_ids=False, nowebui=not pages), shared=True, pace=IMPATIENT) as bed:
        theirs = Asking(bed.double, "POST", "txt2img", THEIRS)
        await until(lambda: bed.double.running)
        ours = bed.start(cat(steps=120, n_iter=4))
        await until(lambda: bed.double.waiting)
        await until(lambda: theirs.answered)
        assert ours.progress == []
        await until(lambda: len(ours.fractions) > 1)
        await ours.close()
        await bed.start(cat(prompt="next")).ended()
        assert bed.double.interrupts
        assert bed.double.interrupts[0]


async def test_where_requests_have_no_ids_what_is_in_front_is_not_interrupted() -> None:
    async with bench(replace(SLOW, task_ids=False), shared=True, pace=IMPATIENT) as bed:
        theirs = Asking(bed.double, "POST", "txt2img", THEIRS)
        await until(lambda: bed.double.running)
        ours = bed.start(LONG)
        await until(lambda: bed.double.waiting)
        await ours.close()
        await until(lambda: theirs.answered)
        assert len(theirs.answer()[1]["images"]) == 1
        await bed.start(cat(prompt="next")).ended()
        assert bed.double.interrupts


async def test_where_requests_have_no_ids_and_none_is_in_front_ours_is_followed_and_interrupted() -> None:
    async with bench(replace(SLOW, task_ids=False), shared=True, pace=IMPATIENT) as bed:
        ours = bed.start(LONG)
        await until(lambda: len(ours.fractions) > 1)
        await ours.close()
        await bed.start(cat(prompt="next")).ended()
        assert bed.double.interrupts


async def test_an_interrupt_by_somebody_else_is_an_error_never_a_half_done_image() -> None:
    async with bench(SLOW) as bed:
        job = await bed.held(cat(steps=50), at=5)
        ask(bed.double, "POST", "interrupt")
        bed.double.go_on()
        error = await job.failed()
        assert isinstance(error, EngineRefusedError)
        assert "interrupted" in str(error)
        assert job.fractions == sorted(job.fractions)
        assert 1.0 not in job.fractions
        await bed.start(cat()).ended()


async def test_an_interrupt_by_somebody_else_is_noticed_though_another_request_wipes_it_out() -> None:
    async with bench(SLOW, shared=True) as bed:
        job = await bed.held(cat(steps=50), at=5)
        theirs = Asking(bed.double, "POST", "txt2img", {"prompt": "theirs", "steps": 20, "width": 64, "height": 64})
        await until(lambda: bed.double.waiting)
        ask(bed.double, "POST", "interrupt")
        polls = bed.double.polls
        await until(lambda: bed.double.polls > polls + 2)
        bed.double.go_on()
        assert isinstance(await job.failed(), EngineRefusedError)
        theirs.answer()


async def test_a_part_of_the_images_is_an_error() -> None:
    async with bench(SLOW) as bed:
        job = await bed.held(cat(steps=5, n_iter=4), at=2)
        ask(bed.double, "POST", "interrupt")
        bed.double.go_on()
        assert isinstance(await job.failed(), EngineRefusedError)


@pytest.mark.parametrize("missing", [frozenset[str](), frozenset({"progress"})], ids=["progress", "no progress"])
async def test_a_job_that_waits_in_line_is_shown_signs_of_life(missing: frozenset[str]) -> None:
    async with bench(replace(SLOW, missing=missing)) as bed:
        running = bed.start(LONG)
        await until(lambda: bed.double.running)
        (waiting,) = await bed.start_in_line(cat(prompt="waits"))
        await until(lambda: len(waiting.batches) > 3)
        assert waiting.events == []
        await waiting.close()
        await running.close()


async def test_a_webui_that_hangs_shows_no_signs_of_life() -> None:
    async with bench(SLOW) as bed:
        running = await bed.held(cat(steps=50), at=3)
        (waiting,) = await bed.start_in_line(cat(prompt="waits"))
        polls = bed.double.polls
        await until(lambda: bed.double.polls > polls + 2)
        before, polls = (len(running.batches), len(waiting.batches)), bed.double.polls
        await until(lambda: bed.double.polls > polls + 10)
        assert (len(running.batches), len(waiting.batches)) == before


async def test_a_process_that_does_nothing_shows_no_signs_of_life_where_progress_is_not_told() -> None:
    looks = itertools.count()
    work = itertools.chain([0.0, 1.0, 2.0], itertools.repeat(3.0))

    def done() -> float:
        next(looks)
        return next(work)

    async with bench(replace(SLOW, missing=frozenset({"progress"})), work=done) as bed:
        job = await bed.held(cat(steps=50), at=3)
        await until(lambda: next(looks) > 20)
        assert len(job.batches) == 5, "that it has begun, and four signs"


def one_batch(bed: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the server make no more than a batch for a request, as sd-server does."""
    api = bed.engine.line._api  # pyright: ignore[reportPrivateUsage]
    post = api.post

    async def once(route: str, body: dict[str, object], **values: float | None) -> object:
        return await post(route, body | {"n_iter": 1}, **values)

    monkeypatch.setattr(api, "post", once)


async def test_a_server_that_makes_no_more_than_a_batch_is_asked_again_until_all_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with bench(replace(SLOW, missing=frozenset({"interrupt"}))) as bed:
        one_batch(bed, monkeypatch)
        result = await bed.start(cat(n_iter=3, batch_size=2, seed=5)).ended()
        assert result["seeds"] == [5, 6, 7, 8, 9, 10]
        assert len(set(result["images"])) == 6
        assert [body["seed"] for body in bed.sent] == [5, 7, 9]


async def test_a_server_without_interrupts_gets_no_more_of_a_job_that_left(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench(replace(SLOW, missing=frozenset({"interrupt"}))) as bed:
        one_batch(bed, monkeypatch)
        job = await bed.held(cat(n_iter=3, steps=5), at=2)
        (following,) = await bed.start_in_line(cat(prompt="next"))
        await job.close()
        bed.double.go_on()
        await following.ended()
        assert bed.prompts == ["a cat", "next"]


async def test_a_process_of_ones_own_that_goes_on_with_what_nobody_wants_is_killed() -> None:
    killed: list[Bench] = []
    setup, pace = replace(SLOW, missing=frozenset({"interrupt"})), replace(OFTEN, replace=0.2)
    async with bench(setup, kill=lambda: killed.append(bed), pace=pace) as bed:
        job = await bed.held(cat(steps=50), at=2)
        (waiting,) = await bed.start_in_line(cat(prompt="next"))
        began = anyio.current_time()
        await job.close()
        await until(lambda: killed)
        assert anyio.current_time() - began >= 0.2
        assert isinstance(await waiting.failed(), EngineUnavailableError), "which costs it no attempt"
        assert len(killed) == 1


async def test_a_server_elsewhere_that_goes_on_is_waited_for() -> None:
    setup, pace = replace(SLOW, missing=frozenset({"interrupt"})), replace(OFTEN, replace=0.05)
    async with bench(setup, shared=True, pace=pace) as bed:
        job = await bed.held(cat(steps=50), at=2)
        await job.close()
        polls = bed.double.polls
        await until(lambda: bed.double.polls > polls + 10)
        (waiting,) = await bed.start_in_line(cat(prompt="next"))
        bed.double.go_on()
        await waiting.ended()


async def test_a_job_whose_webui_goes_away_in_the_middle_has_crashed() -> None:
    async with bench() as bed:
        bed.double.fail_next("drop")
        assert isinstance(await bed.start(cat()).failed(), EngineCrashedError)
        await bed.start(cat()).ended()


async def test_a_job_that_finds_nothing_at_the_address_costs_no_attempt() -> None:
    async with bench() as bed:
        bed.double.__exit__(None, None, None)
        try:
            assert isinstance(await bed.start(cat()).failed(), EngineUnavailableError)
        finally:
            bed.double.__enter__()


async def test_a_line_that_ends_in_the_middle_of_a_request_interrupts_it() -> None:
    async with bench(SLOW, shared=True) as bed:
        job = bed.start(LONG)
        await until(lambda: bed.double.step > 2)
        bed.stop_line()
        await until(lambda: bed.double.made)
        assert bed.double.interrupts
        assert bed.double.interrupts[0]
        await job.close()


async def test_nothing_is_in_flight_once_the_line_is_idle() -> None:
    async with bench(SLOW) as bed:
        job: Job = bed.start(LONG)
        await until(lambda: bed.double.step > 2)
        await job.close()
        with anyio.fail_after(60):
            await bed.engine.line.idle()
        assert bed.double.inside == 0
        assert not bed.double.running


async def test_jobs_that_only_stood_in_line_are_never_begun_on_a_webui_that_died() -> None:
    async with bench(most=1) as bed:
        first = await bed.held()
        behind = await bed.start_in_line(*(cat(prompt=f"cat {number}") for number in range(3)))
        bed.double.__exit__(None, None, None)
        try:
            assert isinstance(await first.failed(), EngineCrashedError)
            for job in behind:
                assert isinstance(await job.failed(), EngineUnavailableError)
                assert Begun() not in job.events, "which costs no attempt"
        finally:
            bed.double.__enter__()


async def test_a_webui_that_lost_one_connection_alone_goes_on_with_the_line() -> None:
    async with bench(SLOW, most=1) as bed:
        bed.double.fail_next("drop")
        first, *behind = await bed.start_in_line(*(cat(prompt=f"cat {number}") for number in range(3)))
        assert isinstance(await first.failed(), EngineCrashedError)
        for job in behind:
            await job.ended()
