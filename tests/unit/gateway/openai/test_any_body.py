"""Whatever JSON comes as a body becomes jobs that can be written, or an error that says what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from velesio_worker.gateway.errors import ApiError, invalid
from velesio_worker.gateway.openai.chat import ChatBody
from velesio_worker.gateway.openai.completions import CompletionBody
from velesio_worker.gateway.openai.embeddings import EmbeddingBody
from velesio_worker.gateway.openai.images import ImageBody
from velesio_worker.gateway.openai.rerank import RerankBody
from velesio_worker.gateway.openai.routes import OPERATIONS

JOBS: dict[type[BaseModel], tuple[dict[str, Any], Callable[[Any], Any]]] = {
    ChatBody: (
        {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]},
        lambda body: body.parts("tiny"),
    ),
    CompletionBody: ({"model": "tiny", "prompt": "hi"}, lambda body: body.parts("tiny")),
    EmbeddingBody: ({"model": "tiny", "input": "hi"}, lambda body: [body.part("tiny")]),
    RerankBody: ({"query": "hi", "documents": ["a"]}, lambda body: [body.part("tiny")]),
    ImageBody: ({"prompt": "hi"}, lambda body: body.parts("sd")),
}

scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text()
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)


@pytest.mark.parametrize("model", JOBS)
@given(data=st.data())
def test_any_body_becomes_jobs_or_an_error(model: type[BaseModel], data: st.DataObject) -> None:
    right, jobs = JOBS[model]
    names = st.sampled_from([*model.model_fields, "top_k", "grammar", "unheard_of"])
    body = orjson.loads(orjson.dumps(right | data.draw(st.dictionaries(names, anything, max_size=3))))
    found = _outcome(model, jobs, body)
    if isinstance(found, ApiError):
        assert (found.status, bool(found.message)) == (400, True)
        assert found.param is None or found.param.split(".")[0] in {*body, *model.model_fields}
    else:
        assert found
        for _, parameters in found:
            assert orjson.loads(orjson.dumps(parameters))["defaults"] == "engine"


def _outcome(model: type[BaseModel], jobs: Callable[[Any], Any], body: Any) -> Any:
    try:
        return jobs(model.model_validate(body))
    except ValidationError as error:
        return invalid(error)
    except ApiError as error:
        return error


def test_each_body_of_the_routes_is_looked_at_here_and_has_a_schema() -> None:
    models = {operation.model for operation in OPERATIONS if operation.model is not None}
    assert models == set(JOBS)
    for model in models:
        schema = model.model_json_schema()
        assert set(schema["required"]) == {name for name, field in model.model_fields.items() if field.is_required()}
