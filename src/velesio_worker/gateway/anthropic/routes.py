"""``/v1/messages``."""

from __future__ import annotations

from typing import Final

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from velesio_worker.gateway.anthropic.errors import error_body
from velesio_worker.gateway.anthropic.frames import MessageFrames, message_of
from velesio_worker.gateway.anthropic.models import model_body, models_body
from velesio_worker.gateway.anthropic.request import CountRequest, MessagesRequest, count_of, job_of
from velesio_worker.gateway.bodies import body_of
from velesio_worker.gateway.chosen import chosen
from velesio_worker.gateway.live import LiveResponse, answer, dialect
from velesio_worker.gateway.openapi import Operation
from velesio_worker.gateway.pieces import cancelled
from velesio_worker.gateway.state import State

__all__ = ["OPERATIONS", "error_body", "model_body", "models_body", "routes"]

OPERATIONS: Final = (
    Operation("/v1/messages", "POST", MessagesRequest, "Answer a conversation, Anthropic's Messages", streams=True),
    Operation("/v1/messages/count_tokens", "POST", CountRequest, "Count a conversation's tokens"),
)


def routes(state: State) -> list[Route]:
    """Return the routes of this dialect."""

    async def messages(request: Request) -> Response:
        caller = state.caller_of(request)
        body = await body_of(request, MessagesRequest)
        data = job_of(body) | {"model": chosen(await state.jobs.fleet(), body.model)}
        if caller.session is None and body.metadata is not None:
            caller = caller.in_session(body.metadata.user_id)  # Claude Code names its session there
        if body.stream:
            parts = [("chat_completion", data)]
            return LiveResponse(state.jobs, caller, parts, MessageFrames(body.model), error_body)
        result = await answer(request, state.jobs, caller, "chat_completion", data)
        return Response(orjson.dumps(message_of(body.model, result)), media_type="application/json")

    async def count_tokens(request: Request) -> Response:
        caller = state.caller_of(request)
        body = await body_of(request, CountRequest)
        data = count_of(body) | {"model": chosen(await state.jobs.fleet(), body.model)}
        result = await answer(request, state.jobs, caller, "count_tokens", data)
        if "tokens" not in result:
            raise cancelled()
        return Response(orjson.dumps({"input_tokens": result["tokens"]}), media_type="application/json")

    return dialect(
        [
            Route("/v1/messages", messages, methods=["POST"]),
            Route("/v1/messages/count_tokens", count_tokens, methods=["POST"]),
        ],
        error_body,
    )
