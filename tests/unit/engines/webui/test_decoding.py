"""Pictures that came with jobs, decoded in processes of their own: with limits, and nothing is left of them."""

from __future__ import annotations

import base64
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import anyio
import psutil
import pytest
from PIL import Image

from tests.support.waiting import until
from tests.unit.engines.webui.test_pictures import encoded, jpeg_of_scans, text
from velesio_worker.engines.webui import decoding, picture_process
from velesio_worker.engines.webui.decoding import PictureDecoder
from velesio_worker.engines.webui.pictures import png_size
from velesio_worker.wire.errors import BadJobError, EngineUnavailableError, InternalError

pytestmark = [pytest.mark.processes, pytest.mark.anyio]

PLENTY = 2048 * 2048
PNG = encoded()


def helpers() -> list[psutil.Process]:
    """The processes that decode for this one."""
    found: list[psutil.Process] = []
    for process in psutil.Process().children():
        with suppress(psutil.Error):
            if picture_process.__name__ in process.cmdline():
                found.append(process)
    return found


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    before = helpers()
    yield
    assert helpers() == before, "no test leaves a process"


def slow_picture() -> str:
    """A small one that takes a while to become a PNG."""
    out = io.BytesIO()
    Image.new("RGB", (2048, 2048)).save(out, "WEBP")
    return base64.b64encode(out.getvalue()).decode()


async def test_pictures_come_back_as_they_are_to_be_sent_on_by_the_same_process() -> None:
    async with PictureDecoder(PLENTY) as decoder:
        sent = [("init_images.0", f"data:image/png;base64,{PNG}"), ("init_images.1", encoded("WEBP")), ("mask", PNG)]
        first, second, mask = await decoder.check(sent)
        (process,) = helpers()
        assert (first, png_size(second), mask) == (PNG, (16, 8), PNG)
        assert await decoder.check([]) == []
        assert helpers() == [process], "it stays for the next job"
    assert helpers() == []


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        ("größe", "data.mask is no base64"),
        ("A" * 100_000, "data.mask is no readable image"),
        (encoded(size=(4096, 1032)), "data.mask has 4096x1032 pixels; SD_MAX_PIXELS allows 4194304"),
        (text(jpeg_of_scans(100_000, (2048, 2048))), "data.mask is a JPEG of more than 64 scans"),
    ],
    ids=["text", "no image", "large", "scans"],
)
async def test_what_cannot_be_used_is_refused_as_ever_and_the_process_stays(picture: str, said: str) -> None:
    async with PictureDecoder(PLENTY) as decoder:
        with pytest.raises(BadJobError, match=said):
            await decoder.check([("init_images.0", PNG), ("mask", picture)])
        (process,) = helpers()
        assert await decoder.check([("mask", PNG)]) == [PNG]
        assert helpers() == [process]


async def test_a_picture_that_takes_too_long_is_refused() -> None:
    async with PictureDecoder(PLENTY, cpu_seconds=-1) as decoder:
        with pytest.raises(BadJobError, match="to decode: save them anew"):
            await decoder.check([("mask", slow_picture())] * 9)
        assert helpers() == []


async def test_a_picture_that_takes_too_much_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_MEMORY", 160 * 1024 * 1024)
    monkeypatch.setattr(decoding, "_BYTES_PER_PIXEL", 0)
    async with PictureDecoder(2**30) as decoder:
        with pytest.raises(BadJobError, match="too much memory"):
            await decoder.check([("mask", encoded(size=(9_000, 9_000)))])
        assert await decoder.check([("mask", PNG)]) == [PNG]


async def test_a_cancel_ends_the_process_and_keeps_no_other_job_waiting() -> None:
    async with PictureDecoder(PLENTY) as decoder:
        busy: psutil.Process | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(decoder.check, [("mask", slow_picture())] * 500)
            await until(lambda: any(process.cpu_times().user > 0.5 for process in helpers()))
            (busy,) = helpers()
            assert await decoder.check([("mask", PNG)]) == [PNG]
            assert len(helpers()) == 2
            tasks.cancel_scope.cancel()
        assert busy is not None
        assert busy not in helpers()


async def test_an_engine_that_ends_takes_the_processes_with_it() -> None:
    caught: list[EngineUnavailableError] = []

    async def check(decoder: PictureDecoder) -> None:
        try:
            await decoder.check([("mask", slow_picture())] * 500)
        except EngineUnavailableError as error:
            caught.append(error)

    decoder = PictureDecoder(PLENTY)
    async with anyio.create_task_group() as tasks:
        async with decoder:
            tasks.start_soon(check, decoder)
            await until(lambda: any(process.cpu_times().user > 0.2 for process in helpers()))
        assert helpers() == []
        await until(lambda: caught)
    with pytest.raises(EngineUnavailableError):
        await decoder.check([("mask", PNG)])
    async with decoder:
        assert await decoder.check([("mask", PNG)]) == [PNG], "another engine has it again"


async def test_a_process_that_ended_meanwhile_is_replaced() -> None:
    async with PictureDecoder(PLENTY) as decoder:
        await decoder.check([("mask", PNG)])
        (process,) = helpers()
        process.kill()
        assert await decoder.check([("mask", PNG)]) == [PNG]


async def test_where_no_process_can_be_had_the_job_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_MODULE", "velesio_worker.no_such_module")
    async with PictureDecoder(PLENTY) as decoder:
        with pytest.raises(InternalError, match="does not run"):
            await decoder.check([("mask", PNG)])
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    async with PictureDecoder(PLENTY) as decoder:
        with pytest.raises(InternalError, match="can be started"):
            await decoder.check([("mask", PNG)])


async def test_the_process_sees_no_password() -> None:
    environ = {**os.environ, "REDIS_URL": "redis://:secret@example", "AWS_SECRET_ACCESS_KEY": "secret"}
    async with PictureDecoder(PLENTY, environ=environ) as decoder:
        await decoder.check([("mask", PNG)])
        (process,) = helpers()
        assert "secret" not in str(process.environ())


WORKER = """
import anyio, sys
from velesio_worker.engines.webui.decoding import PictureDecoder

async def main():
    async with PictureDecoder(2048 * 2048) as decoder:
        await decoder.check([("mask", sys.stdin.read())] * 500)

anyio.run(main)
"""


async def test_nothing_is_left_of_a_worker_that_is_killed() -> None:
    worker = subprocess.Popen([sys.executable, "-c", WORKER], stdin=subprocess.PIPE)  # noqa: ASYNC220 (it starts at once)
    assert worker.stdin is not None
    worker.stdin.write(slow_picture().encode())
    worker.stdin.close()
    process = psutil.Process(worker.pid)
    try:
        await until(lambda: any(child.cpu_times().user > 0.5 for child in process.children()))
        (child,) = process.children()
    finally:
        worker.kill()
        worker.wait()
    await until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 5)


async def test_the_process_imports_little() -> None:
    program = f"import sys, {picture_process.__name__}; print(*sys.modules)"
    loaded = (await anyio.run_process([sys.executable, "-P", "-c", program])).stdout.decode().split()
    assert not {"redis", "pydantic", "anyio", "httpx", "asyncio", "orjson"} & set(loaded)
