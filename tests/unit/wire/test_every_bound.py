"""Whatever a job may hold has a bound: each text, list, object and number of each model, however deep."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from annotated_types import Ge, Gt, Le, Lt, MaxLen
from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo

from velesio_worker.wire.bounded import Within
from velesio_worker.wire.jobs import Envelope, JobType
from velesio_worker.wire.parameters import REFUSED, Fields


def models() -> Iterator[type[BaseModel]]:
    """The envelope and the parameters of each type."""
    yield Envelope
    yield from dict.fromkeys(type_.parameters for type_ in JobType)


def flat(marks: Any) -> list[Any]:
    """The marks, with those that a Field bundles."""
    found: list[Any] = []
    for mark in marks:
        found += flat(mark.metadata) if isinstance(mark, FieldInfo) else [mark]
    return found


def unbounded(annotation: Any, marks: list[Any]) -> Iterator[str]:
    """What of an annotation has no bound."""
    if any(isinstance(mark, AfterValidator) and isinstance(mark.func, Within) for mark in marks):
        return
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from unbounded(inner[0], [*flat(inner[1:]), *marks])
    elif origin in {Union, types.UnionType}:
        for one in inner:
            yield from unbounded(one, marks)
    elif origin in {list, dict} or annotation in {str, dict, list}:
        yield from lacking(annotation, marks, MaxLen)
        for one in inner:
            yield from unbounded(one, [])
    elif annotation in {int, float}:
        yield from lacking(annotation, marks, Ge | Gt, Le | Lt)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from of_model(annotation)
    elif annotation not in {bool, type(None)} and origin is not Literal:
        yield f"{annotation} without a bound"


def lacking(annotation: Any, marks: list[Any], *wanted: Any) -> Iterator[str]:
    """Say so if a mark of a kind that is wanted is missing."""
    if not all(any(isinstance(mark, kind) for mark in marks) for kind in wanted):
        yield f"{annotation} without a bound"


def of_model(model: type[BaseModel]) -> Iterator[str]:
    """What of a model has no bound, with its field."""
    for name, field in model.model_fields.items():
        if REFUSED not in field.metadata:
            for lack in unbounded(field.annotation, flat(field.metadata)):
                yield f"{model.__name__}.{name}: {lack}"


def test_every_field_of_every_model_has_a_bound() -> None:
    assert [lack for model in models() for lack in of_model(model)] == []


class Inner(Fields):
    text: str


class Loose(Fields):
    text: str | None
    texts: Annotated[list[str], AfterValidator(Within(3))]
    names: list[Annotated[str, MaxLen(3)]]
    number: Annotated[int, Ge(0)]
    anything: Any
    inner: list[Inner]


def test_what_has_no_bound_would_be_seen() -> None:
    assert [lack.split(":")[0] for lack in of_model(Loose)] == [
        "Loose.text", "Loose.names", "Loose.number", "Loose.anything", "Loose.inner", "Loose.inner",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([0] * 11, "more than 10 values"),
        ([[0] * 5, {"a": [0] * 4}], "more than 10 values"),
        ("x" * 101, "more than 100 characters"),
        ({"x" * 60: "x" * 41}, "more than 100 characters"),
    ],
)
def test_a_value_of_any_form_is_held_to_its_bound(value: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Within(10, 100)(value)


@pytest.mark.parametrize("value", [[0] * 10, "x" * 100, {"x" * 60: ["x" * 40]}, None, 7])
def test_a_value_within_its_bound_is_taken_as_it_is(value: Any) -> None:
    assert Within(10, 100)(value) is value
