"""``/openapi.json``: what the gateway takes and answers, written from the models that read it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from velesio_worker import __version__

_PARAMETER: Final = re.compile(r"{(\w+)(?::(\w+))?}")
_REFERENCE: Final = "#/components/schemas/{model}"
_JSON: Final = "application/json"
_EVENTS: Final = "text/event-stream"
_ERROR: Final = 400
_BARE: Final = frozenset({204, 302})
_NONE: Final[Mapping[str, str]] = MappingProxyType({})
_ANSWERED: Final[Mapping[int, str]] = MappingProxyType({200: "The answer"})
_FAILURES: Final[Mapping[int, str]] = MappingProxyType(
    {
        400: "The request is not as it has to be",
        401: "A token is needed",
        404: "There is no such thing, or none of the caller's",
        408: "The body came too slowly",
        413: "The body is too large",
        415: "The body is no JSON",
        429: "Too many requests, or too long a queue; Retry-After says when to ask again",
        500: "The gateway, or the worker, made a mistake",
        502: "An engine or a worker was lost",
        503: "Nobody can take it just now; Retry-After says when to ask again",
        504: "The job ran out of time",
    }
)
_OF_BODIES: Final = frozenset({408, 413, 415})


class Operation(NamedTuple):
    """One route and method.

    Attributes:
        path: as the router has it.
        method: the HTTP method.
        model: what the body has to be; None where there is none.
        summary: what it does, in a few words.
        streams: whether it may answer with server-sent events.
        answers: what each status that is no error means.
        media: the media type of the answer.
        parameters: what may stand in the query, or in the headers (names with a capital), and what it means.
        public: whether no token is needed.
    """

    path: str
    method: str
    model: type[BaseModel] | None
    summary: str
    streams: bool = False
    answers: Mapping[int, str] = _ANSWERED
    media: str = _JSON
    parameters: Mapping[str, str] = _NONE
    public: bool = False


def document(operations: Iterable[Operation]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of some operations."""
    listed = tuple(operations)
    models = sorted({one.model for one in listed if one.model is not None}, key=lambda model: model.__qualname__)
    references, schemas = models_json_schema([(model, "validation") for model in models], ref_template=_REFERENCE)
    paths: dict[str, dict[str, Any]] = {}
    for one in listed:
        reference = None if one.model is None else references[one.model, "validation"]
        path = _PARAMETER.sub(r"{\1}", one.path)
        paths.setdefault(path, {})[one.method.lower()] = _operation(one, reference)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "velesio-worker gateway",
            "version": __version__,
            "description": "Jobs for llama.cpp and Stable Diffusion over HTTP.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas.get("$defs", {}),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _operation(one: Operation, reference: Any) -> dict[str, Any]:  # noqa: ANN401 (a JSON schema)
    told: dict[str, Any] = {
        "summary": one.summary,
        "operationId": re.sub(r"\W+", "_", f"{one.method.lower()}_{one.path}").strip("_"),
        "security": [{}] if one.public else [{"bearer": []}, {"key": []}],
        "parameters": [*map(_path_parameter, _PARAMETER.findall(one.path)), *map(_parameter, one.parameters.items())],
        "responses": _responses(one),
    }
    if reference is not None:
        told["requestBody"] = {"required": True, "content": {_JSON: {"schema": reference}}}
    return told


def _responses(one: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for status, text in one.answers.items():
        media = [_JSON] if status >= _ERROR else [one.media, _EVENTS] if one.streams else [one.media]
        found[str(status)] = {"description": text}
        if status not in _BARE:
            found[str(status)]["content"] = {kind: {} for kind in media}
    for status, text in _FAILURES.items():
        apt = status not in _OF_BODIES or one.model is not None
        if apt and not one.public:
            found[str(status)] = {"description": text, "content": {_JSON: {}}}
    return found


def _path_parameter(found: tuple[str, str]) -> dict[str, Any]:
    name, kind = found
    schema = {"type": "integer", "minimum": 0} if kind == "int" else {"type": "string", "minLength": 1}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _parameter(named: tuple[str, str]) -> dict[str, Any]:
    name, meaning = named
    where = "header" if name[0].isupper() else "query"
    return {"name": name, "in": where, "required": False, "description": meaning, "schema": {"type": "string"}}
