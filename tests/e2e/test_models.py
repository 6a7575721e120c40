"""Looking after models: list, load, exchange, unload, ask; on real engines, and while there is none."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.model_files import TINY_PARAMETERS, TINY_WORDS
from tests.support.places import SETTINGS, Place, wait_for
from tests.support.processes import MakeWorker, WorkerProcess, wait_until_gone
from tests.support.servers import RedisServer, free_port
from tests.support.streams import entries
from tests.support.streams import result as result_of
from tests.support.tiny import model_path

__all__ = ["model_path"]  # a fixture

pytestmark = pytest.mark.engine


class ModelPlace(Place):
    """The same, with an eye on which model is loaded."""

    folder: Path

    def text_on(self, model: str | None = None) -> str:
        """Run a text job; returns on which model its stream says that it ran."""
        data = {"prompt": "One, two,", "max_tokens": 2} | ({"model": model} if model else {})
        _, found = self.run("completion", data)
        assert found[-1][1] == "done", found
        return [entry for _, event, entry in found if event == "start"][-1]["model"]

    def loaded(self) -> list[str]:
        """The files of the models that are loaded."""
        return [model["filename"] for model in self.result("list_models")["models"] if model["loaded"]]

    def starts(self) -> int:
        """How often an engine has become ready."""
        return sum(line.get("action") == "engine_ready" for line in self.worker.lines())


def make_models(folder: Path, model: Path) -> None:
    """Put the small model there under three names, and what is no model."""
    (folder / "more").mkdir(parents=True)
    for name in ("red.gguf", "blue.gguf", "more/green.gguf"):
        try:
            os.link(model, folder / name)
        except OSError:
            shutil.copy(model, folder / name)
    (folder / "mmproj-red.gguf").write_bytes(b"a projector")
    (folder / ".hidden.gguf").write_bytes(b"hidden")
    (folder / "notes.txt").write_text("no model")
    (folder / "broken.gguf").write_bytes(b"no model either")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> Iterator[ModelPlace]:
    folder = tmp_path_factory.mktemp("models")
    make_models(folder / "text", model_path)
    with RedisServer(folder / "redis") as server, server.plain() as redis:
        worker = WorkerProcess(
            folder / "worker.log", REDIS_URL=server.url, MODEL_PATH=str(folder / "text" / "red.gguf"), **SETTINGS
        )
        try:
            worker.start()
            worker.wait_for("worker_ready")
            place = ModelPlace(redis, worker)
            place.folder = folder / "text"
            yield place
        finally:
            worker.end()


@pytest.fixture
def place(shared: ModelPlace) -> ModelPlace:
    """A worker with its own model loaded and nothing else asked for, whatever the test before did."""
    if shared.loaded() != ["red.gguf"] or shared.result("health_check")["engines"]["text"]["default_model"] != "red":
        assert shared.result("load_model", {"model": "red"}) == {"success": True, "model": "red"}
    return shared


def test_the_models_are_listed_with_what_tells_them_apart(place: ModelPlace) -> None:
    models = {model["filename"]: model for model in place.result("list_models")["models"]}
    assert list(models) == ["blue.gguf", "broken.gguf", "more/green.gguf", "red.gguf"]
    assert [model["name"] for model in models.values()] == ["blue", "broken", "green", "red"]
    assert [name for name, model in models.items() if model["loaded"]] == ["red.gguf"]
    assert all(len(model["hash"]) == 10 and int(model["hash"], 16) >= 0 for model in models.values())
    assert models["red.gguf"]["hash"] == models["blue.gguf"]["hash"] != models["broken.gguf"]["hash"]
    assert models["red.gguf"]["parameters"] == TINY_PARAMETERS
    assert "error" in models["broken.gguf"]


def test_the_models_that_jobs_may_name_are_told_without_a_job(place: ModelPlace, model_path: Path) -> None:
    (worker,) = place.redis.zrange("{llama_queue}:workers", 0, -1)

    def told() -> tuple[list[str], str, str, str]:
        facts = place.redis.hgetall(f"{{llama_queue}}:worker:{worker}")
        return (
            json.loads(facts["text_models"]),
            *(facts[f"text_{name}"] for name in ("default", "context", "exchanges")),
        )

    wait_for(lambda: told() == (["red", "blue", "green"], "red", "512", "1"), told)
    for name in told()[0]:
        assert place.text_on(name) == name
    assert place.result("load_model", {"model": "green"})["success"]
    wait_for(lambda: told() == (["green", "blue", "red"], "green", "512", "1"), told)
    extra = place.folder / "zebra.gguf"
    shutil.copy(model_path, extra)
    try:
        place.result("list_models")
        wait_for(lambda: told()[0] == ["green", "blue", "red", "zebra"], told, limit=10)
    finally:
        extra.unlink()


def test_the_loaded_model_is_described(place: ModelPlace) -> None:
    info = place.result("model_info")
    assert (info["name"], info["context_length"], info["vocab_size"]) == ("red", 512, TINY_WORDS)
    assert (info["total_params"], info["loaded"], info["slots"]) == (TINY_PARAMETERS, True, 2)
    assert (info["training_context_length"], info["embedding_length"], info["chat_template"]) == (2048 * 4, 576, True)


def test_a_model_that_is_loaded_is_the_one_for_all_jobs_that_name_none(place: ModelPlace) -> None:
    assert place.result("load_model", {"model": "more/green.gguf"}) == {"success": True, "model": "green"}
    assert place.loaded() == ["more/green.gguf"]
    assert place.text_on() == "green"
    assert place.result("model_info")["name"] == "green"
    starts = place.starts()
    assert place.result("load_model", {"model": "green"}) == {"success": True, "model": "green"}
    assert place.starts() == starts, "it was loaded already"


def test_a_job_that_waits_for_its_model_says_so(place: ModelPlace) -> None:
    _, found = place.run("load_model", {"model": "blue"})
    assert [event for _, event, _ in found][:2] == ["start", "progress"]
    waits = [data for _, event, data in found if event == "progress"]
    assert all(data["stage"] == "loading" and data["total"] is None for data in waits)
    assert {"starting", "stopping"} & {data["state"] for data in waits}


@pytest.mark.parametrize(
    "model",
    [
        "../text/red.gguf",
        "/etc/passwd",
        "more/../red.gguf",
        "..",
        "purple",
        "notes.txt",
        "mmproj-red",
        ".hidden",
        "\x00",
    ],
)
@pytest.mark.parametrize("type_", ["load_model", "completion"])
def test_nothing_outside_the_folder_can_be_named(place: ModelPlace, type_: str, model: str) -> None:
    starts = place.starts()
    code, message = place.error(type_, {"model": model} | ({"prompt": "hi"} if type_ == "completion" else {}))
    assert (code, message.startswith("data.model: ")) == ("bad_job", True), message
    assert place.loaded() == ["red.gguf"]
    assert place.starts() == starts


def test_a_file_that_is_no_model_is_told_and_costs_the_others_nothing(place: ModelPlace) -> None:
    code, message = place.error("load_model", {"model": "broken"})
    assert code == "engine_unavailable"
    assert "broken" in message
    assert place.text_on() == "red"
    assert place.result("health_check")["engines"]["text"]["default_model"] == "red"


def test_a_job_runs_on_the_model_that_it_names(place: ModelPlace) -> None:
    starts = place.starts()
    for _ in range(3):
        assert place.text_on("blue") == "blue"
        assert place.loaded() == ["blue.gguf"]
    assert place.starts() == starts + 1, "the same model is not loaded again"
    assert place.result("model_info")["name"] == "blue"
    assert place.text_on() == "red", "another job's wish is not everybody's"
    assert place.starts() == starts + 2


@pytest.mark.parametrize("name", ["blue", "blue.gguf", "./blue.gguf"])
def test_a_model_has_several_names(place: ModelPlace, name: str) -> None:
    assert place.result("load_model", {"model": name}) == {"success": True, "model": "blue"}
    assert place.loaded() == ["blue.gguf"]


def test_an_unloaded_model_frees_its_memory_until_the_next_job(place: ModelPlace) -> None:
    assert place.result("load_model", {"model": "blue"})["success"]
    engine = place.worker.engine()
    assert place.result("unload_models") == {"success": True}
    wait_until_gone(engine)
    assert place.loaded() == []
    health = place.result("health_check")
    assert (health["llm_worker"], health["models_loaded"]) == ("stopped", {"llm": None, "sd": None})
    info = place.result("model_info")
    assert (info["loaded"], info["context_length"], info["vocab_size"]) == (False, 512, TINY_WORDS)
    assert info["total_params"] == TINY_PARAMETERS
    assert info["name"] == "blue", "that which the next job gets"
    assert not psutil.Process(place.worker.pid).children(), "to ask has started nothing"
    assert place.result("unload_models") == {"success": True}
    assert place.text_on() == "blue"


def test_a_job_that_runs_is_waited_for_before_its_model_goes(place: ModelPlace) -> None:
    for wish, data in (("unload_models", None), ("load_model", {"model": "blue"})):
        job = {"prompt": "One, two,", "max_tokens": 450, "stream": True, "logit_bias": [[0, False], [2, False]]}
        long = place.push("completion", job)
        wait_for(lambda long=long: any(event == "token" for _, event, _ in entries(place.redis, long)), "a token")
        assert place.result(wish, data)["success"]
        wait_for(
            lambda long=long: place.redis.exists(f"result:{long}"), "its result, which follows the end of its work"
        )
        found = entries(place.redis, long)
        assert [data["mode"] for _, event, data in found if event == "start"] == ["fresh"]
        wait_for(lambda long=long: place.redis.exists(f"result:{long}"), "its result")  # stored once its lease is over
        assert result_of(place.redis, long)["usage"]["completion_tokens"] == 450


def test_a_worker_says_how_it_is(place: ModelPlace) -> None:
    before = time.time()
    health = place.result("health_check", kind=None)
    assert before - 1 < health["timestamp"] < time.time() + 1
    assert health["worker"] in place.worker.wait_for("worker_up")["message"]
    assert (health["llm_worker"], health["sd_worker"]) == ("ready", None)
    assert health["models_loaded"] == {"llm": "red", "sd": None}
    if health["gpu_available"]:
        assert set(health["gpu_memory"]) == {"total", "used", "free"}
    else:
        assert health["gpu_memory"] is None
    text = health["engines"]["text"]
    assert (text["state"], text["slots"], text["running"], text["waiting"]) == ("ready", 2, 0, 0)
    assert text["last_error"] is None


def test_a_management_job_can_name_its_worker(place: ModelPlace) -> None:
    worker = place.result("health_check")["worker"]
    assert place.result("health_check", worker=worker)["worker"] == worker
    assert place.result("load_model", {"model": "blue"}, worker=worker)["model"] == "blue"
    assert place.error("health_check", worker="nobody")[0] == "no_worker"


def test_image_models_are_left_to_workers_that_have_them(place: ModelPlace) -> None:
    assert place.result("switch_model", {"model": "blue", "kind": "text"}) == {"success": True, "model": "blue"}
    place.push("switch_model", {"model": "blue"})
    place.push("unload_models", {"kind": "image"})
    wait_for(
        lambda: place.redis.llen("{llama_queue}:manage-image") == 2, "both jobs wait for a worker with image models"
    )
    assert place.loaded() == ["blue.gguf"]
    place.redis.delete("{llama_queue}:manage-image")


def test_a_worker_without_its_model_stays_up_says_why_and_works_once_it_is_there(
    plain: Any, make_worker: MakeWorker, model_path: Path, tmp_path: Path
) -> None:
    model = tmp_path / "text" / "late.gguf"
    worker = make_worker(MODEL_PATH=str(model))
    place = ModelPlace(plain, worker)
    worker.wait_for("engine_failed")
    code, message = place.error("completion", {"prompt": "hi"})
    assert code == "engine_unavailable"
    assert "late.gguf does not exist" in message
    assert str(model.parent) not in message
    health = place.result("health_check")
    assert (health["llm_worker"], health["models_loaded"]["llm"]) == ("failed", None)
    assert "late.gguf does not exist" in health["engines"]["text"]["last_error"]
    assert str(model.parent) not in json.dumps(health)
    assert place.result("list_models") == {"models": []}
    code, message = place.error("model_info")
    assert (code, "late.gguf" in message, str(model) in message) == ("no_capacity", True, False)
    assert place.error("load_model", {"model": "late"})[0] in {"engine_unavailable", "bad_job"}
    assert worker.process is not None
    assert worker.process.poll() is None
    model.parent.mkdir()
    model.symlink_to(model_path)
    worker.wait_for("worker_ready")
    assert place.text_on() == "late"
    assert place.result("health_check")["llm_worker"] == "ready"
    assert place.loaded() == ["late.gguf"]


def test_a_server_elsewhere_keeps_its_model(plain: Any, make_worker: MakeWorker, shared: ModelPlace) -> None:
    url = f"http://127.0.0.1:{shared.worker.environment['LLAMA_PORT']}"
    shared.result("load_model", {"model": "red"})
    worker = make_worker(LLAMA_SERVER_URL=url)
    worker.wait_for("worker_ready")
    place = ModelPlace(plain, worker)
    assert place.result("model_info")["name"] == "red"
    listed = [{"name": "red", "filename": None, "hash": None, "loaded": True}]
    assert place.result("list_models") == {"models": listed}
    assert place.text_on("red") == "red"
    for type_, data in (("load_model", {"model": "blue"}), ("unload_models", {})):
        code, message = place.error(type_, data)
        assert code == "no_capacity", message
    code, message = place.error("completion", {"prompt": "hi", "model": "blue"})
    assert (code, "LLAMA_SERVER_URL" in message) == ("no_capacity", True)


def test_what_is_not_known_of_a_server_that_is_not_there_is_said_and_not_waited_for(
    plain: Any, make_worker: MakeWorker
) -> None:
    worker = make_worker(LLAMA_SERVER_URL=f"http://127.0.0.1:{free_port()}")
    worker.wait_for("engine_absent")
    place = ModelPlace(plain, worker)
    assert place.error("model_info")[0] == "no_capacity"
    assert place.result("list_models") == {"models": []}
    assert place.result("health_check")["llm_worker"] == "starting"
