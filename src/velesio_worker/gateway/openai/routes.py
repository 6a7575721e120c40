"""The routes of OpenAI's API, with and without ``/v1`` in front."""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson
from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from velesio_worker.gateway.anthropic import models as anthropic
from velesio_worker.gateway.bodies import body_of
from velesio_worker.gateway.caller import Caller
from velesio_worker.gateway.chosen import chosen
from velesio_worker.gateway.jobs import Fleet
from velesio_worker.gateway.live import LiveResponse, answer, answers, dialect
from velesio_worker.gateway.openai.chat import ChatBody, chat_answer
from velesio_worker.gateway.openai.chat_frames import ChatFrames
from velesio_worker.gateway.openai.completion_frames import CompletionFrames
from velesio_worker.gateway.openai.completions import CompletionBody, completion_answer
from velesio_worker.gateway.openai.embeddings import EmbeddingBody, embedding_answer
from velesio_worker.gateway.openai.errors import check_end, error_body
from velesio_worker.gateway.openai.images import ImageBody, image_answer
from velesio_worker.gateway.openai.models import model_entry, model_list
from velesio_worker.gateway.openai.rerank import RerankBody, rerank_answer
from velesio_worker.gateway.openapi import Operation
from velesio_worker.gateway.state import State

OPERATIONS: Final = (
    Operation("/v1/chat/completions", "POST", ChatBody, "Answer a chat", streams=True),
    Operation("/v1/completions", "POST", CompletionBody, "Go on from a text", streams=True),
    Operation("/v1/embeddings", "POST", EmbeddingBody, "Make vectors of texts"),
    Operation("/v1/rerank", "POST", RerankBody, "Put documents in order"),
    Operation("/v1/images/generations", "POST", ImageBody, "Make images"),
    Operation("/v1/models", "GET", None, "List the models"),
    Operation("/v1/models/{id:path}", "GET", None, "Describe a model"),
)


def routes(state: State) -> list[Route]:
    """Return the routes of this dialect."""
    room = _OpenAI(state)
    posts = {
        "/chat/completions": room.chat,
        "/completions": room.completions,
        "/embeddings": room.embeddings,
        "/rerank": room.rerank,
        "/images/generations": room.images,
    }
    found = [_route(prefix + path, handler, "POST") for path, handler in posts.items() for prefix in ("/v1", "")]
    found.append(_route("/v2/rerank", room.rerank, "POST"))
    for prefix in ("/v1", ""):
        found += [
            _route(f"{prefix}/models", room.models, "GET"),
            _route(f"{prefix}/models/{{id:path}}", room.model, "GET"),
        ]
    return dialect(found, error_body)


def _route(path: str, handler: Callable[[Request], Awaitable[Response]], method: str) -> Route:
    return Route(path, handler, methods=[method])


class _OpenAI:
    def __init__(self, state: State) -> None:
        self._state = state
        self._jobs = state.jobs

    async def chat(self, request: Request) -> Response:
        """Answer a chat."""
        caller = self._state.caller_of(request)
        body = await body_of(request, ChatBody)
        caller = caller.in_session(body.prompt_cache_key).in_tier(body.service_tier)
        named = chosen(await self._jobs.fleet(), body.model, "text")
        parts, about = body.parts(named), (_id("chatcmpl"), _now(), named)
        if body.stream:
            frames = ChatFrames(*about, body.n, with_usage=body.with_usage)
            return LiveResponse(self._jobs, caller, parts, frames, error_body)
        return _json(chat_answer(*about, await answers(request, self._jobs, caller, parts)))

    async def completions(self, request: Request) -> Response:
        """Go on from texts."""
        caller = self._state.caller_of(request)
        body = await body_of(request, CompletionBody)
        caller = caller.in_session(body.prompt_cache_key).in_tier(body.service_tier)
        named = chosen(await self._jobs.fleet(), body.model, "text")
        parts, about = body.parts(named), (_id("cmpl"), _now(), named)
        echoes = await self._echoes(request, caller, body, named)
        if body.stream:
            frames = CompletionFrames(
                *about, echoes, choices=body.n, logprobs=body.logprobs, with_usage=body.with_usage
            )
            return LiveResponse(self._jobs, caller, parts, frames, error_body)
        results = await answers(request, self._jobs, caller, parts)
        return _json(completion_answer(*about, body, echoes, results))

    async def _echoes(self, request: Request, caller: Caller, body: CompletionBody, named: str) -> list[str]:
        """Return what each text of a completion begins with: that of tokens is asked for."""
        if not body.echo:
            return [""] * (len(body.prompts) * body.n)
        ids = [prompt for prompt in body.prompts if not isinstance(prompt, str)]
        parts = [("detokenize", {"tokens": tokens, "defaults": "engine", "model": named}) for tokens in ids]
        found = await answers(request, self._jobs, caller, parts) if parts else []
        for result in found:
            check_end(result.get("finish_reason") or "stop")
        texts = iter(found)
        said = [prompt if isinstance(prompt, str) else str(next(texts)["content"]) for prompt in body.prompts]
        return [text for text in said for _ in range(body.n)]

    async def embeddings(self, request: Request) -> Response:
        """Make vectors of texts."""
        caller = self._state.caller_of(request)
        body = await body_of(request, EmbeddingBody)
        named = chosen(await self._jobs.fleet(), body.model, "text")
        result = await answer(request, self._jobs, caller, *body.part(named))
        return await run_sync(lambda: _json(embedding_answer(named, body, result)))

    async def rerank(self, request: Request) -> Response:
        """Put documents in order."""
        caller = self._state.caller_of(request)
        body = await body_of(request, RerankBody)
        fleet = await self._jobs.fleet()
        named = chosen(fleet, body.model, "text") if body.model else None
        result = await answer(request, self._jobs, caller, *body.part(named))
        model = named or result.get("model") or _default(fleet, "text")
        return _json(rerank_answer(_id("rerank"), model, body, result))

    async def images(self, request: Request) -> Response:
        """Make images."""
        caller = self._state.caller_of(request)
        body = await body_of(request, ImageBody)
        named = chosen(await self._jobs.fleet(), body.model, "image") if body.model else None
        created = _now()
        results = await answers(request, self._jobs, caller, body.parts(named))
        return await run_sync(lambda: _json(image_answer(created, body, results)))

    async def models(self, request: Request) -> Response:
        """List the models."""
        self._state.caller_of(request)
        fleet = await self._jobs.fleet()
        return _json(anthropic.models_body(fleet) if _is_anthropics(request) else model_list(fleet))

    async def model(self, request: Request) -> Response:
        """Describe a model."""
        self._state.caller_of(request)
        fleet, name = await self._jobs.fleet(), request.path_params["id"]
        return _json(anthropic.model_body(fleet, name) if _is_anthropics(request) else model_entry(fleet, name))


def _is_anthropics(request: Request) -> bool:
    """Whether Anthropic's form is wanted: that API has the same path."""
    return "anthropic-version" in request.headers


def _default(fleet: Fleet, kind: str) -> str:
    model = fleet.default(kind)
    return "" if model is None else model.name


def _id(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex}"


def _now() -> int:
    return int(time.time())


def _json(value: dict[str, Any]) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
