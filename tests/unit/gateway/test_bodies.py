"""Bodies that are wrong throughout are told their first mistake, and cost no more than they are."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from velesio_worker.gateway.app import operations

MODELS = sorted({one.model for one in operations() if one.model is not None}, key=lambda model: model.__qualname__)
FIELDS = [(model, name) for model in MODELS for name in model.model_fields]


def mistakes(model: type[BaseModel], body: dict[str, Any]) -> int:
    try:
        model.model_validate(body)
    except ValidationError as error:
        return error.error_count()
    return 0


@pytest.mark.parametrize(("model", "name"), FIELDS, ids=lambda part: getattr(part, "__name__", part))
def test_a_thousand_mistakes_in_a_field_are_told_as_few(model: type[BaseModel], name: str) -> None:
    missing = mistakes(model, {})
    wrongs: list[Any] = [[object()] * 1000, {str(number): object() for number in range(1000)}, [{}] * 1000]
    for wrong in wrongs:
        assert mistakes(model, {name: wrong}) <= missing + 8
