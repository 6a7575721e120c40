"""A model whose file says that it makes embeddings, or ranks documents, is served for that without being told."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tests.support.model_files import with_pooling
from tests.support.processes import MakeWorker
from tests.support.streams import push, read, result

pytestmark = pytest.mark.engine

MEAN, RANK = 1, 4


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


def test_embeddings_and_ranks_come_from_models_made_for_them(
    plain: Any, make_worker: MakeWorker, model_path: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "chat.gguf").symlink_to(model_path)
    with_pooling(model_path, folder / "embeds.gguf", MEAN)
    with_pooling(model_path, folder / "ranks.gguf", RANK)
    worker = make_worker(MODEL_PATH=str(folder / "chat.gguf"), LLM_CONCURRENCY="3")
    worker.wait_for("worker_ready")

    push(plain, "plain", job_type="embedding", input="hello")
    error = read(plain, "plain", until="error")[-1][2]
    assert error["code"] == "bad_job"
    assert "data.model" in error["error"]

    texts = ["The cat sleeps.", "The cat is asleep.", "Taxes rise in spring " * 60]
    push(plain, "vectors", job_type="embedding", input=texts, model="embeds")
    read(plain, "vectors", until="done")
    answer = result(plain, "vectors")
    assert answer["model"] == "embeds"
    vectors = [one["embedding"] for one in answer["data"]]
    assert cosine(vectors[0], vectors[1]) > cosine(vectors[0], vectors[2])

    push(plain, "ranks", job_type="rerank", query="cats", documents=["cats sleep", "taxes rise"], model="ranks.gguf")
    read(plain, "ranks", until="done")
    assert {one["index"] for one in result(plain, "ranks")["results"]} == {0, 1}

    push(plain, "again", max_tokens=4, stream=True)
    got = read(plain, "again", until="done")
    assert got[0][2]["model"] == "chat"
