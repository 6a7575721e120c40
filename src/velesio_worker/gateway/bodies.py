"""The bodies of requests: JSON that is what a model says."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Final, TypeVar

import orjson
from anyio.to_thread import run_sync
from pydantic import BaseModel, Field, ValidationError
from starlette.requests import Request

from velesio_worker.gateway.errors import ApiError, invalid
from velesio_worker.wire.limits import MOST_VALUES
from velesio_worker.wire.parameters import Given
from velesio_worker.wire.payload import holds_too_much

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

ListOf = Annotated[list[T], Field(fail_fast=True)]
"""A list in a body. Its first mistake is told and the rest is not looked for: one that is wrong throughout would take
a thousand times its own size and, meanwhile, all of this process."""

_LARGE: Final = 256 * 1024
"""Above so many bytes a body is read beside the event loop."""


class Body(Given):
    """A request's body; what no field knows is ignored."""


async def body_of(request: Request, model: type[M]) -> M:
    """Read a request's body.

    Raises:
        ApiError: it is no JSON (400, 415), too large (413), or not as ``model`` has it (400, with the field).
    """
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise ApiError(
            415,
            "unsupported_media_type",
            f"The body has to be JSON: send Content-Type: application/json, not {kind!r}.",
        )
    raw = await request.body()
    read = partial(_read, raw, model)
    return await run_sync(read) if len(raw) > _LARGE else read()


def _read(raw: bytes, model: type[M]) -> M:
    if holds_too_much(raw):  # which would take seconds and gigabytes to be read, and no worker takes such a job
        raise ApiError(413, "too_large", f"The body holds more than {MOST_VALUES} values.")
    try:
        value: Any = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, "invalid_json", f"The body is no JSON: {error}.") from None
    if not isinstance(value, dict):
        raise ApiError(400, "invalid_json", "The body has to be a JSON object.")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise invalid(error) from None
