"""``/v1/responses``."""

from __future__ import annotations

from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from velesio_worker.gateway.bodies import body_of
from velesio_worker.gateway.chosen import chosen
from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.live import LiveResponse, answer, dialect
from velesio_worker.gateway.openapi import Operation
from velesio_worker.gateway.responses.frames import ResponseFrames, response_of
from velesio_worker.gateway.responses.request import ResponsesRequest, job_of
from velesio_worker.gateway.state import State

OPERATIONS: Final = (
    Operation("/v1/responses", "POST", ResponsesRequest, "Answer a conversation, OpenAI's Responses", streams=True),
    Operation("/v1/responses/{id}", "GET", None, "Nothing is stored: always 404"),
    Operation("/v1/responses/{id}", "DELETE", None, "Nothing is stored: always 404"),
)
_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def error_body(error: ApiError) -> dict[str, Any]:
    """Return an error as OpenAI writes it."""
    usual = "invalid_request_error" if error.status < 500 else "server_error"  # noqa: PLR2004 (HTTP)
    kind = _TYPES.get(error.status, usual)
    return {"error": {"message": error.message, "type": kind, "code": error.code, "param": error.param}}


def routes(state: State) -> list[Route]:
    """Return the routes of this dialect."""

    async def respond(request: Request) -> Response:
        caller = state.caller_of(request)
        body = await body_of(request, ResponsesRequest)
        data = job_of(body) | {"model": chosen(await state.jobs.fleet(), body.model)}
        caller = caller.in_session(body.prompt_cache_key).in_tier(body.service_tier)
        if body.stream:
            parts = [("chat_completion", data)]
            return LiveResponse(state.jobs, caller, parts, ResponseFrames(body), error_body)
        result = await answer(request, state.jobs, caller, "chat_completion", data)
        return Response(orjson.dumps(response_of(body, result)), media_type="application/json")

    async def nothing(request: Request) -> Response:
        state.caller_of(request)
        told = "Responses are not stored here: there is none to be had, cancelled or deleted later."
        raise ApiError(404, "response_not_found", told)

    return dialect(
        [
            Route("/v1/responses", respond, methods=["POST"]),
            Route("/v1/responses/compact", nothing, methods=["POST"]),
            Route("/v1/responses/{id}", nothing, methods=["GET", "DELETE"]),
            Route("/v1/responses/{id}/cancel", nothing, methods=["POST"]),
            Route("/v1/responses/{id}/input_items", nothing, methods=["GET"]),
        ],
        error_body,
    )
