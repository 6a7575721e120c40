"""The supervisor on real processes that behave like llama-server, and on servers elsewhere."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import psutil
import pytest

from tests.doubles import llama_server as server_double
from tests.doubles.engine import LOADING, PROPS, Answer, EngineDouble, document, healthy
from tests.doubles.launcher import PATIENT
from tests.support.generations import events_of
from tests.support.servers import free_port
from tests.support.waiting import until
from velesio_worker.core.settings import Settings
from velesio_worker.engines.base import EngineState
from velesio_worker.engines.gpu import Gpu, Gpus
from velesio_worker.engines.http import ConnectionLostError, EngineHTTP
from velesio_worker.engines.llama.engine import LlamaEngine
from velesio_worker.engines.llama.launch import LlamaLauncher
from velesio_worker.engines.supervision import failures, lifecycle, supervisor
from velesio_worker.engines.supervision.supervisor import Supervisor
from velesio_worker.wire.errors import EngineCrashedError, EngineFailedError, EngineUnavailableError
from velesio_worker.wire.text_parameters import CompletionParameters

pytestmark = [pytest.mark.processes, pytest.mark.anyio]

STARTING, READY, DRAINING, STOPPING, BACKOFF, FAILED, STOPPED = (
    EngineState.STARTING,
    EngineState.READY,
    EngineState.DRAINING,
    EngineState.STOPPING,
    EngineState.BACKOFF,
    EngineState.FAILED,
    EngineState.STOPPED,
)
DIED = [STOPPING, BACKOFF, STARTING, READY]
STALLED = "sent nothing for 1 s"


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test leaves a process, or touches the real notes on engines."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(psutil.Process().children(recursive=True))
    yield
    assert set(psutil.Process().children(recursive=True)) <= before


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(_low: float, _high: float) -> float:
        return 0.01

    monkeypatch.setattr(failures.random, "uniform", short)


class NoGpus(Gpus):
    """A machine without GPUs."""

    def __init__(self) -> None:
        super().__init__("0")

    def read(self) -> tuple[Gpu, ...]:
        return ()


class Watched:
    """A supervisor of a server that behaves as told, and the states that it went through."""

    def __init__(self, behaviour: str = "ready", note: str = "", *, failures: int = 5, **settings: object) -> None:
        self.port = free_port()
        command = shlex.join([sys.executable, "-I", "-u", str(Path(server_double.__file__)), behaviour, note])
        values = {"startup_command": command, "llama_port": self.port} | settings
        self.states: list[EngineState] = []
        launcher = LlamaLauncher(Settings.model_validate(values), NoGpus())
        self.supervisor = Supervisor(launcher, replace(PATIENT, failures=failures), on_state=self.states.append)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        async with anyio.create_task_group() as group:
            group.start_soon(self.supervisor.run)
            yield
            group.cancel_scope.cancel()

    @asynccontextmanager
    async def ready(self) -> AsyncGenerator[None, None]:
        async with self.running():
            await until(lambda: self.states == [STARTING, READY])
            yield

    @property
    def engine(self) -> LlamaEngine:
        """The engine that is ready."""
        assert self.supervisor.serving is not None
        return self.supervisor.serving.engine

    async def fails(self) -> str:
        """Run until it gives up; returns the reason."""
        async with self.running():
            await until(lambda: self.supervisor.state is FAILED)
            with pytest.raises(EngineFailedError) as caught:
                async with self.supervisor.ensure():
                    pass
            reason = self.supervisor.reason
        told = str(caught.value)
        assert told.startswith("llama-server cannot be started: ")
        assert not [word for word in ("\n", "loading", "/nowhere/") if word in told], "nothing that the engine wrote"
        return reason

    async def die(self) -> None:
        async with EngineHTTP(f"http://127.0.0.1:{self.port}") as http:
            with pytest.raises(ConnectionLostError):
                await http.get("/die", timeout=20)

    @property
    def process(self) -> psutil.Process:
        """The one that listens on the port of the worker's own server."""
        (process,) = [
            child
            for child in psutil.Process().children()
            if any(one.laddr.port == self.port for one in child.net_connections() if one.status == psutil.CONN_LISTEN)
        ]
        return process


async def test_a_server_that_is_ready_is_an_engine() -> None:
    watched = Watched()
    assert watched.supervisor.model is None, "the server has not said it yet"
    async with watched.ready():
        properties = watched.engine.properties
        assert (properties.model, properties.context_length, properties.slots) == ("fake", 512, 3)
        assert watched.supervisor.model == "fake"
        async with watched.supervisor.ensure("fake") as engine:
            assert engine is watched.engine
    assert watched.states == [STARTING, READY, STOPPED]
    assert watched.supervisor.serving is None


async def test_whoever_uses_an_engine_is_told_at_once_that_it_went_away() -> None:
    watched = Watched()
    async with watched.ready():
        using = anyio.Event()

        async def use() -> None:
            with pytest.raises(EngineCrashedError):  # noqa: PT012 (raised on leaving)
                async with watched.supervisor.ensure():
                    using.set()
                    await anyio.sleep_forever()

        with anyio.fail_after(60):
            async with anyio.create_task_group() as users:
                users.start_soon(use)
                await using.wait()
                await watched.die()


async def test_a_server_elsewhere_that_still_answers_is_not_given_up_for_one_jobs_trouble() -> None:
    own = Watched()
    async with own.ready():
        guest = Watched(startup_command=None, llama_server_url=f"http://127.0.0.1:{own.port}")
        async with guest.ready():
            serving = guest.supervisor.serving
            assert serving is not None
            for _ in range(PATIENT.failures + 1):
                serving.report()
                await anyio.wait_all_tasks_blocked()
            assert guest.states == [STARTING, READY]
            await own.die()
            await guest.supervisor.lost()
            await until(lambda: guest.states[2:4] == [STOPPING, BACKOFF])


async def test_a_server_that_writes_without_ending_a_line_makes_progress() -> None:
    async with Watched("dots", start_seconds=1.5).ready():
        pass


@pytest.mark.parametrize(
    ("line", "setting"),
    [
        ("something odd", "exit code 1"),
        ("error: invalid argument: --mlock", "STARTUP_COMMAND"),
        ("ggml_cuda: CUDA error: out of memory", "GPU_LAYERS, CONTEXT_SIZE or LLM_CONCURRENCY"),
        ("common_init: failed to load model 'x.gguf'", "MODEL_PATH"),
        ("couldn't bind HTTP server socket", "LLAMA_PORT"),
    ],
)
async def test_a_server_that_ends_at_once_is_told_with_its_last_words(line: str, setting: str) -> None:
    message = await Watched("exit", line).fails()
    assert "ended with exit code 1" in message
    assert "  loading" in message
    assert f"  {line}" in message
    assert setting in message
    assert "it llama-server" not in message


async def test_a_server_that_shows_no_progress_is_given_up() -> None:
    watched = Watched("silent", failures=1, start_seconds=1.5)
    message = await watched.fails()
    assert "no progress for 1.5 s (START_SECONDS)" in message
    assert "  loading" in message
    assert watched.states == [STARTING, FAILED, STOPPED]


async def test_a_program_that_does_not_exist_is_told_with_its_setting() -> None:
    message = await Watched(startup_command="/nowhere/llama-server -m x").fails()
    assert "/nowhere/llama-server cannot be run" in message
    assert "STARTUP_COMMAND" in message


async def test_a_program_that_is_no_llama_server_is_told_with_its_setting() -> None:
    message = await Watched("stranger").fails()
    assert "/props" in message
    assert "STARTUP_COMMAND" in message


async def test_a_taken_port_is_told_with_its_setting() -> None:
    async with EngineDouble().serving() as double:
        message = await Watched(llama_port=double.port).fails()
    assert f"Port {double.port}" in message
    assert "LLAMA_PORT" in message


async def test_a_server_that_dies_is_started_again() -> None:
    watched = Watched()
    async with watched.ready():
        first = watched.engine
        await watched.die()
        await until(lambda: watched.states[2:] == DIED)
        assert watched.engine is not first
    assert watched.states[-1] is STOPPED


async def test_a_server_that_keeps_dying_is_given_up(tmp_path: Path) -> None:
    watched = Watched("once", str(tmp_path / "started"), failures=3)
    async with watched.ready():
        await watched.die()
        await until(lambda: watched.supervisor.state is FAILED)
        assert watched.supervisor.reason.startswith(
            "it failed 3 times in a row; the last time: llama-server ended with exit code"
        )
    assert watched.states == [STARTING, READY, STOPPING, BACKOFF, STARTING, BACKOFF, STARTING, FAILED, STOPPED]


async def test_cancelling_a_start_leaves_nothing() -> None:
    watched = Watched("silent")
    before = len(psutil.Process().children())
    async with watched.running():
        await until(lambda: len(psutil.Process().children()) > before)
    assert watched.states == [STARTING, STOPPED]


async def test_a_server_that_is_unloaded_is_gone_and_the_next_job_starts_it_again() -> None:
    watched = Watched()
    async with watched.ready():
        process = watched.process
        with anyio.fail_after(60):
            await watched.supervisor.unload()
        assert not process.is_running()
        with anyio.fail_after(60):
            async with watched.supervisor.ensure() as engine:
                assert engine.model == "fake"
        assert watched.process.pid != process.pid


async def test_a_server_inherits_no_llama_arguments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dump = "import os, sys; print(sorted(name for name in os.environ if name.startswith('LLAMA_ARG_'))); sys.exit(1)"
    command = shlex.join([sys.executable, "-I", "-c", dump])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLAMA_ARG_CTX_SIZE", "1")
    assert "['LLAMA_ARG_HOST', 'LLAMA_ARG_PORT']" in await Watched(startup_command=command).fails()
    assert os.environ["LLAMA_ARG_CTX_SIZE"] == "1"


def foreign(double: EngineDouble, credentials: str = "") -> Watched:
    return Watched(startup_command=None, llama_server_url=f"http://{credentials}127.0.0.1:{double.port}")


async def test_a_server_elsewhere_is_an_engine_once_it_has_loaded(double: EngineDouble) -> None:
    double.answers["/health"].insert(0, document(LOADING, 503))
    watched = foreign(double)
    before = psutil.Process().children()
    async with watched.ready():
        assert watched.engine.model == "tiny.Q4_1"
        assert psutil.Process().children() == before


NO_SERVER: list[Callable[[], dict[str, list[Answer]]]] = [
    dict,
    lambda: healthy() | {"/props": [document({"hello": "world"})]},
    lambda: {"/health": [Answer(document=b"<html>")]},
]


@pytest.mark.parametrize("answers", NO_SERVER, ids=["404", "other-json", "html"])
async def test_what_is_no_llama_server_elsewhere_is_told_with_its_setting(
    double: EngineDouble, answers: Callable[[], dict[str, list[Answer]]]
) -> None:
    double.answers = answers()
    message = await foreign(double).fails()
    assert f"LLAMA_SERVER_URL={double.url}" in message


async def test_the_password_of_a_server_elsewhere_is_not_told(double: EngineDouble) -> None:
    double.answers = {}
    message = await foreign(double, "me:hunter2@").fails()
    assert f"LLAMA_SERVER_URL=http://me:***@127.0.0.1:{double.port}" in message
    assert "hunter2" not in message


async def test_a_server_elsewhere_that_is_lost_is_looked_for_again(double: EngineDouble) -> None:
    watched = foreign(double)
    async with watched.ready():
        double.answers["/health"].insert(0, document(LOADING, 503))
        await watched.supervisor.lost()
        assert watched.supervisor.serving is None
        async with watched.supervisor.ensure() as engine:
            assert engine.model == "tiny.Q4_1"
        assert watched.states[2:] == DIED


async def test_a_server_elsewhere_is_looked_at_as_soon_as_a_job_is_expected_and_once_for_it(
    double: EngineDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "SEEN_SECONDS", 600.0)
    marked = PROPS | {"media_marker": "<__media_one__>"}
    double.answers["/props"] = [document(marked)]
    watched = foreign(double)
    async with watched.ready():
        double.requests.clear()
        await anyio.sleep(lifecycle.SEEN_SECONDS)
        watched.supervisor.expect()
        await until(lambda: [request.path for request in double.requests] == ["/props"])
        async with watched.supervisor.ensure():
            assert len(double.requests) == 1, "it has just said what it is"


async def test_of_a_server_elsewhere_that_is_seen_to_be_another_the_other_is_waited_for(double: EngineDouble) -> None:
    watched = foreign(double)
    async with watched.ready():
        before = await watched.supervisor.identity(None)
        double.answers["/props"] = [document(PROPS | {"model_path": "/models/other.gguf"})]
        await anyio.sleep(lifecycle.SEEN_SECONDS)
        watched.supervisor.expect()
        for _ in range(1000):  # whenever it is asked for
            if watched.supervisor.state is not READY:
                break
            await anyio.sleep(0.001)
        assert await watched.supervisor.identity(None) not in {None, before}
        assert watched.engine.model == "other"


async def test_a_server_elsewhere_is_waited_for() -> None:
    watched = Watched(startup_command=None, llama_server_url=f"http://127.0.0.1:{free_port()}")
    async with watched.running():
        await until(lambda: watched.states == [STARTING])
        with anyio.move_on_after(0.3):
            await until(lambda: watched.states != [STARTING])
        assert watched.states == [STARTING]
    assert watched.states == [STARTING, STOPPED]


async def test_an_own_server_that_hangs_is_killed_and_another_started(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched()
    async with watched.ready():
        first, engine = watched.process, watched.engine
        first.suspend()  # so that it would not heed SIGTERM
        with anyio.fail_after(60):
            await watched.supervisor.stalled(STALLED)
        await until(lambda: watched.states[2:] == DIED)
        assert not first.is_running()
        assert watched.process.pid != first.pid
        assert watched.engine is not engine
    assert f"llama-server was replaced: it {STALLED}" in caplog.text


async def test_a_server_elsewhere_that_hangs_makes_a_token_before_it_is_used_again(double: EngineDouble) -> None:
    watched = foreign(double)
    async with watched.ready():
        looked, engine = len(double.requests), watched.engine

        def paths() -> list[str]:
            return [request.path for request in double.requests[looked:]]

        with anyio.fail_after(60):
            async with watched.supervisor.ensure():
                await watched.supervisor.stalled(STALLED)
                await until(lambda: "/health" in paths())
            await until(lambda: watched.states[2:] == [DRAINING, STOPPING, STARTING, READY])
        assert set(paths()) <= {"/health", "/props", "/v1/models", "/lora-adapters", "/completion"}
        assert paths().count("/completion") == 1
        assert watched.engine is not engine


async def test_whoever_uses_a_server_elsewhere_that_proves_lost_is_told_of_a_crash(double: EngineDouble) -> None:
    watched = foreign(double)
    async with watched.ready():
        double.answers["/health"].insert(0, document(LOADING, 503))
        with anyio.fail_after(60), pytest.raises(EngineCrashedError):  # noqa: PT012 (raised on leaving)
            async with watched.supervisor.ensure():
                await watched.supervisor.stalled(STALLED)
                await anyio.sleep_forever()
        await until(lambda: watched.states[2:] == [DRAINING, *DIED])


async def test_a_run_on_a_server_that_is_replaced_may_try_another_time() -> None:
    watched = Watched()
    async with watched.ready():
        process = watched.process
        process.suspend()

        async def use() -> None:
            with pytest.raises(EngineUnavailableError, match="replaced"):  # noqa: PT012 (raised on leaving)
                async with watched.supervisor.ensure() as engine:
                    async for _ in events_of(engine.generate(CompletionParameters(prompt="hi"))):
                        pass

        def is_asked() -> bool:
            connections = psutil.Process().net_connections()
            return any(one.raddr.port == watched.port for one in connections if one.raddr)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as users:
                users.start_soon(use)
                await until(is_asked)
                await watched.supervisor.stalled(STALLED)
