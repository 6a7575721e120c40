"""Any JSON whatsoever is answered: taken, or refused with a status that says that it is the client's to change."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import anyio
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.routing import Match, Route

from tests.doubles.fleet import CALLER
from tests.doubles.gateway_jobs import JobsInMemory
from tests.support.examples import examples
from velesio_worker.gateway.anthropic import routes as anthropic
from velesio_worker.gateway.app import operations
from velesio_worker.gateway.caller import Caller
from velesio_worker.gateway.jobs import Jobs, Model
from velesio_worker.gateway.openai import routes as openai
from velesio_worker.gateway.responses import routes as responses
from velesio_worker.gateway.sdapi import routes as sdapi
from velesio_worker.gateway.text import routes as text
from velesio_worker.wire.errors import BadJobError
from velesio_worker.wire.jobs import JobType


@dataclass
class State:
    jobs: Jobs

    def caller_of(self, _: Request) -> Caller:
        return CALLER


REFUSES: Final = {kind.value: BadJobError("data.prompt: none is right.") for kind in JobType}
MODELS: Final = (Model("m", "text", default=True), Model("p", "image", default=True))
BODIES: Final = {one.path: one.model for one in operations() if one.model is not None and one.path != "/jobs"}

_WORDS: Final = (
    *("text", "input_text", "image", "image_url", "base64", "tool_use", "tool_result", "function", "json_schema", "m"),
    *("user", "assistant", "system", "developer", "tool", "message", "function_call", "function_call_output", "auto"),
    *("reasoning", "thinking", "document", "content", "any", "none", "required", "allowed_tools", "data:", "p", ""),
)
_FIELDS: Final = (
    *("type", "text", "role", "content", "source", "data", "media_type", "name", "id", "input", "input_schema"),
    *("function", "parameters", "arguments", "call_id", "tool_use_id", "output", "summary", "image_url", "url"),
    *("schema", "format", "json_schema", "tool_calls", "effort", "include_usage", "tools", "mode", "user_id"),
    *("sd_model_checkpoint", "samples_format", "detail", "strict", "description"),
)
_LEAVES: Final = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(_WORDS)
    | st.text(max_size=5)
)
_JSON: Final = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_FIELDS), inner, max_size=4),
    max_leaves=15,
)


def bodies(path: str) -> st.SearchStrategy[dict[str, Any]]:
    """Bodies that have what is needed, mostly in the right form, and anything beside it."""
    names = list(BODIES[path].model_fields)
    usual: dict[str, st.SearchStrategy[Any]] = {
        "model": st.sampled_from(["m", "p"]),
        "stream": st.booleans(),
        "messages": st.lists(st.fixed_dictionaries({"role": st.sampled_from(_WORDS), "content": _JSON}), max_size=3),
        "input": st.text(max_size=3) | st.lists(_JSON, max_size=3),
        "tools": st.lists(
            st.fixed_dictionaries({"type": st.sampled_from(_WORDS)}, optional={"name": _JSON}), max_size=2
        ),
        "max_tokens": st.integers(0, 9),
        "prompt": st.text(max_size=3) | _JSON,
        "query": st.text(max_size=3),
        "documents": st.lists(st.text(max_size=3), max_size=3),
    }
    needed = {name: usual.get(name, _JSON) for name in names if BODIES[path].model_fields[name].is_required()}
    other = {name: usual[name] | _JSON if name in usual else _JSON for name in names if name not in needed}
    return st.fixed_dictionaries(needed, optional={**other, "unknown": _JSON})


async def status_of(path: str, body: Any) -> tuple[int, bytes]:
    """Have a body answered; returns the status and what was sent."""
    state = State(JobsInMemory(REFUSES, MODELS))
    rooms = (openai, responses, anthropic, sdapi, text)
    routes: list[Route] = [route for room in rooms for route in room.routes(state)]
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}
    route = next(route for route in routes if route.matches(scope)[0] is Match.FULL)
    sent: list[Any] = []
    unread = [{"type": "http.request", "body": orjson.dumps(body), "more_body": False}]

    async def receive() -> Any:
        if unread:
            return unread.pop()
        return await anyio.sleep_forever()

    async def send(message: Any) -> None:
        sent.append(message)

    with anyio.fail_after(20):
        response = await route.endpoint(Request(scope, receive))
        await response(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


@pytest.mark.parametrize("path", BODIES)
@examples(60)
@given(st.data())
def test_any_body_is_taken_or_the_clients_to_change(path: str, data: st.DataObject) -> None:
    status, said = anyio.run(partial(status_of, path, data.draw(bodies(path) | _JSON)))
    assert status < 500, said
