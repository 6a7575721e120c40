"""Image jobs through Redis, on a WebUI that the worker starts (the double) beside the real llama.cpp server."""

from __future__ import annotations

import base64
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.webui import Setup, WebUIDouble, sample_image
from tests.support.painters import (
    cancel,
    ended,
    journal,
    opened,
    paint,
    paint_all,
    painting,
    progress,
    webui,
    webui_process,
)
from tests.support.processes import MakeWorker, wait_until_gone
from tests.support.streams import entries, push, read, result
from tests.support.tiny import model_path

__all__ = ["model_path"]  # a fixture

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]

IMAGES = 20
TEXTS = 60


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """Where the WebUI notes what it does."""
    return tmp_path / "journal"


def until(condition: Callable[[], object], what: str, limit: float = 100) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_an_image_comes_with_progress_a_preview_and_its_real_seed(
    plain: Any, make_worker: MakeWorker, notes: Path
) -> None:
    worker = make_worker(**webui(notes, step_seconds=0.06))
    paint(plain, "cat", steps=40, width=128)
    made = ended(plain, "cat")
    found = entries(plain, "cat")
    assert "images" in made, (made, worker.log_text())
    told = progress(found)
    fractions = [data["fraction"] for data in told]
    assert fractions == sorted(fractions)
    assert [fraction == 1.0 for fraction in fractions] == [False] * (len(fractions) - 1) + [True]
    assert (told[-1]["step"], told[-1]["steps"]) == (40, 40)
    assert {data["preview"] for data in told if "preview" in data} == {"{result:cat}:preview"}
    with plain_bytes(plain) as redis:
        picture = redis.get("{result:cat}:preview")
    small = opened(base64.b64encode(picture).decode())
    assert (small.format, max(small.size) <= 256) == ("JPEG", True)
    (image,) = (opened(picture) for picture in made["images"])
    assert (image.format, image.size) == ("PNG", (128, 64))
    parameters = made["parameters"]
    assert (parameters["width"], parameters["height"], parameters["steps"]) == (128, 64, 40)
    assert parameters["seed"] == made["info"]["seed"] >= 0
    assert "warnings" not in made

    paint(plain, "again", steps=40, width=128, seed=parameters["seed"])
    assert ended(plain, "again")["images"] == made["images"]
    bad = sample_image().replace("A", "*", 1)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"sampler_name": "NoSuch"}, "data.sampler_name"),
        ({"width": 100}, "data.width"),
        ({"model": "nope"}, "data.model"),
        ({"override_settings": {"samples_format": "jpg"}}, "data.override_settings.samples_format"),
        ({"job_type": "img2img", "init_images": ["https://example.org/a.png"]}, "data.init_images"),
        ({"job_type": "img2img", "init_images": [bad]}, "data.init_images"),
    ]
    for number, (data, said) in enumerate(wrong):
        before = len(journal(notes, "arrived"))
        paint(plain, f"wrong-{number}", **data)
        answer = ended(plain, f"wrong-{number}")
        assert (answer["code"], said in answer["error"]) == ("bad_job", True), answer
        assert len(journal(notes, "arrived")) == before, "the WebUI saw a job that is wrong"
    paint(plain, "made-over", job_type="img2img", init_images=[sample_image()], denoising_strength=0.3)
    assert opened(ended(plain, "made-over")["images"][0]).size == (64, 64)
    assert worker.stop() == 0


def plain_bytes(redis: Any) -> Any:
    """A client of the same server that leaves bytes as they are."""
    options = redis.connection_pool.connection_kwargs | {"decode_responses": False}
    return type(redis)(host=options["host"], port=options["port"])


def test_a_cancel_stops_the_webui_and_delivers_nothing_half_done(
    plain: Any, make_worker: MakeWorker, notes: Path
) -> None:
    make_worker(**webui(notes, step_seconds=0.1))
    paint(plain, "long", steps=150, seed=5)
    paint(plain, "next", steps=4, seed=5)
    paint(plain, "waits", steps=4, seed=6)
    until(lambda: len(progress(entries(plain, "long"))) >= 2, "the image has begun")
    began = time.monotonic()
    cancel(plain, "waits")
    cancel(plain, "long")
    cancelled = ended(plain, "long")
    assert time.monotonic() - began < 10, "of 15 s"
    assert (cancelled["finish_reason"], cancelled["images"]) == ("cancelled", [])
    assert opened(ended(plain, "next")["images"][0]).size == (64, 64)
    waited = ended(plain, "waits")
    assert (waited["finish_reason"], waited["images"]) == ("cancelled", [])
    stopped = journal(notes, "ended")[1]  # the first was the warm-up
    assert stopped["at"] - journal(notes, "begun")[1]["at"] < 14, "the WebUI went on"
    assert entries(plain, "next")[-1][1] == "done"

    paint(plain, "slow", steps=150, envelope={"timeout": 1.5})
    assert ended(plain, "slow")["code"] == "timeout"
    paint(plain, "after", steps=4, seed=5)
    assert ended(plain, "after")["images"] == result(plain, "next")["images"]


def test_a_webui_that_dies_costs_no_job_and_a_seed_keeps_its_image(
    plain: Any, make_worker: MakeWorker, notes: Path
) -> None:
    worker = make_worker(**webui(notes, step_seconds=0.05))
    paint(plain, "first", steps=60, seed=11)
    undisturbed = ended(plain, "first")
    paint(plain, "second", steps=60, seed=11)
    until(lambda: progress(entries(plain, "second")), "the image has begun")
    webui_process(worker).kill()
    push(plain, "text", max_tokens=4, stream=True)
    read(plain, "text", until="done")
    assert ended(plain, "second")["images"] == undisturbed["images"]
    starts = [data["mode"] for _, event, data in entries(plain, "second") if event == "start"]
    assert starts[0] == "fresh"
    assert set(starts[1:]) == {"restart"}
    process = webui_process(worker)
    worker.process.kill()  # pyright: ignore[reportOptionalMemberAccess]
    wait_until_gone(process)


def test_a_killed_worker_leaves_its_image_to_another(plain: Any, make_worker: MakeWorker, tmp_path: Path) -> None:
    workers = [make_worker(**webui(tmp_path / name, step_seconds=0.1)) for name in ("a", "b")]
    for worker in workers:
        worker.wait_for("images_ready")
    paint(plain, "cat", steps=40, seed=3)
    until(lambda: progress(entries(plain, "cat")), "the image has begun")
    owner = entries(plain, "cat")[0][2]["worker"]
    pid = int(plain.hget(f"{{llama_queue}}:worker:{owner}", "pid"))
    (struck,) = (worker for worker in workers if worker.pid == pid)
    struck.process.kill()  # pyright: ignore[reportOptionalMemberAccess]
    assert opened(ended(plain, "cat")["images"][0]).size == (64, 64)
    assert [data["mode"] for _, event, data in entries(plain, "cat") if event == "start"] == ["fresh", "restart"]


def test_a_stop_lets_an_image_end_and_hands_back_what_takes_too_long(
    plain: Any, make_worker: MakeWorker, tmp_path: Path
) -> None:
    worker = make_worker(**webui(tmp_path / "a", step_seconds=0.05))
    paint(plain, "short", steps=40)
    until(lambda: progress(entries(plain, "short")), "the image has begun")
    assert worker.stop() == 0
    assert ended(plain, "short", 1)["images"]

    worker = make_worker(**webui(tmp_path / "b", step_seconds=0.1), DRAIN_SECONDS="1")
    paint(plain, "long", steps=150)
    until(lambda: progress(entries(plain, "long")), "the image has begun")
    assert worker.stop() == 0
    assert plain.llen("{llama_queue}:image") == 1
    assert plain.exists("result:long") == 0


def test_out_of_memory_replaces_the_webui_once_and_is_then_told_with_numbers(
    plain: Any, make_worker: MakeWorker, notes: Path
) -> None:
    worker = make_worker(**webui(notes, memory_pixels=2 * 64 * 64))
    worker.wait_for("images_ready")
    first = webui_process(worker).pid
    paint(plain, "huge", width=512, height=512)
    outcome = ended(plain, "huge")
    assert outcome["code"] == "out_of_memory", outcome
    assert "512x512" in outcome["error"]
    worker.wait_for("engine_ready", count=4)  # text, and three WebUIs: what ran out of memory may not have freed it
    assert len(journal(notes, "serving")) == 3, "the job was tried once more on a new engine, and no more"
    assert webui_process(worker).pid != first
    paint_all(plain, painting("busy", steps=60), *(painting(f"same-{number}") for number in range(4)))
    for number in range(4):
        assert len(ended(plain, f"same-{number}")["images"]) == 1, "what does not fit together is made one by one"


def test_without_a_webui_text_goes_on_and_image_jobs_wait_for_a_worker_that_has_one(
    plain: Any, make_worker: MakeWorker, notes: Path, tmp_path: Path
) -> None:
    worker = make_worker(RUN_SD="true")
    assert "SD_STARTUP_COMMAND" in worker.wait_for("no_image_engine")["message"]
    paint(plain, "cat", seed=1)
    push(plain, "text", max_tokens=4)
    read(plain, "text", until="done")
    assert plain.llen("{llama_queue}:image") == 1
    store = tmp_path / "store"
    store.mkdir()
    make_worker(
        **webui(notes),
        RUN_LLM="false",
        RESULT_STORE=str(store),
        RESULT_INLINE_BYTES="0",
        RESULT_STORE_URL="https://images.example.org",
    )
    made = ended(plain, "cat")
    assert made["images_stored"] is True
    (url,) = made["images"]
    assert url.startswith("https://images.example.org/")
    with (store / url.rpartition("/")[2]).open("rb") as file:
        assert opened(base64.b64encode(file.read()).decode()).size == (64, 64)


def test_models_are_listed_switched_and_exchanged_for_many_jobs_at_a_time(
    plain: Any, make_worker: MakeWorker, notes: Path
) -> None:
    worker = make_worker(**webui(notes, load_seconds=0.2))
    worker.wait_for("images_ready")
    process = webui_process(worker).pid

    def asked(job_id: str, job_type: str, **data: Any) -> dict[str, Any]:
        plain.lpush("llama_queue", json.dumps({"id": job_id, "type": job_type, "data": data}))
        return ended(plain, job_id)

    listed = asked("list", "list_models", kind="image")["models"]
    assert [(model["name"], model["loaded"]) for model in listed] == [("tinyA", True), ("tinyB", False)]
    assert asked("info", "model_info", kind="image")["name"] == "tinyA"
    busy = painting("busy", steps=60)  # while the others are sorted
    a, b = ([painting(f"{x}{n}", seed=n, model=f"tiny{x.upper()}") for n in range(8)] for x in "ab")
    paint_all(plain, busy, *(job for pair in zip(a, b, strict=True) for job in pair))
    made = {name: ended(plain, name) for number in range(8) for name in (f"a{number}", f"b{number}")}
    assert all(job["parameters"]["model"] == ("tinyA" if name[0] == "a" else "tinyB") for name, job in made.items())
    loads = [line["model"] for line in journal(notes, "load")]
    assert loads == ["tinyA", "tinyB"], "a model is loaded once for all the jobs that want it"
    assert asked("switch", "switch_model", model="tinyB") == {"success": True, "model": "tinyB"}
    paint(plain, "default", seed=1)
    assert ended(plain, "default")["parameters"]["model"] == "tinyB"
    assert asked("no", "switch_model", model="nope")["code"] == "bad_job"
    assert asked("rest", "unload_models", kind="image") == {"success": True}
    assert len(journal(notes, "unload")) == 1
    paint(plain, "woken", seed=1)
    assert ended(plain, "woken")["images"] == result(plain, "default")["images"]
    assert webui_process(worker).pid == process


def test_a_job_that_wants_another_model_is_not_passed_over_for_ever(
    plain: Any, make_worker: MakeWorker, notes: Path
) -> None:
    worker = make_worker(**webui(notes))
    worker.wait_for("images_ready")
    busy = painting("busy", steps=60)
    other = painting("other", prompt="another cat", model="tinyB")
    paint_all(plain, busy, other, *(painting(f"a{number}", seed=number) for number in range(20)))
    ended(plain, "other")
    begun = [line["prompt"] for line in journal(notes, "begun")]  # that of the warm-up first, then busy's
    assert begun.index("another cat") < 2 + 12, begun


def test_waiting_jobs_that_differ_in_nothing_are_run_at_once_and_answered_one_by_one(
    plain: Any, make_worker: MakeWorker, notes: Path
) -> None:
    worker = make_worker(**webui(notes))
    worker.wait_for("images_ready")
    same = [painting(f"same-{number}") for number in range(4)]
    paint_all(plain, painting("busy", steps=60), *same, painting("seeded", seed=9))
    made = [ended(plain, f"same-{number}") for number in range(4)]
    assert ended(plain, "seeded")["parameters"]["seed"] == 9
    assert len({job["images"][0] for job in made}) == 4
    assert len({job["parameters"]["seed"] for job in made}) == 4
    assert all(len(job["images"]) == 1 and job["info"]["all_seeds"] == [job["parameters"]["seed"]] for job in made)
    assert len(journal(notes, "begun")) == 4, "warm-up, busy, the four, the one with a seed"
    for job in made:
        paint(plain, f"alone-{job['parameters']['seed']}", seed=job["parameters"]["seed"])
        assert ended(plain, f"alone-{job['parameters']['seed']}")["images"] == job["images"]


def test_a_webui_that_already_runs_is_used_and_left_running(plain: Any, make_worker: MakeWorker) -> None:
    with WebUIDouble(Setup(api_auth="anna:s3cret", step_seconds=0.1)) as double:
        url = double.url.replace("://", "://anna:s3cret@")
        worker = make_worker(RUN_SD="true", SD_SERVER_URL=url)
        paint(plain, "cat", seed=2)
        assert opened(ended(plain, "cat")["images"][0]).size == (64, 64)
        paint(plain, "long", steps=150)
        until(lambda: double.running, "the image has begun")
        worker.signal(signal.SIGTERM)
        worker.wait_for("worker_stopping")  # else the two signals may be one
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
        until(lambda: not double.running, "what nobody wants any more was stopped", 10)
        assert "s3cret" not in worker.log_text()


def test_many_images_and_texts_at_once_cost_none_of_them(plain: Any, make_worker: MakeWorker, notes: Path) -> None:
    worker = make_worker(**webui(notes, step_seconds=0.02), LLM_CONCURRENCY="4", CONTEXT_SIZE="256")
    worker.wait_for("images_ready")
    worker.wait_for("worker_ready")
    for number in range(IMAGES):
        paint(plain, f"image-{number}", seed=number)
    for number in range(TEXTS):
        push(plain, f"text-{number}", max_tokens=2, stream=True)
    for number in range(TEXTS):
        assert read(plain, f"text-{number}", until="done", limit=300)[-1][1] == "done"
    for number in range(IMAGES):
        assert ended(plain, f"image-{number}", 300)["parameters"]["seed"] == number
    at_once = peak = 0
    for line in journal(notes, "arrived", "ended"):
        at_once += 1 if line["event"] == "arrived" else -1
        peak = max(peak, at_once)
    assert peak == 1


def test_a_webui_that_was_exchanged_while_nobody_looked_serves_with_what_it_has_now(
    plain: Any, make_worker: MakeWorker
) -> None:
    with WebUIDouble(Setup(step_seconds=0.005, models=("tinyA", "tinyB"))) as double:
        worker = make_worker(RUN_LLM="false", RUN_SD="true", SD_SERVER_URL=double.url)
        paint(plain, "before", steps=2)
        assert ended(plain, "before")["parameters"]["model"] == "tinyA"
    time.sleep(1.1)  # no WebUI starts sooner
    with WebUIDouble(Setup(step_seconds=0.005, models=("tinyB", "tinyC")), port=double.port):
        for number in range(2):
            paint(plain, f"any-{number}", steps=2)
            made = ended(plain, f"any-{number}")
            assert made["parameters"]["model"] == "tinyB", (made, worker.log_text())
        paint(plain, "gone", steps=2, model="tinyA")
        refused = ended(plain, "gone")
        assert (refused["code"], "there are tinyB, tinyC" in refused["error"]) == ("bad_job", True)
        paint(plain, "other", steps=2, model="tinyC")
        assert ended(plain, "other")["parameters"]["model"] == "tinyC"
        plain.lpush("llama_queue", json.dumps({"id": "list", "type": "list_models", "data": {"kind": "image"}}))
        assert [model["name"] for model in ended(plain, "list")["models"]] == ["tinyB", "tinyC"]
    assert "somebody else" not in worker.log_text()
