"""What a text engine offers: the models of its folder, or the one that a server elsewhere has."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from tests.doubles.engine import LOADING, EngineDouble, document, healthy
from tests.doubles.launcher import PATIENT
from tests.support.gguf_files import gguf
from tests.support.waiting import until
from velesio_worker.core.settings import Settings
from velesio_worker.engines.base import EngineState
from velesio_worker.engines.gpu import Gpus
from velesio_worker.engines.llama.engine import LlamaEngine
from velesio_worker.engines.llama.launch import LlamaLauncher
from velesio_worker.engines.models.folder import ModelFolder
from velesio_worker.engines.supervision.supervisor import Supervisor
from velesio_worker.execution import management
from velesio_worker.execution.gate import EngineGate
from velesio_worker.execution.management import TextModels
from velesio_worker.queue.fleet import Fleet
from velesio_worker.wire.jobs import Kind

pytestmark = pytest.mark.anyio


def models_of(on_change: Callable[[], None] = lambda: None, **values: Any) -> TextModels:
    launcher = LlamaLauncher(Settings.model_validate(values), Gpus("0"))
    nobody = cast("Fleet", None)  # no gate is tended here
    supervise = partial(Supervisor[LlamaEngine], launcher, PATIENT)
    return TextModels(EngineGate(Kind.TEXT, supervise, nobody, on_change), launcher, on_change)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("red", "blue"):
        (tmp_path / f"{name}.gguf").write_bytes(gguf())
    (tmp_path / "broken.gguf").write_bytes(b"no model")
    return tmp_path


def offered(models: TextModels) -> tuple[Any, ...]:
    facts = models.facts()
    return tuple(facts[f"text_{name}"] for name in ("models", "models_more", "default", "exchanges", "context"))


async def test_the_models_of_the_folder_are_offered_the_default_one_first(folder: Path) -> None:
    models = models_of(model_path=folder / "red.gguf")
    assert offered(models) == ('["red"]', 0, "red", 1, ""), "before the folder was looked at"
    await models.look_for_models()
    assert offered(models) == ('["red","blue"]', 0, "red", 1, "")


async def test_a_default_model_that_is_not_there_yet_is_offered_all_the_same(folder: Path) -> None:
    models = models_of(model_path=folder / "green.gguf")
    await models.look_for_models()
    assert offered(models)[0] == '["green","blue","red"]'


async def test_a_model_that_is_put_into_the_folder_or_taken_away_is_told_soon(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(management, "_LOOK_SECONDS", 0.01)
    told: list[Any] = []
    models = models_of(lambda: told.append(offered(models)[0]), model_path=folder / "red.gguf")
    async with anyio.create_task_group() as group:
        group.start_soon(models.watch)
        await until(lambda: told)
        (folder / "green.gguf").write_bytes(gguf())
        await until(lambda: len(told) == 2)
        (folder / "blue.gguf").unlink()
        await until(lambda: len(told) == 3)
        group.cancel_scope.cancel()
    assert told == ['["red","blue"]', '["red","blue","green"]', '["red","green"]']


async def test_a_folder_that_cannot_be_read_costs_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = models_of(model_path=folder / "red.gguf")
    await models.look_for_models()

    def circle(*_: object) -> None:
        raise RuntimeError("Symlink loop")

    monkeypatch.setattr(ModelFolder, "names", circle)
    await models.look_for_models()
    assert offered(models)[0] == '["red","blue"]', "what was there last"


async def test_a_server_elsewhere_offers_its_own_model_alone(folder: Path) -> None:
    async with EngineDouble(healthy()).serving() as double:
        models = models_of(llama_server_url=double.url, model_path=folder / "red.gguf")
        assert offered(models) == ("[]", 0, "", 0, "")
        async with anyio.create_task_group() as group:
            group.start_soon(models.watch)
            group.start_soon(models.supervisor.run)
            await until(lambda: models.supervisor.state is EngineState.READY)
            serving = models.supervisor.serving
            assert serving is not None
            name, context = serving.engine.model, serving.engine.properties.context_length
            found = offered(models)
            assert found == (f'["{name}"]', 0, name, 0, context)
            double.answers["/health"] = [document(LOADING, 503)]
            serving.report()
            await until(lambda: models.supervisor.serving is None)
            assert offered(models) == found, "it may come back"
            group.cancel_scope.cancel()
