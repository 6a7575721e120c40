"""``/sdapi/v1``: images and what belongs to them, for clients that speak to a Stable Diffusion WebUI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from velesio_worker.gateway.bodies import body_of
from velesio_worker.gateway.errors import RETRY_SECONDS, ApiError
from velesio_worker.gateway.live import dialect
from velesio_worker.gateway.openapi import Operation
from velesio_worker.gateway.sdapi import catalogue
from velesio_worker.gateway.sdapi.answers import error_body, image_answer
from velesio_worker.gateway.sdapi.catalogue import Catalogue
from velesio_worker.gateway.sdapi.fields import ImageRequest, Img2ImgRequest, Txt2ImgRequest
from velesio_worker.gateway.sdapi.making import make, stop
from velesio_worker.gateway.sdapi.options import OptionsRequest, check_unchanged, options
from velesio_worker.gateway.sdapi.progress import RunningImages, progress_answer, shown
from velesio_worker.gateway.sdapi.translation import job_of
from velesio_worker.gateway.state import State

__all__ = ["OPERATIONS", "error_body", "routes"]

_AT: Final = "/sdapi/v1"
_IMAGE: Final = "image"

OPERATIONS: Final = (
    Operation(f"{_AT}/txt2img", "POST", Txt2ImgRequest, "Make images from a text"),
    Operation(f"{_AT}/img2img", "POST", Img2ImgRequest, "Make images from images and a text"),
    Operation(f"{_AT}/options", "GET", None, "Tell the settings, above all the checkpoint of images that name none"),
    Operation(f"{_AT}/options", "POST", OptionsRequest, "Take settings that are so already; refuse others"),
    Operation(f"{_AT}/sd-models", "GET", None, "List the checkpoints"),
    Operation(f"{_AT}/sd-vae", "GET", None, "List the VAEs"),
    Operation(f"{_AT}/samplers", "GET", None, "List the samplers"),
    Operation(f"{_AT}/schedulers", "GET", None, "List the schedulers"),
    Operation(f"{_AT}/upscalers", "GET", None, "List the upscalers of pixels"),
    Operation(f"{_AT}/latent-upscale-modes", "GET", None, "List the upscalers of latent images"),
    Operation(f"{_AT}/progress", "GET", None, "Tell how far the caller's own image is, if this process waits for it"),
    Operation(f"{_AT}/interrupt", "POST", None, "Stop the caller's own images, those that this process waits for"),
)

_Listing = Callable[[Mapping[str, Any]], list[dict[str, Any]]]

_LISTINGS: Final[dict[str, _Listing]] = {
    "sd-vae": catalogue.vaes,
    "samplers": catalogue.samplers,
    "schedulers": catalogue.schedulers,
    "upscalers": catalogue.upscalers,
    "latent-upscale-modes": catalogue.latent_upscale_modes,
}


def routes(state: State) -> list[Route]:
    """Return the routes of this dialect; what runs through them is kept in mind by what is returned."""
    room = _WebUI(state)
    gets = {"sd-models": room.models, "progress": room.progress}
    gets |= {name: room.listing(of) for name, of in _LISTINGS.items()}
    posts = {
        "txt2img": room.image(Txt2ImgRequest),
        "img2img": room.image(Img2ImgRequest),
        "interrupt": room.interrupt,
    }
    found = [Route(f"{_AT}/{name}", handler, methods=["GET"]) for name, handler in gets.items()]
    found += [Route(f"{_AT}/{name}", handler, methods=["POST"]) for name, handler in posts.items()]
    found.append(Route(f"{_AT}/options", room.options, methods=["GET", "POST"]))
    return dialect(found, error_body)


class _WebUI:
    def __init__(self, state: State) -> None:
        self._state = state
        self._jobs = state.jobs
        self._running = RunningImages()
        self._catalogue = Catalogue(state.jobs)

    def image(self, model: type[ImageRequest]) -> Callable[[Request], Awaitable[Response]]:
        """Return the handler of a route that makes images of bodies like ``model``."""

        async def handler(request: Request) -> Response:
            caller = self._state.caller_of(request)
            body = await body_of(request, model)
            job_type, data = job_of(body)
            result = await make(request, self._jobs, caller, self._running, job_type, data)
            return _json(image_answer(body, result))

        return handler

    def listing(self, of: _Listing) -> Callable[[Request], Awaitable[Response]]:
        """Return the handler of a route that lists something of what image workers have."""

        async def handler(request: Request) -> Response:
            caller = self._state.caller_of(request)
            return _json(of(await self._catalogue.info(caller)))

        return handler

    async def models(self, request: Request) -> Response:
        """List the checkpoints."""
        return _json(await self._catalogue.models(self._state.caller_of(request)))

    async def options(self, request: Request) -> Response:
        """Tell the settings, or take such as change nothing."""
        self._state.caller_of(request)
        if request.method != "POST":
            return _json(options(await self._default_model()))
        wanted = await body_of(request, OptionsRequest)
        now = options(await self._default_model())
        fleet = await self._jobs.fleet()
        names = [model.name for model in fleet.models if model.kind == _IMAGE]
        check_unchanged(wanted.model_dump(), now, names)
        return _json(None)

    async def _default_model(self) -> str | None:
        fleet = await self._jobs.fleet()
        if not any(_IMAGE in worker.kinds for worker in fleet.workers):
            raise ApiError(
                503,
                "no_worker",
                "No worker that takes image jobs is running: start one, or try again later.",
                retry_after=RETRY_SECONDS,
            )
        model = fleet.default(_IMAGE)
        return model.name if model else None

    async def progress(self, request: Request) -> Response:
        """Tell how far the caller's image is."""
        images = self._running.of(self._state.caller_of(request))
        image = shown(images)
        wants_picture = request.query_params.get("skip_current_image", "").lower() not in {"true", "1", "on", "yes"}
        picture = None
        if wants_picture and image is not None and image.has_preview:
            picture = await self._jobs.preview(image.job_id)
        return _json(progress_answer(images, picture))

    async def interrupt(self, request: Request) -> Response:
        """Stop the caller's images."""
        for image in self._running.of(self._state.caller_of(request)):
            await stop(self._jobs, image)
        return _json({})


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
