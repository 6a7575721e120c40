"""``/openapi.json`` is OpenAPI, and says what the routes do."""

from __future__ import annotations

import re

from openapi_spec_validator import OpenAPIV31SpecValidator
from openapi_spec_validator import validate as validate_spec

from velesio_worker.gateway.app import operations
from velesio_worker.gateway.native_routes import OPERATIONS, routes
from velesio_worker.gateway.openapi import document


def test_the_document_is_openapi() -> None:
    validate_spec(document(operations()), cls=OpenAPIV31SpecValidator)


def test_every_route_of_the_gateways_own_is_in_the_document_and_nothing_else() -> None:
    served = {(route.path, method) for route in routes() for method in (route.methods or ()) if method != "HEAD"}
    assert {(one.path, one.method) for one in OPERATIONS} == served


def test_bodies_parameters_and_who_may_ask_are_told() -> None:
    paths = document(OPERATIONS)["paths"]
    submit = paths["/jobs"]["post"]
    assert submit["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/Submission")
    assert {"bearer": []} in submit["security"]
    assert paths["/livez"]["get"]["security"] == [{}]
    follow = paths["/jobs/{id}/events"]["get"]
    assert [(one["name"], one["in"]) for one in follow["parameters"]] == [
        *(("id", "path"), ("after", "query"), ("Last-Event-ID", "header")),
    ]
    image = paths["/jobs/{id}/images/{number}"]["get"]
    assert image["parameters"][1]["schema"] == {"type": "integer", "minimum": 0}
    ids = [one["operationId"] for path in paths.values() for one in path.values()]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"\w+", one) for one in ids)
