from __future__ import annotations

import os
import shlex
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import psutil
import pytest

from tests.servers import free_port
from tests.unit import server_double
from tests.unit.engine_double import LOADING, Answer, EngineDouble, document, healthy
from tests.unit.waiting import until
from velesio_worker.engines import servers, supervisor
from velesio_worker.engines.http import ConnectionLostError, EngineHTTP
from velesio_worker.engines.llama import LlamaProperties
from velesio_worker.engines.process import EngineProcess
from velesio_worker.engines.supervisor import EngineState, LlamaSupervisor
from velesio_worker.errors import EngineCrashedError, EngineStartError, EngineUnavailableError
from velesio_worker.parameters import CompletionParameters
from velesio_worker.settings import Settings

pytestmark = pytest.mark.anyio

STARTING, READY, BACKOFF, FAILED, STOPPED = (
    EngineState.STARTING,
    EngineState.READY,
    EngineState.BACKOFF,
    EngineState.FAILED,
    EngineState.STOPPED,
)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No test leaves a process."""
    before = set(psutil.Process().children(recursive=True))
    yield
    assert set(psutil.Process().children(recursive=True)) <= before


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(_low: float, _high: float) -> float:
        return 0.01

    monkeypatch.setattr(supervisor.random, "uniform", short)


class Watched:
    """A supervisor of a server that behaves as told, and the states that it went through."""

    def __init__(self, behaviour: str = "ready", note: str = "", **settings: object) -> None:
        self.port = free_port()
        command = shlex.join([sys.executable, "-I", "-u", str(Path(server_double.__file__)), behaviour, note])
        values = {"startup_command": command, "llama_port": self.port} | settings
        self.states: list[EngineState] = []
        self.supervisor = LlamaSupervisor(Settings.model_validate(values), on_state=self.states.append)

    @asynccontextmanager
    async def ready(self) -> AsyncGenerator[LlamaProperties, None]:
        async with anyio.create_task_group() as group:
            with anyio.fail_after(20):
                properties: LlamaProperties = await group.start(self.supervisor.run)
            yield properties
            group.cancel_scope.cancel()

    async def fails(self) -> str:
        """Run until it gives up; returns the reason."""
        with anyio.fail_after(20), pytest.raises(EngineStartError) as caught:
            await self.supervisor.run()
        assert self.supervisor.state is FAILED
        return str(caught.value)

    async def die(self) -> None:
        async with EngineHTTP(f"http://127.0.0.1:{self.port}") as http:
            with pytest.raises(ConnectionLostError):
                await http.get("/die", timeout=20)


async def test_a_server_that_is_ready_is_an_engine() -> None:
    watched = Watched()
    assert watched.supervisor.state is STOPPED
    with pytest.raises(EngineUnavailableError, match="stopped"):
        watched.supervisor.engine()
    async with watched.ready() as properties:
        assert properties == LlamaProperties(model="fake", context_length=512, slots=3)
        assert watched.supervisor.engine().properties == properties
        assert watched.states == [STARTING, READY]
    assert watched.states == [STARTING, READY, STOPPED]
    with pytest.raises(EngineUnavailableError, match="stopped"):
        watched.supervisor.engine()


async def test_whoever_uses_an_engine_is_told_at_once_that_it_went_away() -> None:
    watched = Watched()
    async with watched.ready(), anyio.create_task_group() as group:
        using = anyio.Event()

        async def use() -> None:
            with pytest.raises(EngineCrashedError), watched.supervisor.using():  # noqa: PT012 (raised on leaving)
                using.set()
                await anyio.sleep_forever()

        with anyio.fail_after(20):
            async with anyio.create_task_group() as users:
                users.start_soon(use)
                await using.wait()
                await watched.die()
        group.cancel_scope.cancel()


async def test_a_foreign_server_that_still_answers_is_not_given_up_for_one_jobs_trouble() -> None:
    own = Watched()
    async with own.ready():
        guest = Watched(startup_command=None, llama_server_url=f"http://127.0.0.1:{own.port}")
        async with guest.ready():
            for _ in range(supervisor.FAILURES + 1):
                guest.supervisor.report()
                await anyio.wait_all_tasks_blocked()
            assert guest.states == [STARTING, READY]
            await own.die()
            guest.supervisor.report()
            await until(lambda: guest.states[2:] != [])
            assert guest.states[2] is BACKOFF


async def test_a_server_that_writes_without_ending_a_line_makes_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "START_SECONDS", 0.5)
    async with Watched("dots").ready() as properties:
        assert properties.model == "fake"


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


async def test_a_server_that_shows_no_progress_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "START_SECONDS", 0.4)
    watched = Watched("silent")
    message = await watched.fails()
    assert "no progress" in message
    assert "  loading" in message
    assert watched.states == [STARTING, FAILED]


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
        first = watched.supervisor.engine()
        await watched.die()
        await until(lambda: watched.states[2:] == [BACKOFF, STARTING, READY])
        assert watched.supervisor.engine() is not first
    assert watched.states[-1] is STOPPED


async def test_a_server_that_keeps_dying_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(supervisor, "FAILURES", 3)
    watched = Watched("once", str(tmp_path / "started"))
    with pytest.RaisesGroup(pytest.RaisesExc(EngineStartError, match="3 times in a row")) as caught:
        async with watched.ready():
            await watched.die()
            await until(lambda: watched.supervisor.state is FAILED)
            await anyio.sleep_forever()
    message = str(caught.value.exceptions[0])
    assert "exit code 1" in message
    assert "it llama-server" not in message
    assert watched.states == [STARTING, READY, BACKOFF, STARTING, BACKOFF, STARTING, FAILED]


async def test_whoever_finds_the_engine_gone_waits_until_that_is_known() -> None:
    watched = Watched()
    await watched.supervisor.lost()  # nothing is ready: nothing to wait for
    async with watched.ready():
        await watched.die()
        with anyio.fail_after(20):
            await watched.supervisor.lost()
        assert watched.states[2:3] == [BACKOFF]


async def test_a_false_alarm_costs_the_server_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "NOTICE_SECONDS", 0.05)
    watched = Watched()
    async with watched.ready():
        with anyio.fail_after(20):
            await watched.supervisor.lost()
        assert watched.states == [STARTING, READY]


async def test_cancelling_a_start_leaves_nothing() -> None:
    watched = Watched("silent")
    before = len(psutil.Process().children())
    async with anyio.create_task_group() as group:
        group.start_soon(watched.supervisor.run)
        await until(lambda: len(psutil.Process().children()) > before)
        group.cancel_scope.cancel()
    assert watched.states == [STARTING, STOPPED]


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
    async with watched.ready() as properties:
        assert properties.model == "tiny.Q4_1"
        assert watched.states == [STARTING, READY]
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
        assert watched.states[2] is BACKOFF
        with pytest.raises(EngineUnavailableError):
            watched.supervisor.engine()
        await until(lambda: watched.states[2:] == [BACKOFF, STARTING, READY])
        assert watched.supervisor.engine().model == "tiny.Q4_1"


async def test_a_server_elsewhere_is_waited_for() -> None:
    port = free_port()
    watched = Watched(startup_command=None, llama_server_url=f"http://127.0.0.1:{port}")
    async with anyio.create_task_group() as group:
        group.start_soon(watched.supervisor.run)
        await until(lambda: watched.states == [STARTING])
        with anyio.move_on_after(0.3):
            await until(lambda: watched.states != [STARTING])
        assert watched.states == [STARTING]
        group.cancel_scope.cancel()
    assert watched.states == [STARTING, STOPPED]


STALLED = "sent nothing for 1 s"


def pid_of(watched: Watched) -> int:
    """The process that listens on the port of the worker's own server."""
    (pid,) = [
        child.pid
        for child in psutil.Process().children()
        if any(one.laddr.port == watched.port for one in child.net_connections() if one.status == psutil.CONN_LISTEN)
    ]
    return pid


async def test_an_own_server_that_hangs_is_killed_and_another_started(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched()
    async with watched.ready():
        first, engine = psutil.Process(pid_of(watched)), watched.supervisor.engine()
        first.suspend()  # so that it would not heed SIGTERM
        with anyio.fail_after(5):
            await watched.supervisor.stalled(STALLED)
        assert watched.states[2:3] == [BACKOFF], "whoever asks now is told that there is no engine"
        assert not first.is_running()
        await until(lambda: watched.states[2:] == [BACKOFF, STARTING, READY])
        assert pid_of(watched) != first.pid
        assert watched.supervisor.engine() is not engine
    assert f"llama-server was replaced: it {STALLED}" in caplog.text


async def test_whoever_uses_a_server_that_is_replaced_may_try_another_time() -> None:
    watched = Watched()
    async with watched.ready():
        using = [anyio.Event(), anyio.Event()]

        async def use(begun: anyio.Event) -> None:
            with pytest.raises(EngineUnavailableError, match=f"replaced.*{STALLED}"), watched.supervisor.using():  # noqa: PT012 (raised on leaving)
                begun.set()
                await anyio.sleep_forever()

        with anyio.fail_after(20):
            async with anyio.create_task_group() as users:
                for begun in using:
                    users.start_soon(use, begun)
                    await begun.wait()
                await watched.supervisor.stalled(STALLED)


async def test_several_complaints_of_one_server_replace_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    kill = EngineProcess.kill

    def counted(process: EngineProcess) -> None:
        killed.append(process.pid)
        kill(process)

    monkeypatch.setattr(EngineProcess, "kill", counted)
    watched = Watched()
    async with watched.ready():
        with anyio.fail_after(20):
            async with anyio.create_task_group() as complaints:
                for _ in range(3):
                    complaints.start_soon(watched.supervisor.stalled, STALLED)
        await until(lambda: watched.states[2:] == [BACKOFF, STARTING, READY])
        monkeypatch.setattr(supervisor, "NOTICE_SECONDS", 0.2)
        await watched.supervisor.lost()
        assert watched.states[2:] == [BACKOFF, STARTING, READY]
        assert len(killed) == 1


async def test_a_complaint_while_nothing_serves_costs_the_next_server_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched()
    await watched.supervisor.stalled(STALLED)
    async with watched.ready():
        await watched.die()
        await until(lambda: watched.states[2:3] == [BACKOFF])
        await watched.supervisor.stalled(STALLED)
        await until(lambda: watched.states[2:] == [BACKOFF, STARTING, READY])
        monkeypatch.setattr(supervisor, "NOTICE_SECONDS", 0.2)
        await watched.supervisor.lost()
        assert watched.states[2:] == [BACKOFF, STARTING, READY]


async def test_the_death_of_a_server_that_took_anothers_place_is_a_crash_again() -> None:
    watched = Watched()
    async with watched.ready():
        await watched.supervisor.stalled(STALLED)
        await until(lambda: watched.states[2:] == [BACKOFF, STARTING, READY])
        using = anyio.Event()

        async def use() -> None:
            with pytest.raises(EngineCrashedError), watched.supervisor.using():  # noqa: PT012 (raised on leaving)
                using.set()
                await anyio.sleep_forever()

        with anyio.fail_after(20):
            async with anyio.create_task_group() as users:
                users.start_soon(use)
                await using.wait()
                await watched.die()


async def test_a_server_that_hangs_again_and_again_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FAILURES", 2)
    watched = Watched()
    with pytest.RaisesGroup(pytest.RaisesExc(EngineStartError, match=f"2 times in a row.*{STALLED}")):
        async with watched.ready():
            await watched.supervisor.stalled(STALLED)
            await until(lambda: watched.states[2:] == [BACKOFF, STARTING, READY])
            await watched.supervisor.stalled(STALLED)
            await anyio.sleep_forever()


async def test_a_server_elsewhere_that_answers_is_only_looked_at(
    double: EngineDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "NOTICE_SECONDS", 0.3)
    watched = foreign(double)
    async with watched.ready():
        looked, engine = len(double.requests), watched.supervisor.engine()
        with anyio.fail_after(20), watched.supervisor.using():
            await watched.supervisor.stalled(STALLED)
            await until(lambda: len(double.requests) > looked)
        assert [request.path for request in double.requests[looked:]] == ["/health", "/props"]
        assert watched.states == [STARTING, READY]
        assert watched.supervisor.engine() is engine


async def test_whoever_uses_a_server_elsewhere_that_proves_lost_is_told_of_a_crash(double: EngineDouble) -> None:
    watched = foreign(double)
    async with watched.ready():
        double.answers["/health"].insert(0, document(LOADING, 503))
        with anyio.fail_after(20), pytest.raises(EngineCrashedError), watched.supervisor.using():  # noqa: PT012
            await watched.supervisor.stalled(STALLED)
            await anyio.sleep_forever()
        await until(lambda: watched.states[2:] == [BACKOFF, STARTING, READY])


async def test_a_run_on_a_server_that_is_replaced_may_try_another_time() -> None:
    watched = Watched()
    async with watched.ready():
        psutil.Process(pid_of(watched)).suspend()

        async def use() -> None:
            with pytest.raises(EngineUnavailableError, match="replaced"), watched.supervisor.using() as engine:
                async for _ in engine.generate(CompletionParameters(prompt="hi")).events():
                    pass

        with anyio.fail_after(20):
            async with anyio.create_task_group() as users:
                users.start_soon(use)
                await anyio.sleep(0.3)  # the request is under way
                await watched.supervisor.stalled(STALLED)
