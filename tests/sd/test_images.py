"""Image jobs through Redis on the real sd-server, which a real worker starts."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.doubles.webui import sample_image
from tests.support.painters import cancel, ended, opened, paint
from tests.support.processes import WorkerProcess, wait_until_gone
from tests.support.servers import free_port
from tests.support.streams import entries, push, read

pytestmark = [pytest.mark.sd_server, pytest.mark.timeout(300)]


@pytest.fixture
def painter(redis_url: str, model_path: Path, tmp_path: Path, sd_server_command: list[str]) -> Iterator[WorkerProcess]:
    """A worker with both engines, the real ones."""
    port = free_port()
    worker = WorkerProcess(
        tmp_path / "worker.log",
        REDIS_URL=redis_url,
        MODEL_PATH=str(model_path),
        LLM_CONCURRENCY="2",
        CONTEXT_SIZE="512",
        RUN_SD="true",
        SD_PORT=str(port),
        SD_STARTUP_COMMAND=shlex.join([*sd_server_command, "--listen-port", str(port)]),
    )
    worker.start()
    yield worker
    worker.end()


def sd_server(worker: WorkerProcess) -> psutil.Process:
    (found,) = (child for child in psutil.Process(worker.pid).children() if "--diffusion-model" in child.cmdline())
    return found


def test_images_are_made_from_texts_and_from_images_and_a_seed_decides_them(plain: Any, painter: WorkerProcess) -> None:
    paint(plain, "seven", seed=7, width=64, height=128)
    first = ended(plain, "seven", 120)
    (image,) = (opened(picture) for picture in first["images"])
    assert (image.format, image.size) == ("PNG", (64, 128))
    assert first["parameters"]["seed"] == 7
    assert "warnings" not in first, first["warnings"]
    push(plain, "text", max_tokens=8, stream=True)
    read(plain, "text", until="done")

    paint(plain, "seven-again", seed=7, width=64, height=128)
    assert ended(plain, "seven-again")["images"] == first["images"]
    paint(plain, "eight", seed=8, width=64, height=128)
    assert ended(plain, "eight")["images"] != first["images"]

    paint(plain, "any")
    drawn = ended(plain, "any")
    paint(plain, "the-same", seed=drawn["parameters"]["seed"])
    assert ended(plain, "the-same")["images"] == drawn["images"]

    for name, colour in (("red", "red"), ("blue", "blue")):
        picture = sample_image(64, 64, colour, "white")
        paint(plain, name, job_type="img2img", init_images=[picture], denoising_strength=0.3, seed=7)
    red, blue = (ended(plain, name)["images"] for name in ("red", "blue"))
    assert opened(red[0]).size == (64, 64)
    assert red != blue
    assert painter.stop() == 0


def test_more_than_a_batch_is_made_one_batch_after_the_other(plain: Any, painter: WorkerProcess) -> None:
    assert painter.pid
    paint(plain, "four", seed=20, batch_size=2, n_iter=2, steps=2)
    four = ended(plain, "four", 120)
    assert (len(four["images"]), four["seeds"]) == (4, [20, 21, 22, 23])
    paint(plain, "last", seed=23, steps=2)
    assert ended(plain, "last")["images"] == four["images"][3:]


def test_equal_jobs_are_one_batch_and_each_has_its_own_seed(plain: Any, painter: WorkerProcess) -> None:
    assert painter.pid
    for number in range(4):
        paint(plain, f"same-{number}")
    jobs = [ended(plain, f"same-{number}", 120) for number in range(4)]
    assert painter.wait_for("jobs_merged")
    assert len({job["images"][0] for job in jobs}) == 4
    for job in jobs[1:3]:
        seed = job["parameters"]["seed"]
        paint(plain, f"alone-{seed}", seed=seed)
        assert ended(plain, f"alone-{seed}")["images"] == job["images"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"sampler_name": "NoSuch"}, "data.sampler_name"),
        ({"scheduler": "NoSuch"}, "data.scheduler"),
        ({"model": "nope"}, "data.model"),
        ({"prompt": 'a <sd_cpp_extra_args>{"width": 4096}</sd_cpp_extra_args>'}, "sd_cpp_extra_args"),
        ({"job_type": "img2img", "init_images": ["bm8="]}, "data.init_images"),
    ],
)
def test_what_the_server_would_take_in_silence_is_refused(
    plain: Any, painter: WorkerProcess, data: dict[str, Any], said: str
) -> None:
    assert painter.pid
    paint(plain, "wrong", **data)
    answer = ended(plain, "wrong", 120)
    assert (answer["code"], said in answer["error"]) == ("bad_job", True), answer


def test_a_cancelled_image_is_none_and_the_next_one_is_whole(plain: Any, painter: WorkerProcess) -> None:
    paint(plain, "long", steps=150, width=128, height=128)
    painter.wait_for("images_ready")
    while not entries(plain, "long"):
        pass
    paint(plain, "next", seed=7)
    cancel(plain, "long")
    cancelled = ended(plain, "long", 10)
    assert (cancelled["finish_reason"], cancelled["images"]) == ("cancelled", [])
    assert opened(ended(plain, "next", 120)["images"][0]).size == (64, 64)


def test_a_killed_server_costs_no_job_and_the_worker_leaves_none_behind(plain: Any, painter: WorkerProcess) -> None:
    paint(plain, "first", seed=9, steps=40)
    undisturbed = ended(plain, "first", 120)
    paint(plain, "struck", seed=9, steps=40)
    while not entries(plain, "struck"):
        pass
    sd_server(painter).kill()
    again = ended(plain, "struck", 60)
    assert again.get("images") == undisturbed["images"], (again, painter.log_text())
    process = sd_server(painter)
    painter.process.kill()  # pyright: ignore[reportOptionalMemberAccess]
    wait_until_gone(process)
