"""Making the images of a request: the job, its progress, and its end if its client leaves."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import anyio
from redis.exceptions import RedisError
from starlette.requests import Request

from velesio_worker.core.logs import get_logger
from velesio_worker.gateway.caller import Caller
from velesio_worker.gateway.errors import ApiError, api_error
from velesio_worker.gateway.hang_ups import until_hung_up
from velesio_worker.gateway.jobs import UNREAD_SECONDS, Jobs
from velesio_worker.gateway.live import CANCEL_SECONDS
from velesio_worker.gateway.sdapi.progress import RunningImage, RunningImages
from velesio_worker.wire.errors import JobError

log = get_logger(__name__)


async def make(
    request: Request, jobs: Jobs, caller: Caller, images: RunningImages, job_type: str, data: Mapping[str, Any]
) -> dict[str, Any]:
    """Run an image job for a request and return its result, in sight of ``progress`` and ``interrupt`` meanwhile.

    Raises:
        ApiError: it was not taken, or failed, or the client hung up; then the job is cancelled.
    """
    job_id = await jobs.submit(caller, job_type, data, unread_timeout=UNREAD_SECONDS)
    with images.kept(caller, RunningImage(job_id, data.get("steps") or 0)) as image:
        try:
            return await _result(request, jobs, image)
        finally:
            if not image.ended:
                with anyio.CancelScope(shield=True), anyio.move_on_after(CANCEL_SECONDS):
                    await stop(jobs, image)


async def _result(request: Request, jobs: Jobs, image: RunningImage) -> dict[str, Any]:
    async with until_hung_up(request.scope, request.receive):
        try:
            async with aclosing(jobs.events(image.job_id)) as events:
                async for event in events:
                    image.note(event)
            return await jobs.result(image.job_id)
        except JobError as error:
            raise api_error(error) from None
    raise ApiError(499, "client_closed_request", "The client hung up.")


async def stop(jobs: Jobs, image: RunningImage) -> None:
    """Ask that a job be stopped; if Redis does not answer it goes on, unless nobody reads it any more."""
    image.stopped = True
    try:
        await jobs.cancel(image.job_id)
    except RedisError as error:
        log.warning(f"a job could not be cancelled: {error}", action="cancel_failed", job_id=image.job_id)
