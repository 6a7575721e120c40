"""Whatever happens, ``/livez``, ``/readyz``, ``/health``, ``velesio-worker health`` and the log say the right thing.

Within 5 s of the event; a slow machine gets some more.
"""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tests.support.observed import ask, command, fetch, until
from tests.support.processes import wait_until_gone
from tests.support.scenes import SLACK, WITHIN, Lone, Scene, StickyWorker
from tests.support.servers import RedisServer
from tests.support.streams import push, read
from tests.support.tiny import brisk_model_path as model_path

__all__ = ["model_path"]  # a fixture

pytestmark = pytest.mark.engine

DEFAULT_PORT: Final = 9090


@dataclass(frozen=True)
class Case:
    """What happens to a scene, and what is to be said then.

    Attributes:
        happens: does it.
        mends: undoes it; None if that is not to be done, or there is nothing to undo.
        says: parts of the reasons for which it is not ready; none if it is.
        engine: the states that the engine may be in.
        reachable: whether Redis is said to be reachable.
        action: the action of a line that the log gets.
        settings: of the worker, if it needs some of its own.
    """

    happens: Callable[[Scene], object]
    mends: Callable[[Scene], object] | None = None
    says: tuple[str, ...] = ()
    engine: frozenset[str] = frozenset({"ready"})
    reachable: bool = True
    action: str = "worker_ready"
    settings: dict[str, str] = field(default_factory=dict[str, str])


def _signal_redis(number: signal.Signals) -> Callable[[Scene], None]:
    def send(scene: Scene) -> None:
        assert scene.redis.process is not None
        scene.redis.process.send_signal(number)

    return send


def _kill_engine(scene: Scene) -> None:
    engine = scene.worker.engine()
    scene.held.touch()
    engine.kill()
    wait_until_gone(engine)


def _freeze_engine(scene: Scene) -> None:
    engine = scene.worker.engine()
    scene.held.touch()
    engine.suspend()


def _let_engine_start(scene: Scene) -> None:
    scene.held.unlink()


def _stop_while_a_job_runs(scene: Scene) -> None:
    push(scene.redis.client, "long", endless=True, max_tokens=480, stream=True)
    read(scene.redis.client, "long", until="token")
    scene.worker.signal(signal.SIGTERM)


def _unload(scene: Scene) -> None:
    scene.worker.wait_for("engine_stopped")


_ENGINE_AWAY: Final = frozenset({"backoff", "starting"})
CASES: Final = {
    "nothing": Case(lambda _: None),
    "Redis stopped": Case(
        lambda scene: scene.redis.kill(),
        lambda scene: scene.redis.start(),
        says=("Redis at redis://127.0.0.1:", "does not answer", "check REDIS_URL"),
        reachable=False,
        action="redis_lost",
    ),
    "Redis frozen": Case(
        _signal_redis(signal.SIGSTOP),
        _signal_redis(signal.SIGCONT),
        says=("Redis at redis://127.0.0.1:", "does not answer", "check REDIS_URL"),
        reachable=False,
        action="redis_lost",
    ),
    "engine killed": Case(
        _kill_engine,
        _let_engine_start,
        says=("the text engine is ",),
        engine=_ENGINE_AWAY,
        action="engine_lost",
    ),
    "engine frozen": Case(
        _freeze_engine,
        _let_engine_start,
        says=("the text engine is ",),
        engine=_ENGINE_AWAY,
        action="engine_lost",
        settings={"PROBE_SECONDS": "1", "STALL_SECONDS": "2"},
    ),
    "worker stopping": Case(
        _stop_while_a_job_runs,
        says=("the worker is stopping",),
        action="worker_stopping",
        settings={"DRAIN_SECONDS": "60"},
    ),
    "engine unloaded": Case(
        _unload, engine=frozenset({"stopped"}), action="engine_stopped", settings={"IDLE_UNLOAD_SECONDS": "1"}
    ),
}


class Stage:
    """Sets scenes; cases that need no settings of their own, and mend what they did, share one."""

    def __init__(self, folder: Path, model: Path) -> None:
        self._folder = folder
        self._model = model
        self._shared: Scene | None = None
        self._open = ExitStack()
        self._count = 0

    @contextmanager
    def scene(self, case: Case) -> Generator[Scene, None, None]:
        if case.settings:
            with ExitStack() as own:
                yield self._make(own, **case.settings)
            return
        if self._shared is None or not self._shared.is_healthy():
            self._open.close()
            self._shared = self._make(self._open)
        yield self._shared

    def _make(self, stack: ExitStack, **settings: str) -> Scene:
        self._count += 1
        folder = self._folder / f"scene-{self._count}"
        redis = stack.enter_context(RedisServer(self._folder / f"redis-{self._count}"))
        stack.callback(lambda: _signal_if_there(redis))
        scene = Scene(folder, self._model, redis, **settings)
        stack.callback(scene.end)
        scene.start()
        return scene

    def close(self) -> None:
        self._open.close()


def _signal_if_there(redis: RedisServer) -> None:
    if redis.process is not None and redis.process.poll() is None:
        redis.process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("health"), model_path)
    yield stage
    stage.close()


@pytest.mark.parametrize("name", CASES)
def test_each_says_the_right_thing_in_time(stage: Stage, name: str) -> None:
    case = CASES[name]
    with stage.scene(case) as scene:
        lines = len(scene.worker.lines()) if case.mends else 0
        case.happens(scene)
        began = time.monotonic()
        ready = not case.says

        def says_so() -> bool:
            answer = scene.readiness()
            queue_is_known = ask(scene.port, "/health")[1]["queues"] is not None
            agree = queue_is_known is case.reachable
            return agree and answer.get("ready") is ready and answer["engines"]["text"] in case.engine

        def is_logged() -> bool:
            return any(line.get("action") == case.action for line in scene.worker.lines()[lines:])

        until(says_so, f"/readyz says it: {scene.readiness()}", WITHIN + SLACK)
        left = max(began + WITHIN + SLACK - time.monotonic(), 0)
        until(is_logged, f"the log says it: {scene.worker.log_text()}", left)
        check_answers(scene, case)
        check_command(scene, case)
        if case.mends is not None:
            case.mends(scene)
            until(scene.is_healthy, "it is well again", 60)


def check_answers(scene: Scene, case: Case) -> None:
    """Hold what is said over HTTP against a case."""
    assert ask(scene.port, "/livez") == (200, {"alive": True, "reasons": []})
    status, answer = ask(scene.port, "/readyz")
    assert (status, answer["ready"]) == ((503, False) if case.says else (200, True))
    for part in case.says:
        assert part in "; ".join(answer["reasons"])
    assert bool(answer["reasons"]) is bool(case.says)
    status, health = ask(scene.port, "/health")
    assert status == 200
    assert (health["ready"], health["pid"]) == (not case.says, scene.worker.pid)
    assert health["redis"]["reachable"] is case.reachable
    assert bool(health["redis"]["trouble"]) is not case.reachable
    engine = health["engines"]["text"]
    assert engine["state"] in case.engine
    assert health["llm_worker"] == engine["state"]
    if case.engine is _ENGINE_AWAY:
        assert engine["restarts"] == 1
        assert engine["last_error"].startswith("llama-server ")
    model = Path(scene.worker.environment["MODEL_PATH"]).stem
    assert health["models_loaded"]["llm"] == (model if engine["state"] == "ready" else None)
    for name in ("queues", "leases", "dead_letters"):
        assert (health[name] is not None) is case.reachable, name
    page = fetch(scene.port, "/metrics")[1].decode()
    assert f"velesio_worker_ready {0 if case.says else 1}.0" in page
    assert f"velesio_redis_up {1 if case.reachable else 0}.0" in page


def check_command(scene: Scene, case: Case) -> None:
    """Hold what ``velesio-worker health`` says against a case."""
    code, said = command(scene.worker.environment)
    assert (code, said.count("\n"), said[-1]) == (1 if case.says else 0, 1, "\n")
    assert said.startswith("not ready: " if case.says else "ready: text engine ")
    for part in case.says:
        assert part in said
    assert command(scene.worker.environment, "--live") == (0, "alive\n")


def test_a_model_that_is_missing_is_named(redis_url: str, tmp_path: Path) -> None:
    model = tmp_path / "no-such-model.gguf"
    with Lone(tmp_path, REDIS_URL=redis_url, LLAMA_SERVER_URL="", MODEL_PATH=str(model)) as lone:
        lone.worker.wait_for("worker_up")
        reasons = ("the text engine has failed", f"{model.name} does not exist", "point MODEL_PATH at one")
        answer = lone.answers("/readyz", 503, *reasons, limit=WITHIN + SLACK)
        assert answer["engines"] == {"text": "failed"}
        assert ask(lone.port, "/livez")[0] == 200
        status, health = ask(lone.port, "/health")
        assert (status, health["engines"]["text"]["state"], health["ready"]) == (200, "failed", False)
        assert model.name in health["engines"]["text"]["reason"]
        code, said = lone.says()
        assert (code, model.name in said, str(model) in said) == (1, True, False), said
        assert lone.says("--live") == (0, "alive\n")
        assert str(model) in lone.worker.wait_for("engine_failed")["message"]


def test_an_engine_that_nobody_can_reach_is_no_end(redis_url: str, tmp_path: Path) -> None:
    with Lone(tmp_path, REDIS_URL=redis_url) as lone:
        lone.answers("/readyz", 503, "the text engine is starting, for ")
        code, said = lone.says()
        assert (code, said.startswith("not ready: the text engine is starting")) == (1, True), said
        assert "correct LLAMA_SERVER_URL" in lone.worker.wait_for("engine_absent")["message"]


def test_a_worker_that_waits_for_redis_lives_and_says_what_to_check(own_redis: RedisServer, tmp_path: Path) -> None:
    with Lone(tmp_path, REDIS_URL=own_redis.url) as lone:
        lone.answers("/readyz", 503, "the worker is starting", f"Redis at {own_redis.url} does not answer", "REDIS_URL")
        assert ask(lone.port, "/livez") == (200, {"alive": True, "reasons": []})
        status, health = ask(lone.port, "/health")
        assert (status, health["redis"]["reachable"], health["queues"]) == (200, False, None)
        assert "velesio_redis_up 0.0" in fetch(lone.port, "/metrics")[1].decode()
        code, said = lone.says()
        assert (code, said.startswith("not ready: the worker is starting; Redis at")) == (1, True), said
        assert lone.says("--live") == (0, "alive\n")
        lone.worker.wait_for("redis_absent")
        own_redis.start()

        def only_the_engine_lacks() -> bool:
            (reason, *more) = ask(lone.port, "/readyz")[1]["reasons"]
            return reason.startswith("the text engine is ") and not more

        until(only_the_engine_lacks, "Redis is there", 60)
        assert lone.worker.stop() == 0


def test_a_loop_that_is_stuck_is_told_by_threads_that_are_not(redis_url: str, tmp_path: Path) -> None:
    with Lone(tmp_path, StickyWorker, REDIS_URL=redis_url) as lone:
        lone.worker.wait_for("engine_absent")
        lone.answers("/livez", 200)
        lone.worker.signal(signal.SIGUSR1)
        reason = "the worker's event loop has not moved for "
        lone.answers("/livez", 503, reason, "restart the worker")
        lone.answers("/readyz", 503, reason)
        status, health = ask(lone.port, "/health")
        assert (status, health["ready"], health["error"]) == (503, False, "no answer within 4 s")
        status, page = fetch(lone.port, "/metrics")
        assert status == 200
        assert b"velesio_worker_alive 0.0" in page
        assert b"velesio_queue_jobs{" not in page, "what the queue was is not what it is"
        code, printed = command(lone.worker.environment, "--json")
        assert (code, json.loads(printed)["worker"]) == (1, health["worker"])
        code, said = lone.says("--live")
        assert (code, said.startswith(f"not alive: {reason}")) == (1, True), said
        code, said = lone.says()
        assert (code, said.startswith(f"not ready: {reason}")) == (1, True), said
        told = lone.worker.wait_for("loop_stuck")["message"]
        assert told.startswith(reason)
        assert "stuck_worker.py" in told
        assert "_stick < " in told


def test_of_a_worker_that_is_frozen_or_gone_only_the_command_can_tell(redis_url: str, tmp_path: Path) -> None:
    with Lone(tmp_path, REDIS_URL=redis_url) as lone:
        lone.worker.wait_for("worker_up")
        for number, sign in ((signal.SIGSTOP, "timed out"), (signal.SIGKILL, "refused")):
            lone.worker.signal(number)
            if number is signal.SIGKILL:
                lone.worker.wait()
            with ThreadPoolExecutor() as pool:
                asked = [pool.submit(lone.says, *arguments) for arguments in ((), ("--live",), ("--json",))]
                answers = [one.result() for one in asked]
            for code, said in answers:
                assert code == 1
                assert said.startswith(f"no worker answers at 127.0.0.1:{lone.port} (")
                assert sign in said


@pytest.mark.parametrize("host", ["", "127.0.0.1"], ids=["by default", "for a host"])
def test_a_health_port_that_is_taken_ends_only_a_worker_that_was_told_to_use_it(
    redis_url: str, tmp_path: Path, host: str
) -> None:
    with closing(socket.socket()) as taken, suppress(OSError):  # if it is somebody else's, that will do
        taken.bind(("127.0.0.1", DEFAULT_PORT))
        taken.listen()
        with Lone(tmp_path, REDIS_URL=redis_url, HEALTH_PORT="", HEALTH_HOST=host) as lone:
            if host:
                assert lone.worker.wait() == 2
                (line,) = lone.worker.log_text().splitlines()
            else:
                line = lone.worker.wait_for("health_not_served")["message"]
                lone.worker.wait_for("worker_up")
                assert lone.worker.stop() == 0
            assert f"HEALTH_PORT={DEFAULT_PORT}" in line
            assert "Address already in use" in line


@pytest.mark.parametrize("host", ["nowhere.invalid", "a..b", "::1::1", "192.0.2.1"])
def test_a_health_host_that_cannot_be_had_ends_the_start_with_one_line(
    redis_url: str, tmp_path: Path, host: str
) -> None:
    with Lone(tmp_path, REDIS_URL=redis_url, HEALTH_HOST=host) as lone:
        assert lone.worker.wait() == 2
        (line,) = lone.worker.log_text().splitlines()
        assert line.startswith(f"HEALTH_HOST={host} HEALTH_PORT={lone.port}: nothing can listen there (")


def test_two_workers_cannot_have_one_health_port(redis_url: str, tmp_path: Path) -> None:
    with Lone(tmp_path, REDIS_URL=redis_url) as first:
        first.worker.wait_for("health_served")
        (tmp_path / "other").mkdir()
        with Lone(tmp_path / "other", REDIS_URL=redis_url, HEALTH_PORT=str(first.port)) as second:
            assert second.worker.wait() == 2
            (line,) = second.worker.log_text().splitlines()
            assert "give each worker of a host a HEALTH_PORT of its own" in line
        assert first.says("--live") == (0, "alive\n")


def test_a_health_check_job_answers_what_health_answers(stage: Stage) -> None:
    with stage.scene(CASES["nothing"]) as scene:
        redis = scene.redis.client
        push(redis, "last", max_tokens=2)
        read(redis, "last", until="done")
        until(lambda: ask(scene.port, "/health")[1]["last_job"], "the job's run is over", 30)
        push(redis, "check", job_type="health_check")
        read(redis, "check", until="done")
        until(lambda: ask(scene.port, "/health")[1]["leases"], "the queue was looked at", 30)
        _, said = ask(scene.port, "/health")
        answered = json.loads(redis.get("result:check"))
        passing = {"timestamp", "uptime", "queues", "priorities", "leases", "gpus", "gpu_memory"}
        assert {name: said[name] for name in said.keys() - passing} == {
            name: answered[name] for name in answered.keys() - passing
        }
        assert passing <= answered.keys()
        assert said["worker"] in said["leases"]
        assert (said["last_job"]["job_type"], said["last_job"]["success"]) == ("completion", True)
        code, printed = command(scene.worker.environment, "--json")
        assert (code, json.loads(printed).keys()) == (0, said.keys())
