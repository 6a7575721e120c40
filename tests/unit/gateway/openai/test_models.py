from __future__ import annotations

import pytest

from tests.support.scripted_worker import fleet_of
from velesio_worker.gateway.chosen import chosen
from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.jobs import Model
from velesio_worker.gateway.openai.models import model_entry, model_list

FLEET = fleet_of((Model("tiny", "text", default=True, context=512), Model("a/b", "text"), Model("sd", "image")))
EMPTY = fleet_of(())


@pytest.mark.parametrize(
    ("asked", "kind", "named"),
    [("tiny", "text", "tiny"), ("tiny.gguf", "text", "tiny"), ("a/b", "text", "a/b"), ("sd", "image", "sd")],
)
def test_a_model_is_found_by_its_name_with_its_file_s_ending_or_without(asked: str, kind: str, named: str) -> None:
    assert chosen(FLEET, asked, kind) == named


@pytest.mark.parametrize(("asked", "kind"), [("gpt-4o", "text"), ("sd", "text"), ("tiny", "image")])
def test_a_model_that_there_is_not_is_told_with_those_there_are(asked: str, kind: str) -> None:
    with pytest.raises(ApiError) as caught:
        chosen(FLEET, asked, kind)
    error = caught.value
    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
    assert asked in error.message
    assert ("tiny, a/b" if kind == "text" else "there are: sd.") in error.message


def test_of_very_many_models_not_all_are_named() -> None:
    fleet = fleet_of([Model(f"m{number}", "text") for number in range(500)])
    with pytest.raises(ApiError) as caught:
        chosen(fleet, "x" * 5000, "text")
    assert "m19 and 480 more" in caught.value.message
    assert len(caught.value.message) < 400


def test_where_no_model_is_known_the_worker_decides() -> None:
    assert chosen(EMPTY, "tiny", "text") == "tiny"


def test_models_are_listed_as_clients_read_them() -> None:
    listed = model_list(FLEET)
    assert listed["object"] == "list"
    assert [(one["id"], one["object"]) for one in listed["data"]] == [
        ("tiny", "model"),
        ("a/b", "model"),
        ("sd", "model"),
    ]
    assert all(isinstance(one["created"], int) and one["owned_by"] for one in listed["data"])
    assert listed["data"][0]["context_length"] == 512
    assert "context_length" not in listed["data"][1]


def test_one_model_is_described_by_its_name_alone() -> None:
    assert model_entry(FLEET, "a/b")["id"] == "a/b"
    with pytest.raises(ApiError) as caught:
        model_entry(EMPTY, "b")
    assert (caught.value.status, "none at present" in caught.value.message) == (404, True)
