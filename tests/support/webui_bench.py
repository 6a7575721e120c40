"""Jobs on a WebUI's double, and waiting for what becomes of them."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict, Unpack

import anyio
from anyio.abc import TaskGroup
from PIL import Image

from tests.doubles.launcher import PATIENT
from tests.doubles.webui import Setup, WebUIDouble, sample_image
from tests.support.generations import Told, events_of
from tests.support.waiting import until
from velesio_worker.core.settings import Settings
from velesio_worker.engines.base import Engine, EngineState
from velesio_worker.engines.gpu import Gpu, Gpus
from velesio_worker.engines.http import EngineHTTP
from velesio_worker.engines.supervision.supervisor import Supervisor
from velesio_worker.engines.supervision.watchdog import Patience
from velesio_worker.engines.webui.api import WebUIApi
from velesio_worker.engines.webui.catalogue import read_catalogue
from velesio_worker.engines.webui.engine import WebUIEngine
from velesio_worker.engines.webui.generation import Means
from velesio_worker.engines.webui.launch import WebUILauncher
from velesio_worker.engines.webui.line_options import LineOptions, Pace
from velesio_worker.engines.webui.loading import Unloadable
from velesio_worker.engines.webui.pictures import check_picture
from velesio_worker.engines.webui.request import Decode
from velesio_worker.wire.errors import JobError
from velesio_worker.wire.events import Done, Progress
from velesio_worker.wire.image_parameters import ImageParameters, Img2ImgParameters, Txt2ImgParameters

FAST = Setup(step_seconds=0.002)
SLOW = Setup(step_seconds=0.01)
OFTEN = Pace(poll=0.005, interrupt=0.1, listen=0.02)
MEMORY = "a GPU has 1,200 of 8,000 MiB free"
ROOT = Path(__file__).parents[2]
MIB = 1024 * 1024
LIMITS = Settings(
    sd_max_pixels=512 * 512,
    sd_max_batch=4,
    sd_max_images=16,
    sd_override_settings="CLIP_stop_at_last_layers",
    sd_scripts="x/y/z plot,Loopback",
)


def cat(**values: Any) -> Txt2ImgParameters:
    """What a job of text to image asks for."""
    return Txt2ImgParameters.model_validate({"prompt": "a cat", "steps": 4, "width": 64, "height": 64, **values})


def cat_from_image(**values: Any) -> Img2ImgParameters:
    """The same from an image."""
    whole = {"prompt": "a cat", "steps": 4, "width": 64, "height": 64, "init_images": [sample_image()], **values}
    return Img2ImgParameters.model_validate(whole)


def size(picture: str | bytes) -> tuple[int, int]:
    """An image's size; base64 or bytes."""
    content = picture if isinstance(picture, bytes) else base64.b64decode(picture)
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        return image.size


@dataclass(eq=False)
class Job:
    """A job that runs, and what came of it."""

    parameters: ImageParameters
    batches: list[Sequence[Told]] = field(default_factory=list[Sequence[Told]])
    error: JobError | None = None
    over: bool = False
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    async def run(self, engine: Engine) -> None:
        try:
            with self.scope:
                async with aclosing(events_of(engine.generate(self.parameters))) as events:
                    async for batch in events:
                        self.batches.append(batch)
        except JobError as error:
            self.error = error
        finally:
            self.over = True

    @property
    def events(self) -> list[Told]:
        return [event for batch in self.batches for event in batch]

    @property
    def progress(self) -> list[Progress]:
        return [event for event in self.events if isinstance(event, Progress)]

    @property
    def fractions(self) -> list[float]:
        return [event.data["fraction"] for event in self.progress]

    @property
    def result(self) -> dict[str, Any]:
        assert self.error is None, self.error
        end = self.events[-1]
        assert isinstance(end, Done)
        return end.result

    async def ended(self) -> dict[str, Any]:
        """Wait for the result."""
        await until(lambda: self.over)
        return self.result

    async def failed(self) -> JobError:
        """Wait for the error."""
        await until(lambda: self.over)
        assert self.error is not None
        return self.error

    async def close(self) -> None:
        """Close the generator, wherever it is."""
        self.scope.cancel()
        await until(lambda: self.over)


@dataclass(eq=False)
class Bench:
    """A double, and an engine that uses it."""

    double: WebUIDouble
    engine: WebUIEngine
    _tasks: TaskGroup
    stop_line: Callable[[], None]

    def start(self, parameters: ImageParameters) -> Job:
        job = Job(parameters)
        self._tasks.start_soon(job.run, self.engine)
        return job

    async def start_in_line(self, *wanted: ImageParameters) -> list[Job]:
        """Start jobs one after the other, each once the one before is in the line or at the WebUI."""
        jobs: list[Job] = []
        for parameters in wanted:
            before = self.engine.line.waiting + len(self.double.requests)
            jobs.append(self.start(parameters))
            await until(lambda before=before: self.engine.line.waiting + len(self.double.requests) > before)
        return jobs

    async def held(self, parameters: ImageParameters | None = None, at: int = 1) -> Job:
        """Start a job that stands still in the middle of its image."""
        self.double.pause(at)
        job = self.start(parameters or cat(prompt="in front", seed=1))
        await until(lambda: self.double.paused)
        return job

    @property
    def sent(self) -> list[dict[str, Any]]:
        """The bodies of the requests for images."""
        return [body for path, body in self.double.requests if path.endswith(("txt2img", "img2img"))]

    @property
    def prompts(self) -> list[str]:
        return [body["prompt"] for body in self.sent]


class Options(TypedDict, total=False):
    """How a bench's line is kept, if not as the worker's own."""

    most: int
    shared: bool
    previews: bool
    work: Callable[[], float] | None
    kill: Callable[[], None] | None
    pace: Pace


async def _memory() -> str:
    return MEMORY


def decoding(limits: Settings) -> Decode:
    """What decodes a job's pictures in this process: another is not always of matter."""

    async def decode(pictures: Sequence[tuple[str, str]]) -> list[str]:
        return [check_picture(picture, name=name, max_pixels=limits.sd_max_pixels) for name, picture in pictures]

    return decode


@asynccontextmanager
async def bench(setup: Setup = FAST, **options: Unpack[Options]) -> AsyncGenerator[Bench, None]:
    """A double in this process with an engine whose line is served."""
    with WebUIDouble(setup) as double:
        async with EngineHTTP(double.url) as http, anyio.create_task_group() as tasks:
            api = WebUIApi(http)
            line_options = LineOptions(
                options.get("most", 4),
                shared=options.get("shared", False),
                previews=options.get("previews", True),
                work=options.get("work"),
                kill=options.get("kill"),
                pace=options.get("pace", OFTEN),
            )
            means = Means(_memory, decoding(LIMITS), Unloadable())
            engine = WebUIEngine(api, await api.abilities(), await read_catalogue(api), LIMITS, means, line_options)
            double.requests.clear()
            double.polls = 0
            scope = anyio.CancelScope()

            async def serve() -> None:
                with scope:
                    await engine.line.run()

            tasks.start_soon(serve)
            yield Bench(double, engine, tasks, scope.cancel)
            double.go_on()
            tasks.cancel_scope.cancel()


class GpusDouble(Gpus):
    """One GPU with some memory."""

    def __init__(self) -> None:
        super().__init__("0")

    def read(self) -> Sequence[Gpu]:
        return [Gpu(0, "GPU-1", "NVIDIA Double", 8000 * MIB, 6800 * MIB, 1200 * MIB, 0, 40)]


def elsewhere(url: str, **values: Any) -> WebUILauncher:
    """What waits for a WebUI that runs elsewhere."""
    return WebUILauncher(Settings.model_validate({"sd_server_url": url, **values}), GpusDouble(), pace=OFTEN)


@asynccontextmanager
async def supervised(
    double: WebUIDouble, patience: Patience = PATIENT
) -> AsyncGenerator[Supervisor[WebUIEngine], None]:
    """A supervisor of a WebUI that runs elsewhere, ready."""
    supervisor = Supervisor(elsewhere(double.url), patience)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervisor.run)
        await until(lambda: supervisor.state is EngineState.READY)
        double.requests.clear()
        yield supervisor
        tasks.cancel_scope.cancel()


async def run(supervisor: Supervisor[WebUIEngine], model: str | None = None, **values: object) -> Job:
    """Run a job as an executor does."""
    job = Job(cat(**values))
    try:
        async with supervisor.ensure(model) as engine:
            await job.run(engine)
    except JobError as error:
        job.error = error
    return job
