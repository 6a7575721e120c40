"""A gateway of one's own on FastAPI: a question comes in, its answer goes out as server-sent events.

Who hangs up has the job cancelled, on the GPU as well. Each frame's ``id``, ``event`` and ``data`` are the entry's. For
tokens, limits, resuming and the dialects of OpenAI and Anthropic there is ``velesio-worker gateway``.

    pip install fastapi uvicorn velesio-worker
    REDIS_URL=redis://127.0.0.1:6379 uvicorn --app-dir examples fastapi_gateway:app
    curl -N http://127.0.0.1:8000/chat -H 'Content-Type: application/json' -d '{"prompt": "Name a colour."}'
"""

import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, Field
from redis.exceptions import RedisError

from velesio_worker.client import Client


class Question(BaseModel):
    """What a caller sends."""

    prompt: Annotated[str, Field(max_length=10_000)]
    max_tokens: Annotated[int, Field(gt=0, le=1000)] = 256


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[dict[str, Client]]:
    """Hold one client for the whole process."""
    async with Client(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379")) as client:
        yield {"client": client}


app = FastAPI(title="A gateway of one's own", lifespan=lifespan)


async def submitted(question: Question, request: Request) -> AsyncIterator[str]:
    """Submit the job before the answer begins; once the answer is over, or its reader gone, let no GPU work on it."""
    client: Client = request.state.client
    messages = [{"role": "user", "content": question.prompt}]
    data = {"messages": messages, "max_tokens": question.max_tokens, "stream": True}
    job_id = await client.submit("chat_completion", data, unread_timeout=30)  # should this process die, too
    yield job_id
    if await client.stored_result(job_id) is None:
        await client.cancel(job_id)


@app.post("/chat", response_class=EventSourceResponse)
async def chat(request: Request, job_id: Annotated[str, Depends(submitted)]) -> AsyncIterator[ServerSentEvent]:
    """Answer a question, token by token."""
    async with aclosing(request.state.client.events(job_id)) as events:
        async for event in events:
            yield ServerSentEvent(id=event.id, event=event.event, data=event.data)


@app.exception_handler(RedisError)
async def redis_is_away(_: Request, error: RedisError) -> JSONResponse:
    """Say that it is worth another try."""
    return JSONResponse({"error": f"The queue does not answer: {error}"}, 503, {"Retry-After": "2"})
