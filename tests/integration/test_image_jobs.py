"""Image jobs in the worker: what jobs that are run together share, what counts as run time, and who answers for it."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import anyio
import pytest
from redis.asyncio import Redis

from tests.doubles.source import SourceDouble
from tests.doubles.webui import WebUIDouble
from tests.support.generations import tell_all
from tests.support.redis_side import Side
from tests.support.waiting import until
from tests.support.webui_bench import FAST, GpusDouble
from velesio_worker.core.settings import CacheMode, Settings
from velesio_worker.engines.base import EngineState, Generation, Sink, Traits
from velesio_worker.execution.cache import PromptCache
from velesio_worker.execution.capacity import make_engine_set
from velesio_worker.execution.executor import Executor
from velesio_worker.execution.management import ImageModels
from velesio_worker.execution.performer import Performer
from velesio_worker.execution.published import NOTHING, Published
from velesio_worker.execution.results.images import ImageOutput
from velesio_worker.execution.run import batch_of
from velesio_worker.queue.choice import Affinity
from velesio_worker.queue.claims import Claim
from velesio_worker.wire.errors import EngineCrashedError, OutOfMemoryError
from velesio_worker.wire.events import Begun, Done, EngineEvent, Preparing, Progress, Queued
from velesio_worker.wire.jobs import Job, Kind
from velesio_worker.wire.parameters import Parameters
from velesio_worker.worker import Worker

pytestmark = pytest.mark.anyio

READY: Final = "{llama_queue}:image"
PATIENCE: Final = 60.0


class Painter(SourceDouble):
    """An engine that yields the same events to every job, and the source of it."""

    model = "tinyA"
    traits = Traits(queues=True, leaks=True)

    def __init__(self, *batches: Sequence[EngineEvent | Done]) -> None:
        super().__init__()
        self.batches = batches

    def generate(self, parameters: Parameters, after: str = "", pieces: int = 0) -> Generation:
        assert (parameters is None, after, pieces) == (False, "", 0)
        return self

    async def run(self, sink: Sink) -> Done:
        return await tell_all(self.events(), sink)

    async def events(self) -> AsyncGenerator[Sequence[EngineEvent | Done], None]:
        for batch in self.batches:
            yield batch

    def cut_short(self, finish_reason: str = "cancelled") -> Done:
        return Done({"images": []}, finish_reason)


class Forgetful(ImageOutput):
    """Loses the previews of one job."""

    def __init__(self, commands: Redis, loses: str) -> None:
        super().__init__(commands, None, inline_bytes=0)
        self._loses = loses

    async def keep_preview(self, job_id: str, picture: bytes) -> str | None:
        key = await super().keep_preview(job_id, picture)
        return None if job_id == self._loses else key


async def nobody(job: Job, on_wait: Callable[[EngineState], None]) -> dict[str, Any]:
    """Run no management jobs."""
    raise AssertionError((job, on_wait))


def executor(
    side: Side,
    commands: Redis,
    painter: Painter,
    *,
    loses: str = "",
    longest: float = PATIENCE,
    stall: float = PATIENCE,
) -> Executor:
    """An executor of image jobs alone."""

    async def nothing(_: str) -> Published:
        return NOTHING

    async def nowhere(_: Kind) -> bool:
        return False

    engines = {Kind.IMAGE: painter}
    output = Forgetful(commands, loses)
    cache = PromptCache(commands, CacheMode.ALL)
    performer = Performer(engines, nobody, cache, output, nothing, longest=longest)
    return Executor(performer, side.closer, nowhere, stall=stall)


async def claimed(side: Side, commands: Any, job_id: str, place: int, **fields: Any) -> Claim:
    """Claim an image job, as if it lay in a slot of a group."""
    payload = json.dumps({"id": job_id, "type": "txt2img", "data": {"prompt": "a cat"}} | fields).encode()
    slot = side.slot(f"image-0-{place}", home=READY)
    await commands.lpush(slot.key, payload)
    claim = await side.admission.admit(slot, payload)
    assert claim is not None
    return claim


async def told(commands: Any, job_id: str, event: str) -> list[dict[str, Any]]:
    found = await commands.xrange(f"stream:{job_id}")
    return [json.loads(fields[b"data"]) for _, fields in found if fields[b"event"].decode() == event]


async def test_jobs_that_are_run_together_point_to_their_own_previews_and_to_no_others(
    side: Side, commands: Any
) -> None:
    shared = [Progress({"stage": "sampling", "step": step}, b"jpeg") for step in (1, 2, 3)]
    painter = Painter(shared, [Done({"images": ["x"]}, "stop")])
    runs = executor(side, commands, painter, loses="none")
    names = ["a", "b", "none"]
    claims = [await claimed(side, commands, name, place) for place, name in enumerate(names)]
    async with anyio.create_task_group() as group:
        for claim, member in zip(claims, batch_of(len(claims)), strict=True):
            group.start_soon(runs.run, claim, member)
    for name in names:
        expected = None if name == "none" else f"{{result:{name}}}:preview"
        previews = [data.get("preview") for data in await told(commands, name, "progress")]
        assert previews == [expected] * 3, name


async def test_progress_keeps_its_order_though_pictures_are_kept_first(side: Side, commands: Any) -> None:
    told_together = [Progress({"step": 1}, b"jpeg"), Progress({"step": 2}), Done({"images": ["x"]}, "stop")]
    assert (await executor(side, commands, Painter(told_together)).run(await claimed(side, commands, "a", 0))).ended
    progress = await told(commands, "a", "progress")
    assert progress == [{"step": 1, "preview": "{result:a}:preview"}, {"step": 2}]


async def test_waiting_for_those_that_are_run_together_is_no_run_time(side: Side, commands: Any) -> None:
    runs = executor(side, commands, Painter([Done({"images": ["x"]}, "stop")]))
    claim = await claimed(side, commands, "a", 0, timeout=0.2)
    member, _ = batch_of(2, patience=0.5)  # the other one never comes
    with anyio.fail_after(PATIENCE):
        assert (await runs.run(claim, member)).ended
    assert json.loads(await commands.get("result:a")) == {"images": ["x"]}


async def test_an_image_is_never_taken_from_the_cache_or_kept_there(side: Side, commands: Any) -> None:
    runs = executor(side, commands, Painter([Done({"images": ["x"]}, "stop")]))
    assert (await runs.run(await claimed(side, commands, "a", 0, cache=True))).ended
    assert not await commands.keys("prompt_cache:*")


class Queue(Painter):
    """An engine with a line of its own: the jobs in it wait until they are let in."""

    def __init__(self, *batches: Sequence[EngineEvent | Done]) -> None:
        super().__init__(*batches)
        self.entered = anyio.Event()
        self.turn = anyio.Event()

    async def events(self) -> AsyncGenerator[Sequence[EngineEvent | Done], None]:
        yield []
        self.entered.set()
        await self.turn.wait()
        yield [Begun()]
        for batch in self.batches:
            yield batch
        await anyio.sleep_forever()


async def test_waiting_in_the_engines_line_is_no_run_time_and_running_is(side: Side, commands: Any) -> None:
    queue = Queue([Progress({"stage": "sampling", "step": 1})])
    runs = executor(side, commands, queue)
    claim = await claimed(side, commands, "a", 0, timeout=0.3)
    async with anyio.create_task_group() as group:
        group.start_soon(runs.run, claim)
        await until(queue.entered.is_set)
        await anyio.sleep(0.6)  # twice its time
        assert not await commands.exists("result:a")
        queue.turn.set()
    assert json.loads(await commands.get("result:a"))["code"] == "timeout"


class Prepares(Queue):
    """An engine whose jobs are prepared by the worker itself, for as long as it likes, before they stand in line."""

    def __init__(self, seconds: float) -> None:
        super().__init__([Done({"images": ["x"]}, "stop")])
        self.seconds = seconds

    async def events(self) -> AsyncGenerator[Sequence[EngineEvent | Done], None]:
        yield [Preparing()]
        await anyio.sleep(self.seconds)
        yield [Queued()]
        async for batch in super().events():
            yield batch


@pytest.mark.parametrize("more", [{}, {"expires_at": time.time() + 3600}])
async def test_the_time_runs_while_the_worker_itself_works_on_a_job(
    side: Side, commands: Any, more: dict[str, Any]
) -> None:
    runs = executor(side, commands, Prepares(PATIENCE))
    claim = await claimed(side, commands, "a", 0, timeout=0.3, **more)
    with anyio.fail_after(PATIENCE / 2):
        assert (await runs.run(claim)).ended
    assert json.loads(await commands.get("result:a"))["code"] == "timeout"


async def test_the_time_stands_still_once_a_job_that_was_prepared_stands_in_line(side: Side, commands: Any) -> None:
    prepares = Prepares(0)
    runs = executor(side, commands, prepares)
    claim = await claimed(side, commands, "a", 0, timeout=0.3)
    async with anyio.create_task_group() as group:
        group.start_soon(runs.run, claim)
        await until(prepares.entered.is_set)
        await anyio.sleep(0.6)  # twice its time
        prepares.turn.set()
    assert json.loads(await commands.get("result:a")) == {"images": ["x"]}


async def test_a_job_expires_while_it_is_prepared(side: Side, commands: Any) -> None:
    claim = await claimed(side, commands, "a", 0, expires_at=time.time() + 1)
    with anyio.fail_after(PATIENCE / 2):
        await executor(side, commands, Prepares(PATIENCE)).run(claim)
    assert json.loads(await commands.get("result:a"))["code"] == "expired"


async def test_a_job_that_expires_in_the_engines_line_never_begins(side: Side, commands: Any) -> None:
    queue = Queue()
    runs = executor(side, commands, queue)
    claim = await claimed(side, commands, "a", 0, expires_at=time.time() + 2)
    with anyio.fail_after(PATIENCE):
        await runs.run(claim)
    assert queue.entered.is_set()
    assert json.loads(await commands.get("result:a"))["code"] == "expired"


async def test_a_stop_hands_back_what_stands_in_the_engines_line_and_lets_the_rest_run(
    side: Side, commands: Any
) -> None:
    queue = Queue()
    runs = executor(side, commands, queue)
    claim = await claimed(side, commands, "a", 0)
    async with anyio.create_task_group() as group:
        group.start_soon(runs.run, claim)
        await until(queue.entered.is_set)
        runs.stop_waiting(within=PATIENCE)
        await until(lambda: not runs.running)
    assert not await commands.exists("result:a")
    assert await commands.llen(READY) == 1

    working = Queue([Progress({"stage": "sampling", "step": 1})])
    runs = executor(side, commands, working)
    claim = await claimed(side, commands, "b", 1)
    async with anyio.create_task_group() as group:
        group.start_soon(runs.run, claim)
        working.turn.set()
        while not await told(commands, "b", "progress"):
            await anyio.sleep(0.01)
        runs.stop_waiting(within=PATIENCE)
        assert runs.claims() == [claim], "it is at work"
        runs.stop(within=PATIENCE)
    assert await commands.llen(READY) == 2


async def returned(commands: Any, job_id: str) -> int:
    """How many attempts of a job went back without counting."""
    return int(await commands.hget(f"{{result:{job_id}}}:job", "returned") or 0)


class Falls(Painter):
    """An engine that goes away: while a job stands in its line, or in the middle of it."""

    def __init__(self, *, in_line: bool) -> None:
        super().__init__()
        self.in_line = in_line

    async def events(self) -> AsyncGenerator[Sequence[EngineEvent | Done], None]:
        yield [] if self.in_line else [Begun()]
        raise EngineCrashedError("The WebUI went away.")


@pytest.mark.parametrize("in_line", [True, False], ids=["in line", "at work"])
async def test_an_engine_that_goes_away_costs_an_attempt_only_the_job_that_it_worked_on(
    side: Side, commands: Any, *, in_line: bool
) -> None:
    falls = Falls(in_line=in_line)
    claim = await claimed(side, commands, "a", 0)
    assert not (await executor(side, commands, falls).run(claim)).ended
    assert await commands.llen(READY) == 1, "it runs again"
    assert await returned(commands, "a") == int(in_line)
    assert falls.complaints == ["lost"]


class Hangs(Painter):
    """An engine that begins with the first job and then says nothing more; the others stand in its line."""

    busy = False

    async def events(self) -> AsyncGenerator[Sequence[EngineEvent | Done], None]:
        first, self.busy = not self.busy, True
        yield [Begun()] if first else []
        await anyio.sleep_forever()


async def test_an_engine_that_hangs_costs_those_who_stand_in_its_line_nothing(side: Side, commands: Any) -> None:
    hangs = Hangs()
    runs = executor(side, commands, hangs, stall=0.5)
    at_work, waits = [await claimed(side, commands, job_id, place) for place, job_id in enumerate("ab")]
    async with anyio.create_task_group() as group:
        group.start_soon(runs.run, at_work)
        await until(lambda: hangs.busy)
        group.start_soon(runs.run, waits)
        group.start_soon(runs.watch)
        await until(lambda: runs.claims() == [waits])
        await until(lambda: len(hangs.complaints) == 1)
        runs.stop(within=PATIENCE)
        await until(lambda: not runs.running)
        group.cancel_scope.cancel()
    assert (await returned(commands, "a"), await returned(commands, "b")) == (0, 1)


class Tight(Painter):
    """An engine that is short of memory at first, when the time has passed by which the job was to begin."""

    rounds = 0

    def __init__(self, begin_by: float) -> None:
        super().__init__()
        self.begin_by = begin_by

    async def events(self) -> AsyncGenerator[Sequence[EngineEvent | Done], None]:
        self.rounds += 1
        yield [Begun(), Progress({"stage": "sampling", "step": 3})]
        if self.rounds == 1:
            await until(lambda: time.time() > self.begin_by)
            raise OutOfMemoryError("too large")
        yield [Progress({"stage": "sampling", "step": 1}), Done({"images": []}, "stop")]


async def test_a_job_that_is_tried_again_after_out_of_memory_begins_anew_and_does_not_expire(
    side: Side, commands: Any
) -> None:
    tight = Tight(begin_by=time.time() + 2)
    claim = await claimed(side, commands, "a", 0, expires_at=tight.begin_by)
    with anyio.fail_after(PATIENCE):
        await executor(side, commands, tight).run(claim)
    assert tight.rounds == 2
    assert json.loads(await commands.get("result:a"))["images"] == []
    assert [entry["mode"] for entry in await told(commands, "a", "start")] == ["fresh", "restart"]
    assert len(tight.complaints) == 1


class NoFleet:
    """Knows no other worker."""

    async def serves(self, _: Kind) -> bool:
        return False

    async def waiting(self, _: Kind) -> int:
        return 0


@pytest.fixture
async def image_side() -> AsyncIterator[ImageModels]:
    """The image side of a worker, ready, on a double."""
    with WebUIDouble(FAST) as double:
        settings = Settings.model_validate({"run_llm": False, "sd_server_url": double.url})
        side = make_engine_set(settings, cast("Any", NoFleet()), GpusDouble(), lambda: None).image
        assert side is not None
        async with anyio.create_task_group() as group:
            group.start_soon(side.gate.run)
            await until(lambda: side.supervisor.state is EngineState.READY)
            yield side
            group.cancel_scope.cancel()


async def test_after_a_switch_of_models_jobs_without_one_want_the_new_default(image_side: ImageModels) -> None:
    side = image_side
    choice = Affinity(max_bytes=10_000, loaded=lambda: side.supervisor.loaded, known_as=side.known_as, most=lambda: 4)

    def job(job_id: str, **data: Any) -> bytes:
        return json.dumps({"id": job_id, "type": "txt2img", "data": {"prompt": "a cat"} | data}).encode()

    plain, first, second = job("plain"), job("first", model="tinyA"), job("second", model="tinyB")
    assert choice.first([second, plain]) == plain
    assert await side.supervisor.load("tinyB") == "tinyB"
    assert choice.first([first, plain]) == plain
    assert choice.first([plain, second]) is None, "the next job wants what is loaded"
    async with side.supervisor.ensure("tinyA"):
        pass
    assert choice.first([plain, first]) == first


@asynccontextmanager
async def image_worker(redis_url: str, **settings: Any) -> AsyncGenerator[Worker, None]:
    """A worker of images alone, in this process."""
    with WebUIDouble(FAST) as double:
        worker = Worker(
            Settings.model_validate({"redis_url": redis_url, "run_llm": False, "sd_server_url": double.url} | settings)
        )
        async with anyio.create_task_group() as group:
            group.start_soon(worker.run)
            yield worker
            worker.stop()


async def test_a_worker_of_images_alone_says_how_it_is_and_leaves_text_models_to_others(
    redis_url: str, commands: Any
) -> None:
    async with image_worker(redis_url) as worker:
        for job_id, job_type in (("models", "list_models"), ("health", "health_check")):
            await commands.lpush("llama_queue", json.dumps({"id": job_id, "type": job_type}))
        with anyio.fail_after(PATIENCE):
            while not (answer := await commands.get("result:health")):
                await anyio.sleep(0.02)
        assert json.loads(answer)["worker"] == worker.id
        assert await commands.llen("{llama_queue}:manage") == 1
    assert await commands.llen("{llama_queue}:manage") == 1
    assert await commands.keys("{llama_queue}:active:*") == []
