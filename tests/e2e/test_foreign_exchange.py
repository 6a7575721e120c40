"""A llama-server that runs elsewhere and is exchanged for another: no job gets an answer of the model before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.llama_elsewhere import Elsewhere
from tests.support.places import Place, wait_for
from tests.support.processes import MakeWorker
from tests.support.tiny import model_path

__all__ = ["model_path"]  # a fixture

pytestmark = pytest.mark.engine

QUESTION: Final = {"prompt": "The capital of France is", "max_tokens": 5, "temperature": 0}


@pytest.fixture
def elsewhere(tmp_path: Path, model_path: Path) -> Iterator[Elsewhere]:
    made = Elsewhere(tmp_path, model_path)
    yield made
    made.end()


@pytest.fixture
def place(elsewhere: Elsewhere, make_worker: MakeWorker, plain: Any) -> Place:
    """A worker on a server with the model ``alpha``: two slots of 1024 tokens."""
    elsewhere.serve("alpha", context=2048, slots=2)
    worker = make_worker(LLAMA_SERVER_URL=elsewhere.url, PROBE_SECONDS="0", CONTEXT_SIZE="512")
    worker.wait_for("worker_ready")
    return Place(plain, worker)


def started_on(place: Place, type_: str, data: dict[str, Any]) -> tuple[str, bool]:
    """Run a job; returns the model that its only ``start`` names, and whether its answer is from the cache."""
    result, found = place.run(type_, data)
    assert found[-1][1] == "done", result
    (start,) = [entry for _, event, entry in found if event == "start"]
    return start["model"], result.get("cached", False)


def test_a_server_exchanged_while_nobody_asks_is_noticed_before_the_next_job(
    place: Place, elsewhere: Elsewhere
) -> None:
    assert started_on(place, "completion", QUESTION) == ("alpha", False)
    wait_for(lambda: place.redis.keys("prompt_cache:*"), "the answer is in the cache")
    assert started_on(place, "completion", QUESTION) == ("alpha", True)
    elsewhere.serve("beta", context=512, slots=1)
    assert started_on(place, "completion", QUESTION) == ("beta", False)
    info = place.result("model_info")
    assert (info["name"], info["slots"], info["context_length"]) == ("beta", 1, 512)
    assert [model["name"] for model in place.result("list_models")["models"]] == ["beta"]
    assert place.result("health_check")["models_loaded"]["llm"] == "beta"
    code, message = place.error("completion", {"prompt": "word " * 600})
    assert (code, "a job's context has 512" in message) == ("context_exceeded", True), message
    code, message = place.error("completion", QUESTION | {"model": "alpha"})
    assert (code, "it has beta" in message) == ("no_capacity", True), message
    elsewhere.serve("alpha", context=2048, slots=2)
    assert started_on(place, "completion", QUESTION) == ("alpha", True), "its own answer is still right"


def test_model_info_and_list_models_ask_the_server_that_is_there(place: Place, elsewhere: Elsewhere) -> None:
    for name, context, slots in (("beta", 512, 1), ("alpha", 2048, 2)):
        elsewhere.serve(name, context=context, slots=slots)
        wait_for(lambda: place.run("model_info")[1][-1][1] == "done", "it is not waited for, so it may be met first")
        info = place.result("model_info")
        assert (info["name"], info["slots"], info["context_length"]) == (name, slots, context // slots)
        assert [model["name"] for model in place.result("list_models")["models"]] == [name]


def test_the_same_model_in_another_manner_gets_no_answers_of_the_one_before(place: Place, elsewhere: Elsewhere) -> None:
    data = {"prompt": "x", "max_tokens": 4, "seed": 1, "defaults": "engine"}
    assert started_on(place, "completion", data) == ("alpha", False)
    wait_for(lambda: place.redis.keys("prompt_cache:*"), "the answer is in the cache")
    elsewhere.serve("alpha", "--temp", "0.1", context=2048, slots=2)
    assert started_on(place, "completion", data) == ("alpha", False)


def test_a_server_that_was_only_started_again_keeps_its_answers(place: Place, elsewhere: Elsewhere) -> None:
    assert started_on(place, "completion", QUESTION) == ("alpha", False)
    wait_for(lambda: place.redis.keys("prompt_cache:*"), "the answer is in the cache")
    elsewhere.serve("alpha", context=2048, slots=2)
    assert started_on(place, "completion", QUESTION) == ("alpha", True)


def test_an_idle_worker_says_by_itself_that_another_model_is_there(place: Place, elsewhere: Elsewhere) -> None:
    (name,) = place.redis.zrange("{llama_queue}:workers", 0, -1)
    elsewhere.serve("beta", context=512, slots=1)

    def told() -> bool:
        facts = place.redis.hgetall("{llama_queue}:worker:" + name)
        return (facts["text_model"], facts["text_slots"]) == ("beta", "1")

    wait_for(told, "the worker's hash names the other model", limit=20)


def test_no_answer_is_from_the_cache_while_the_server_is_away(place: Place, elsewhere: Elsewhere) -> None:
    assert started_on(place, "completion", QUESTION) == ("alpha", False)
    wait_for(lambda: place.redis.keys("prompt_cache:*"), "the answer is in the cache")
    elsewhere.end()
    job_id = place.push("completion", QUESTION)
    elsewhere.serve("beta", context=512, slots=1)
    result, found = place.follow(job_id)
    starts = [entry["model"] for _, event, entry in found if event == "start"]
    assert (starts[-1], result.get("cached"), found[-1][1]) == ("beta", None, "done")
