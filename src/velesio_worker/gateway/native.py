"""The gateway's own routes: jobs as the protocol has them."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, cast

import orjson
from anyio.to_thread import run_sync
from pydantic import BaseModel, Field
from redis.exceptions import RedisError
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from velesio_worker.client.client import JobOptions
from velesio_worker.client.standing import Standing, State
from velesio_worker.gateway.app_state import Gateway, gateway_of
from velesio_worker.gateway.bodies import body_of
from velesio_worker.gateway.caller import Caller
from velesio_worker.gateway.errors import ApiError, api_error, queue_is_away
from velesio_worker.gateway.ids import is_own, made_at
from velesio_worker.gateway.seen import note_job
from velesio_worker.wire.errors import UnusablePayloadError
from velesio_worker.wire.jobs import RefusedJobError, parse_job

_BESIDE: Final = 256 * 1024
"""Bodies of more bytes are checked beside the event loop."""

_SETTLED_SECONDS: Final = 60.0
"""After so long a job that a worker has taken has an entry in its stream."""

_LINKS: Final = ("http://", "https://")


class Submission(BaseModel):
    """A job as a client submits it; the protocol's envelope, whose id is the gateway's to give."""

    type: str = Field(description="The type of job, such as chat_completion or txt2img.")
    data: dict[str, Any] = Field(default_factory=dict, description="The parameters of that type.")
    timeout: float | None = Field(default=None, description="The longest that the job may run, in seconds.")
    expires_at: float | None = Field(default=None, description="Unix time at which a job that waits is given up.")
    max_attempts: int | None = Field(default=None, description="How often the job may be lost with its worker.")
    on_crash: Literal["continue", "restart", "fail"] | None = Field(
        default=None, description="What happens when it is."
    )
    unread_timeout: float | None = Field(
        default=None, description="Cancel the job once nobody has read its stream for so many seconds."
    )
    worker: str | None = Field(default=None, description="The one worker that may take the job.")
    priority: Literal["high", "normal", "low"] | None = Field(
        default=None,
        description="Before which others the job is begun: while all wait, 16 of high for 4 of normal, 1 of low.",
    )
    session: Annotated[str, Field(max_length=128)] | None = Field(
        default=None, description="The conversation that the job belongs to."
    )
    cache: bool | None = Field(default=None, description="Whether the answer may come from the prompt cache.")

    def options(self) -> JobOptions:
        """Return what was given beside type and parameters."""
        given = self.model_dump(exclude={"type", "data"}, exclude_none=True)
        return cast("JobOptions", given)


async def submit(request: Request) -> Response:
    """Submit a job; answers at once, with where to follow it."""
    gateway = gateway_of(request)
    caller = gateway.caller_of(request)
    asked = await body_of(request, Submission)
    await _check(asked, gateway.settings.max_body_bytes)
    job_id = await gateway.jobs.submit(caller, asked.type, asked.data, **asked.options())
    content = {"id": job_id, "state": State.WAITING, "links": _links(job_id)}
    return JSONResponse(content, 202, {"location": f"/jobs/{job_id}"})


async def _check(asked: Submission, most: int) -> None:
    """Have a mistake told now instead of by the job."""

    def check() -> None:
        payload = orjson.dumps({"id": "-", **asked.model_dump(exclude_none=True)})
        parse_job(payload, max_bytes=2 * most)

    size = sum(len(cast("str | list[object]", value)) for value in asked.data.values() if isinstance(value, str | list))
    try:
        await run_sync(check) if size > _BESIDE else check()
    except RefusedJobError as refused:
        raise api_error(refused.error, data="data.") from None
    except (UnusablePayloadError, TypeError, RecursionError) as error:
        raise ApiError(400, "invalid_request", f"data: {error}", param="data") from None


async def show(request: Request) -> Response:
    """Say how a job stands, with its result once there is one."""
    gateway = gateway_of(request)
    job_id = own_job(request, gateway.caller_of(request))
    standing = await standing_of(gateway, job_id)
    content: dict[str, Any] = {"id": job_id, "state": standing.state, "links": _links(job_id)}
    if standing.state is State.WAITING:
        content["queue"] = await _waiting(gateway)
    if standing.last is not None and not standing.state.ended:
        content["last"] = {"id": standing.last.id, "event": standing.last.event}
        content["last"] |= {"data": standing.last.data} if standing.last.event == "progress" else {}
    content["result"] = standing.result
    return Response(orjson.dumps(content), media_type="application/json")


async def standing_of(gateway: Gateway, job_id: str) -> Standing:
    """Return how a job stands. Raises ApiError: Redis knows nothing of it, and it does not wait either."""
    try:
        standing = await gateway.client.standing(job_id)
    except RedisError as error:
        raise queue_is_away() from error
    if standing.state is State.WAITING and await _is_gone(gateway, job_id):
        raise _no_job()
    return standing


def is_young(job_id: str) -> bool:
    """Whether a worker may be taking a job at this moment, or be about to."""
    return time.time() - made_at(job_id) < _SETTLED_SECONDS


async def _is_gone(gateway: Gateway, job_id: str) -> bool:
    """Whether a job that Redis has nothing of waits nowhere either: whatever waits is younger."""
    if is_young(job_id):
        return False
    age = time.time() - made_at(job_id)
    depths = (await gateway.jobs.fleet()).depths
    older = any(one.jobs and one.oldest > age - _SETTLED_SECONDS for one in depths.waiting.values())
    return not (older or depths.named or depths.suspects)


async def _waiting(gateway: Gateway) -> dict[str, Any]:
    """Say how long the lines are that a job may wait in."""
    waiting = (await gateway.jobs.fleet()).depths.waiting.items()
    return {name: {"jobs": one.jobs, "oldest_seconds": round(one.oldest, 1)} for name, one in waiting}


async def cancel(request: Request) -> Response:
    """Have a job stopped; what it has so far becomes its result."""
    gateway = gateway_of(request)
    job_id = own_job(request, gateway.caller_of(request))
    try:
        await gateway.jobs.cancel(job_id)
    except RedisError as error:
        raise queue_is_away() from error
    return JSONResponse({"id": job_id, "links": _links(job_id)}, 202)


async def image(request: Request) -> Response:
    """Answer with an image of a job's result, a PNG."""
    gateway = gateway_of(request)
    job_id = own_job(request, gateway.caller_of(request))
    standing = await standing_of(gateway, job_id)
    if standing.result is None:
        raise ApiError(404, "image_not_found", f"The job is {standing.state}: it has no result (any more).")
    images: Any = standing.result.get("images")
    number = request.path_params["number"]
    if not isinstance(images, list) or number >= len(cast("list[Any]", images)):
        count = len(cast("list[Any]", images)) if isinstance(images, list) else 0
        raise ApiError(404, "image_not_found", f"The job has {count} images; the first is number 0.")
    return _image(str(cast("list[Any]", images)[number]), stored=standing.result.get("images_stored") is True)


def _image(image: str, *, stored: bool) -> Response:
    if stored:
        if image.startswith(_LINKS):
            return RedirectResponse(image, 302)
        raise ApiError(
            404,
            "image_elsewhere",
            "The image lies in a folder of the worker's: set RESULT_STORE_URL there to serve it.",
        )
    try:
        content = base64.b64decode(image, validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(404, "image_not_found", "What the result has there is no image.") from None
    return Response(content, media_type="image/png")


def own_job(request: Request, caller: Caller) -> str:
    """Return the job that a path names. Raises ApiError: it is nobody's, or somebody else's, which is told alike."""
    job_id: str = request.path_params["id"]
    if not is_own(job_id, caller):
        raise _no_job()
    note_job(job_id)
    return job_id


def _no_job() -> ApiError:
    return ApiError(404, "job_not_found", "There is no job of this id, or not any more.")


def _links(job_id: str) -> Mapping[str, str]:
    return {"self": f"/jobs/{job_id}", "events": f"/jobs/{job_id}/events"}
