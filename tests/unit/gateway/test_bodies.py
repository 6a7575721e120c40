"""Bodies that are wrong throughout are told their first mistake, and cost no more than they are."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from tests.support.tables import table
from velesio_worker.gateway.app import operations
from velesio_worker.gateway.bodies import body_of
from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.native import Submission
from velesio_worker.wire.limits import MOST_VALUES

MODELS = sorted({one.model for one in operations() if one.model is not None}, key=lambda model: model.__qualname__)
FIELDS = [(model, name) for model in MODELS for name in model.model_fields]


def mistakes(model: type[BaseModel], body: dict[str, Any]) -> int:
    try:
        model.model_validate(body)
    except ValidationError as error:
        return error.error_count()
    return 0


@table(("model", "name"), FIELDS)
def test_a_thousand_mistakes_in_a_field_are_told_as_few(model: type[BaseModel], name: str) -> None:
    missing = mistakes(model, {})
    wrongs: list[Any] = [[object()] * 1000, {str(number): object() for number in range(1000)}, [{}] * 1000]
    for wrong in wrongs:
        assert mistakes(model, {name: wrong}) <= missing + 8


@pytest.mark.anyio
@pytest.mark.parametrize("value", [b"[]", b"{}", b"0"])
async def test_a_body_of_more_values_than_any_job_may_have_is_refused_unread(value: bytes) -> None:
    body = b'{"type": "completion", "data": {"prompt": [' + (value + b",") * MOST_VALUES + b"0"  # it is no JSON

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    with pytest.raises(ApiError) as caught:
        await body_of(Request({"type": "http", "method": "POST", "path": "/", "headers": []}, receive), Submission)
    assert (caught.value.status, caught.value.code) == (413, "too_large")
