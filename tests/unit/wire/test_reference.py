"""The reference of the protocol and the code say the same of jobs: their types, their parameters, their defaults."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, Final

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tests.support.tables import table
from velesio_worker.wire.chat_parameters import ChatCompletionParameters
from velesio_worker.wire.image_parameters import Img2ImgParameters, Txt2ImgParameters
from velesio_worker.wire.jobs import Envelope, JobType
from velesio_worker.wire.parameters import REFUSED, AnswerParameters, Fields
from velesio_worker.wire.text_parameters import CompletionParameters, InfillParameters

PAGE: Final = (Path(__file__).parents[3] / "docs/reference/protocol.md").read_text("utf-8")
NAME: Final = re.compile(r"`([a-z][a-z0-9_]*)`")
ASIDE: Final = re.compile(r"\([^()]*\)")
TYPES: Final = {type_.value for type_ in JobType}
TEXT: Final[Mapping[str, type[Fields]]] = {
    "completion": CompletionParameters,
    "chat_completion": ChatCompletionParameters,
    "infill": InfillParameters,
}
ANSWERS: Final = {type_.value: type_.parameters for type_ in JobType if issubclass(type_.parameters, AnswerParameters)}


def section(title: str) -> str:
    """The text of a section."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## )", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None, title
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The rows of the tables in a text, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("|---")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row in cells if "`" in row[0]]


def names(text: str) -> set[str]:
    """The names in a text."""
    return set(NAME.findall(text))


def paragraph(beginning: str) -> str:
    """The paragraph of the parameters that begins so."""
    (found,) = [part for part in section("Parameters").split("\n\n") if part.startswith(beginning)]
    return found


def also(type_: str) -> set[str]:
    """The names that are said of one type alone."""
    return names(ASIDE.sub("", paragraph(f"**{type_}** also takes")).split(". ")[0].split("They go")[0])


def no_effect() -> set[str]:
    """The names of what changes nothing."""
    return names(paragraph("These are taken and change nothing").split(". What")[0])


TEXT_ROWS: Final = [row for row in rows(section("Parameters")) if row[0].strip("`") not in TYPES]
ANSWER_ROWS: Final = {row[0].strip("`"): row for row in rows(section("Parameters")) if row[0].strip("`") in TYPES}
IMAGE_ROWS, OF_IMG2IMG = (rows(part) for part in section("Images").split("`img2img` also takes:"))


def default_told(cell: str) -> Any:
    """The default that a cell tells; a JSON value, or a text."""
    bare = cell.removesuffix(" (any)").strip("`")
    try:
        return json.loads(bare)
    except json.JSONDecodeError:
        return bare


def cells(row: list[str]) -> list[str]:
    """The defaults of a row's parameters: one for each, or the same for all."""
    count = len(NAME.findall(row[0]))
    each = row[1].split(", ")
    return each if len(each) == count else [row[1]] * count


def is_so(field: FieldInfo, cell: str) -> bool:
    """Whether a field has the default that a cell tells."""
    if cell == "required":
        return field.is_required()
    return field.default == (None if cell in {"", "the worker's default"} else default_told(cell))


@pytest.mark.parametrize("type_", TEXT)
def test_each_parameter_of_a_text_that_is_told_is_taken(type_: str) -> None:
    told = {name for row in TEXT_ROWS for name in names(row[0])} | no_effect() | also(type_)
    assert told - set(TEXT[type_].known()) == set()


@pytest.mark.parametrize("type_", TEXT)
def test_each_parameter_of_a_text_that_is_taken_is_told(type_: str) -> None:
    told = {name for row in TEXT_ROWS for cell in row for name in names(cell)} | no_effect() | also(type_)
    assert set(TEXT[type_].known()) - told == set()


@table(("type_", "row"), product(TEXT, TEXT_ROWS))
def test_each_parameter_of_a_text_has_the_default_that_is_told(type_: str, row: list[str]) -> None:
    fields = TEXT[type_].model_fields
    wrong = {name: fields[name].default for name in names(row[0]) if not is_so(fields[name], row[1])}
    assert wrong == {}


def test_what_changes_nothing_is_never_sent_and_what_is_refused_is_known_as_such() -> None:
    fields = CompletionParameters.model_fields
    assert [name for name in no_effect() if not fields[name].exclude] == []
    refused = names(paragraph("These are taken and change nothing").split(". What")[1])
    assert refused
    assert [name for name in refused if REFUSED not in fields[name].metadata] == []


@pytest.mark.parametrize("type_", ANSWERS)
def test_the_parameters_of_a_type_with_one_answer_are_those_that_are_told(type_: str) -> None:
    told = names(ASIDE.sub("", ANSWER_ROWS[type_][1]))
    for other in told & ANSWERS.keys():
        told |= names(ASIDE.sub("", ANSWER_ROWS[other][1])) - names("`prompt`")
    own = set(ANSWERS[type_].known()) - set(AnswerParameters.known())
    assert told - TYPES == own


@pytest.mark.parametrize(
    ("kind", "table"), [(Txt2ImgParameters, IMAGE_ROWS), (Img2ImgParameters, [*IMAGE_ROWS, *OF_IMG2IMG])]
)
def test_the_parameters_of_an_image_are_those_that_are_told_with_their_defaults(
    kind: type[Fields], table: list[list[str]]
) -> None:
    told = {name: cell for row in table for name, cell in zip(NAME.findall(row[0]), cells(row), strict=True)}
    assert told.keys() - set(kind.known()) == set()
    mentioned = names(section("Images")) | {"defaults"}
    assert set(kind.known()) - mentioned == set()
    fields = {name: kind.model_fields[name] for name in told}
    own = {name for name, field in fields.items() if field.default is not None}  # the others are the WebUI's to have
    assert {name: fields[name].default for name in own if not is_so(fields[name], told[name])} == {}


def test_the_fields_of_a_job_are_those_that_are_told() -> None:
    table = {name: row for row in rows(section("The job")) for name in names(row[0])}
    assert table.keys() == {"id", "type", "data"} | Envelope.model_fields.keys()


def test_the_types_of_job_are_those_that_are_told() -> None:
    (row,) = [row for row in rows(section("The job")) if row[0] == "`type`"]
    assert names(row[1]) == TYPES


def test_a_default_that_is_another_one_would_be_found_out() -> None:
    class Example(BaseModel):
        steps: int = 20
        name: str = "Euler a"
        seed: int = -1
        scheduler: str | None = None
        prompt: str

    fields = Example.model_fields
    right = {"steps": "20", "name": "`Euler a`", "seed": "-1 (any)", "scheduler": "", "prompt": "required"}
    assert [name for name, cell in right.items() if not is_so(fields[name], cell)] == []
    wrong = {"steps": "21", "name": '`""`', "seed": "required", "scheduler": "7", "prompt": ""}
    assert [name for name, cell in wrong.items() if is_so(fields[name], cell)] == []
