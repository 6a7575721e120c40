"""Two engines on a GPU that holds one at a time: real servers, never two at once, and both get their turn."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import psutil
import pytest

from tests.support.generations import events_of
from tests.support.servers import free_port
from tests.support.tiny import model_path
from velesio_worker.core.settings import Settings
from velesio_worker.engines.base import EngineState, Serving, Spec
from velesio_worker.engines.gpu import Gpus
from velesio_worker.engines.llama.engine import LlamaEngine
from velesio_worker.engines.llama.launch import LlamaLauncher
from velesio_worker.engines.supervision import gpu_turns as turns_module
from velesio_worker.engines.supervision.gpu_turns import GpuTurns
from velesio_worker.engines.supervision.supervisor import Supervisor
from velesio_worker.engines.supervision.watchdog import Patience
from velesio_worker.wire.events import Done
from velesio_worker.wire.text_parameters import CompletionParameters

__all__ = ["model_path"]  # a fixture

pytestmark = [pytest.mark.engine, pytest.mark.anyio, pytest.mark.timeout(400)]

TURN_SECONDS = 1.0


def is_server(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):  # also a zombie, which has no command any more
        return "--model" in process.cmdline()
    return False


class Watched(LlamaLauncher):
    """Counts the processes that there are whenever one of them is ready."""

    most = 0

    @asynccontextmanager
    async def serve(self, spec: Spec) -> AsyncGenerator[Serving[LlamaEngine], None]:
        async with super().serve(spec) as serving:
            there = [child for child in psutil.Process().children() if is_server(child)]
            Watched.most = max(Watched.most, len(there))
            yield serving


async def complete(supervisor: Supervisor[LlamaEngine]) -> None:
    """Run one job on the engine."""
    parameters = CompletionParameters(prompt="One, two,", max_tokens=4)
    async with supervisor.ensure() as engine:
        events = [event async for batch in events_of(engine.generate(parameters)) for event in batch]
        assert isinstance(events[-1], Done)


async def test_two_busy_engines_take_turns(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("velesio_worker.engines.supervision.decisions.TURN_SECONDS", TURN_SECONDS)
    assert turns_module.TURN_SECONDS > TURN_SECONDS
    turns = GpuTurns()
    pair: list[Supervisor[LlamaEngine]] = []
    for _ in range(2):
        fields = {"model_path": model_path, "llama_port": free_port(), "context_size": 256, "llm_concurrency": 1}
        launcher = Watched(Settings.model_validate(fields), Gpus("0"))
        pair.append(Supervisor(launcher, Patience(120), turns=turns, eager=False))
    ended = [0, 0]

    async def work(number: int) -> None:
        until = time.monotonic() + 300
        while min(ended) < 2:
            assert time.monotonic() < until, ended
            await complete(pair[number])
            ended[number] += 1

    async with anyio.create_task_group() as group:
        for supervisor in pair:
            group.start_soon(supervisor.run)
        async with anyio.create_task_group() as busy:
            busy.start_soon(work, 0)
            busy.start_soon(work, 1)
        group.cancel_scope.cancel()
    assert Watched.most == 1
    assert {supervisor.state for supervisor in pair} == {EngineState.STOPPED}
