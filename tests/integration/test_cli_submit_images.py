"""``velesio-worker submit`` with image jobs, against a real Redis and a worker whose part the test plays."""

from __future__ import annotations

import base64
import io
import json
import re
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest
from PIL import Image

from tests.support.forks import Forked, fork_server
from tests.support.servers import wait_until
from tests.support.terminals import InTerminal, environment, in_terminal
from velesio_worker.wire.image_parameters import Img2ImgParameters, Txt2ImgParameters

pytestmark = pytest.mark.processes

QUEUE: Final = "llama_queue"


def picture(colour: str = "red") -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(written, "PNG")
    return written.getvalue()


PICTURE: Final = picture()
WORDS: Final = ("submit", "--type", "txt2img", "--id", "fox", "a red fox")


def result(*pictures: bytes, **more: Any) -> dict[str, Any]:
    images = [base64.b64encode(one).decode() for one in pictures]
    return {"images": images, "seeds": [7] * len(images), "parameters": {"seed": 7}, "finish_reason": "stop", **more}


class Side:
    """Redis, as the worker of the tests sees it."""

    def __init__(self, plain: Any, url: str, folder: Path) -> None:
        self.redis = plain
        self.folder = folder
        self.env = environment(REDIS_URL=url, NO_COLOR="1")
        self._next = 0

    def job(self) -> dict[str, Any]:
        """Take the job that was submitted."""
        wait_until(lambda: self.redis.llen(QUEUE), "a job")
        return json.loads(self.redis.rpop(QUEUE))

    def write(self, event: str, job_id: str = "fox", **data: Any) -> None:
        entry = {"event": event, "data": json.dumps(data)}
        self.redis.xadd(f"stream:{job_id}", entry, id=f"1-{self._next}")
        self._next += 1

    def end(self, whole: dict[str, Any], job_id: str = "fox") -> None:
        self.redis.set(f"result:{job_id}", json.dumps(whole))
        failed = "error" in whole
        self.write("error" if failed else "done", job_id, **(whole if failed else {"finish_reason": "stop"}))

    @contextmanager
    def submitting(self, *words: str) -> Generator[Forked, None, None]:
        with TemporaryDirectory() as written:
            out, err = Path(written, "out"), Path(written, "err")
            process = fork_server().start(self.env, out, *words, err=err, place=self.folder)
            try:
                yield process
            finally:
                process.kill()
                process.wait(60)

    def answered(self, whole: dict[str, Any], *words: str, job_id: str = "fox") -> tuple[int, str, str]:
        """Submit a job that ends so; returns the exit code, and what was written to standard output and error."""
        with self.submitting(*words) as process:
            self.job()
            self.end(whole, job_id)
            output, error = process.communicate(timeout=60)
        return process.wait(0), output, error


@pytest.fixture
def side(plain: Any, redis_url: str, tmp_path: Path) -> Side:
    return Side(plain, redis_url, tmp_path)


def test_an_image_is_written_and_its_file_is_printed(side: Side) -> None:
    options = ("--steps", "8", "--width", "512", "--height", "256", "--seed", "1", "--negative", "dogs")
    with side.submitting(*WORDS, *options, "--output", "fox.png", "--data", '{"cfg_scale": 3}') as process:
        job = side.job()
        side.end(result(PICTURE))
        assert process.communicate(timeout=60) == ("fox.png\n", "job fox\nseed 7\n")
    assert process.returncode == 0
    assert (job["id"], job["type"]) == ("fox", "txt2img")
    expected = {"steps": 8, "width": 512, "height": 256, "seed": 1, "negative_prompt": "dogs", "cfg_scale": 3}
    assert job["data"] == {"prompt": "a red fox", **expected}
    assert Txt2ImgParameters.model_validate(job["data"])
    assert (side.folder / "fox.png").read_bytes() == PICTURE


def test_without_a_name_it_is_the_jobs_and_several_are_numbered(side: Side) -> None:
    assert side.answered(result(PICTURE), *WORDS)[:2] == (0, "fox.png\n")
    two = result(PICTURE, picture("blue"))
    (side.folder / "in").mkdir()
    code, output, _ = side.answered(two, *WORDS[:3], "x", "--id", "fx", "--count", "2", "--output", "in", job_id="fx")
    assert (code, output) == (0, "in/fx-1.png\nin/fx-2.png\n")
    assert (side.folder / "in/fx-2.png").read_bytes() == picture("blue")


def test_a_file_that_is_there_is_kept_and_the_job_is_not_even_submitted(side: Side) -> None:
    there = side.folder / "fox-2.png"
    there.write_bytes(b"mine")
    with side.submitting(*WORDS, "--count", "2") as process:
        _, error = process.communicate(timeout=60)
    assert (process.returncode, side.redis.llen(QUEUE)) == (2, 0)
    assert "fox-2.png is there already: --force writes over it" in error
    assert side.answered(result(PICTURE, PICTURE), *WORDS, "--count", "2", "--force")[0] == 0
    assert there.read_bytes() == PICTURE


def test_a_file_that_came_meanwhile_is_kept_and_the_image_is_not_lost(side: Side) -> None:
    there = side.folder / "fox.png"
    with side.submitting(*WORDS) as process:
        side.job()
        there.write_bytes(b"mine")
        side.end(result(PICTURE))
        _, error = process.communicate(timeout=60)
    assert (process.returncode, there.read_bytes()) == (1, b"mine")
    assert "fox.png cannot be written (File exists): the same command with --id fox and another --output" in error
    with side.submitting(*WORDS, "--output", "other.png") as process:
        process.communicate(timeout=60)
    assert (process.returncode, (side.folder / "other.png").read_bytes()) == (0, PICTURE)


def test_what_programs_read_is_json_and_has_no_image_in_it(side: Side) -> None:
    code, output, _ = side.answered(result(PICTURE, warnings=["another size"]), *WORDS, "--json")
    assert code == 0
    told = json.loads(output)
    assert (told["id"], told["files"], told["seeds"]) == ("fox", ["fox.png"], [7])
    assert "images" not in told


def test_images_in_a_store_are_told_by_their_addresses(side: Side) -> None:
    stored = {"images": ["https://i/1.png"], "images_stored": True, "seeds": [7]}
    assert side.answered(stored, *WORDS)[:2] == (0, "https://i/1.png\n")
    assert list(side.folder.iterdir()) == []


def test_img2img_sends_a_file(side: Side) -> None:
    (side.folder / "old.png").write_bytes(PICTURE)
    with side.submitting("submit", "--type", "img2img", "--id", "fox", "--init-image", "old.png", "a fox") as process:
        job = side.job()
        side.end(result(picture("blue")))
        assert process.communicate(timeout=60)[0] == "fox.png\n"
    assert base64.b64decode(job["data"]["init_images"][0]) == PICTURE
    assert Img2ImgParameters.model_validate(job["data"])


@pytest.mark.parametrize(
    ("whole", "told"),
    [
        ({"error": "no \x1b[2Jroom", "code": "out_of_memory"}, r"error: no \u001b[2Jroom (out_of_memory)"),
        ({"images": [], "finish_reason": "cancelled"}, "error: The job was cancelled: there is no image."),
        ({"images": 7}, "there is no image"),
        ({"images": [7]}, "holds something that is no PNG"),
        ({"images": ["G1sySg=="]}, "holds something that is no PNG"),
        ({"images": ["\x1b[2J"], "warnings": 5, "seeds": "x"}, "holds something that is no PNG"),
    ],
    ids=range(6),
)
def test_what_is_no_image_is_told_and_written_nowhere(side: Side, whole: dict[str, Any], told: str) -> None:
    code, output, error = side.answered(whole, *WORDS)
    assert (code, output) == (1, "")
    assert told in error
    assert "Traceback" not in error
    assert error.replace("\n", "").isprintable()
    assert list(side.folder.iterdir()) == []


def test_progress_is_a_line_at_each_tenth_without_a_terminal(side: Side) -> None:
    with side.submitting(*WORDS) as process:
        side.job()
        side.write("start", mode="fresh")
        for step in range(40):
            side.write("progress", stage="sampling", step=step, steps=40, fraction=step / 40, eta=None)
        side.write("progress", stage="\x1b[2J", fraction="x", step=[])
        side.write("progress", stage="sampling", step="\x1b[2J\n[red]x[/]", steps=40, fraction=1)
        side.end(result(PICTURE))
        output, error = process.communicate(timeout=60)
    assert output == "fox.png\n"
    lines = error.splitlines()[1:-1]
    assert lines[:2] == ["  0 %  step 0 of 40", " 10 %  step 4 of 40"]
    assert lines[-1] == r"100 %  step \u001b[2J\n[red]x[/] of 40"
    assert len(lines) == 11


def ends_with_a_bar(side: Side, terminal: InTerminal) -> tuple[int, str]:
    side.job()
    side.write("start", mode="fresh")
    side.write("progress", stage="loading", state="starting", processed=1, total=None)
    wait_until(lambda: "the engine is starting" in terminal.shown, "the engine's state is shown")
    side.write("progress", stage="sampling", step="[red]5[/] \x9b2J", steps=8, fraction=0.6, eta=None)
    wait_until(lambda: "60%" in terminal.shown, "the progress is shown")
    side.end(result(PICTURE))
    return terminal.ended()


def test_progress_is_a_bar_on_a_terminal_and_others_words_are_harmless_in_it(side: Side) -> None:
    with in_terminal(side.env, *WORDS, place=side.folder) as terminal:
        code, shown = ends_with_a_bar(side, terminal)
    assert code == 0
    assert r"step [red]5[/] \u009b2J of 8" in shown
    assert "━" in shown
    assert "\x1b]1337" not in shown
    assert "\x1b_G" not in shown
    assert shown.rstrip().endswith("seed 7")


SHOWS: Final[dict[str, Callable[[str], bool]]] = {
    "xterm-kitty": lambda shown: bool(re.search(r"\x1b_Ga=T,f=100,q=2,m=0;[A-Za-z0-9+/=]+\x1b\\", shown)),
    "iTerm.app": lambda shown: bool(re.search(r"\x1b\]1337;File=inline=1;size=\d+:[A-Za-z0-9+/=]+\a", shown)),
}


@pytest.mark.parametrize(
    ("env", "options", "is_shown"),
    [
        ({"TERM": "xterm-kitty"}, (), "xterm-kitty"),
        ({"TERM_PROGRAM": "iTerm.app"}, (), "iTerm.app"),
        ({"TERM_PROGRAM": "iTerm.app"}, ("--no-show",), None),
        ({"TERM": "xterm-kitty"}, ("--json",), None),
        ({}, ("--show",), None),
    ],
)
def test_the_image_is_shown_in_terminals_that_can(
    side: Side, env: dict[str, str], options: tuple[str, ...], is_shown: str | None
) -> None:
    with in_terminal(side.env | env, *WORDS, *options, place=side.folder) as terminal:
        side.job()
        side.end(result(PICTURE))
        code, shown = terminal.ended()
    assert code == 0
    assert [name for name, looks in SHOWS.items() if looks(shown)] == ([is_shown] if is_shown else [])
    assert ("no terminal that is known to show images" in shown) is ("--show" in options)


def test_no_image_goes_elsewhere_though_the_terminal_could_show_it(side: Side) -> None:
    out = side.folder / "out"
    with in_terminal(side.env | {"TERM": "xterm-kitty"}, *WORDS, stdout=out, place=side.folder) as terminal:
        side.job()
        side.end(result(PICTURE))
        code, shown = terminal.ended()
    assert (code, out.read_text()) == (0, "fox.png\n")
    assert "\x1b_G" not in shown


@pytest.mark.parametrize("in_a_terminal", [False, True])
def test_ctrl_c_cancels_the_job(side: Side, *, in_a_terminal: bool) -> None:
    def interrupt(process: Forked) -> None:
        side.job()
        side.write("start", mode="fresh")
        side.write("progress", stage="sampling", step=1, steps=8, fraction=0.1, eta=None)
        wait_until(lambda: side.redis.exists("{result:fox}:reader"), "somebody follows the job")
        process.send_signal(signal.SIGINT)

    if in_a_terminal:
        with in_terminal(side.env, *WORDS, place=side.folder) as terminal:
            interrupt(terminal.process)
            code, error = terminal.ended()
    else:
        with side.submitting(*WORDS) as process:
            interrupt(process)
            error = process.communicate(timeout=60)[1]
        code = process.returncode
    assert code == 130
    assert "Traceback" not in error
    assert side.redis.exists("{result:fox}:cancel")
    assert list(side.folder.iterdir()) == []


def test_an_embedding_is_printed_as_json(side: Side) -> None:
    vectors = {"object": "list", "data": [{"embedding": [0.5, 1.0], "index": 0}]}
    with side.submitting("submit", "--type", "embedding", "--id", "fox", "a fox") as process:
        assert side.job()["data"] == {"input": "a fox"}
        side.end(vectors)
        assert json.loads(process.communicate(timeout=60)[0]) == vectors
