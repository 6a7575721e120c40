"""llama-server's thin routes: a completion, tokens and back, templates, and what there is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from velesio_worker.gateway.bodies import body_of
from velesio_worker.gateway.chosen import chosen
from velesio_worker.gateway.errors import reads_results
from velesio_worker.gateway.live import LiveResponse, Part, answer, answers, dialect
from velesio_worker.gateway.openapi import Operation
from velesio_worker.gateway.state import State
from velesio_worker.gateway.text.answers import CompletionFrames, completion_answer, error_body
from velesio_worker.gateway.text.props import props
from velesio_worker.gateway.text.requests import (
    CompletionRequest,
    DetokenizeRequest,
    TemplateRequest,
    TextRequest,
    TokenizeRequest,
)

__all__ = ["OPERATIONS", "error_body", "routes"]

COUNT: Final = "/v1/chat/completions/input_tokens"
_TEXT: Final = "text"
_SHOWN: Final = 20

B = TypeVar("B", bound=TextRequest)

OPERATIONS: Final = (
    Operation("/completion", "POST", CompletionRequest, "Go on from a text, as llama-server does", streams=True),
    Operation("/tokenize", "POST", TokenizeRequest, "Make tokens of a text"),
    Operation("/detokenize", "POST", DetokenizeRequest, "Make a text of tokens"),
    Operation("/apply-template", "POST", TemplateRequest, "Make the model's prompt of a chat"),
    Operation(COUNT, "POST", TemplateRequest, "Count the tokens of a chat's prompt"),
    Operation("/props", "GET", None, "Tell the model, its context and the slots of all text workers"),
)


def routes(state: State) -> list[Route]:
    """Return the routes of this dialect."""
    room = _Thin(state)
    posts = {
        "/completion": room.completion,
        "/tokenize": room.simple(TokenizeRequest, TokenizeRequest.part, _as_it_is),
        "/detokenize": room.simple(DetokenizeRequest, DetokenizeRequest.part, _as_it_is),
        "/apply-template": room.simple(TemplateRequest, TemplateRequest.to_apply, _as_it_is),
        COUNT: room.simple(TemplateRequest, TemplateRequest.to_count, _counted),
    }
    found = [Route(path, handler, methods=["POST"]) for path, handler in posts.items()]
    return dialect([*found, Route("/props", room.props, methods=["GET"])], error_body)


class _Thin:
    def __init__(self, state: State) -> None:
        self._state = state
        self._jobs = state.jobs

    async def completion(self, request: Request) -> Response:
        """Go on from one text, or from several."""
        caller = self._state.caller_of(request)
        body = await body_of(request, CompletionRequest)
        await self._check_model(body)
        parts = body.parts()
        datas = [data for _, data in parts]
        if body.stream:
            return LiveResponse(self._jobs, caller, parts, CompletionFrames(datas), error_body)
        results = await answers(request, self._jobs, caller, parts)
        found = [completion_answer(index, *pair) for index, pair in enumerate(zip(datas, results, strict=True))]
        return _json(found if len(found) > 1 else found[0])

    def simple(
        self, model: type[B], part: Callable[[B], Part], written: Callable[[dict[str, Any]], object]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Return the handler of a route whose answer is one job's result."""

        async def handler(request: Request) -> Response:
            caller = self._state.caller_of(request)
            body = await body_of(request, model)
            await self._check_model(body)
            return _json(written(await answer(request, self._jobs, caller, *part(body))))

        return handler

    async def props(self, request: Request) -> Response:
        """Tell what there is."""
        self._state.caller_of(request)
        return _json(props(await self._jobs.fleet()))

    async def _check_model(self, body: TextRequest) -> None:
        if body.model is not None:
            chosen(await self._jobs.fleet(), body.model)


def _as_it_is(result: dict[str, Any]) -> object:
    return {name: value for name, value in result.items() if name != "cached"}


@reads_results
def _counted(result: dict[str, Any]) -> object:
    return {"input_tokens": result["tokens"], "object": "response.input_tokens"}


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
