"""What image workers have, as they say when they are asked; kept for some seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import PureWindowsPath
from typing import Any, Final, cast

import anyio

from velesio_worker.gateway.caller import Caller
from velesio_worker.gateway.errors import ApiError, api_error, reads_results
from velesio_worker.gateway.jobs import Jobs
from velesio_worker.wire.errors import JobError

KEPT_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 60.0
"""How long a worker may take to say what it has: an engine that nobody has used yet is started for it."""

_LATENT: Final = "latent"


class Catalogue:
    """Asks image workers what they have. Any one of them answers, so they are taken to be alike.

    Args:
        jobs: where the questions go.
        kept: for how many seconds an answer holds.
    """

    def __init__(self, jobs: Jobs, *, kept: float = KEPT_SECONDS) -> None:
        self._jobs = jobs
        self._kept = kept
        self._answers: dict[str, tuple[float, dict[str, Any]]] = {}
        self._asking: dict[str, anyio.Lock] = {}

    async def models(self, caller: Caller) -> list[dict[str, Any]]:
        """Return the checkpoints, as ``GET /sdapi/v1/sd-models`` has them. Raises ApiError: nobody answers."""
        return sd_models(await self._asked(caller, "list_models"))

    async def info(self, caller: Caller) -> dict[str, Any]:
        """Return what there is beside checkpoints (``model_info``). Raises ApiError: nobody answers."""
        return await self._asked(caller, "model_info")

    async def _asked(self, caller: Caller, job_type: str) -> dict[str, Any]:
        """Return a fresh answer; of those who ask at the same time one asks for all."""
        async with self._asking.setdefault(job_type, anyio.Lock()):
            at, answer = self._answers.get(job_type, (0.0, {}))
            if not answer or time.monotonic() - at > self._kept:
                answer = await self._ask(caller, job_type)
                self._answers[job_type] = time.monotonic(), answer
            return answer

    async def _ask(self, caller: Caller, job_type: str) -> dict[str, Any]:
        expires = time.time() + ANSWER_SECONDS
        job_id = await self._jobs.submit(caller, job_type, {"kind": "image"}, expires_at=expires)
        try:
            with anyio.fail_after(ANSWER_SECONDS):
                return await self._jobs.result(job_id)
        except JobError as error:
            raise api_error(error) from None
        except TimeoutError:
            raise ApiError(
                504, "timeout", f"No image worker has answered for {ANSWER_SECONDS:.0f} s: try again."
            ) from None


@reads_results
def sd_models(listing: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a worker's list of image models in the WebUI's form.

    A title is the name, since a WebUI's own changes once a hash is known; of a file only its name is told.
    """
    return [
        {
            "title": model.get("name"),
            "model_name": model.get("name"),
            "hash": model.get("hash"),
            "sha256": None,
            "filename": PureWindowsPath(model.get("filename") or "").name,
            "config": None,
        }
        for model in cast("list[dict[str, Any]]", listing.get("models") or [])
    ]


@reads_results
def samplers(info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the samplers in the WebUI's form."""
    return [{"name": name, "aliases": [], "options": {}} for name in _names(info, "samplers")]


@reads_results
def schedulers(info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the schedulers in the WebUI's form."""
    more = {"aliases": None, "default_rho": None, "need_inner_model": None}
    return [{"name": name, "label": name, **more} for name in _names(info, "schedulers")]


@reads_results
def upscalers(info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the upscalers of pixels in the WebUI's form."""
    more = {"model_name": None, "model_path": None, "model_url": None, "scale": None}
    return [{"name": name, **more} for name in _names(info, "upscalers") if not _is_latent(name)]


@reads_results
def latent_upscale_modes(info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the upscalers of latent images in the WebUI's form."""
    return [{"name": name} for name in _names(info, "upscalers") if _is_latent(name)]


@reads_results
def vaes(info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the VAEs in the WebUI's form; of a file only its name is told."""
    return [{"model_name": name, "filename": name} for name in _names(info, "vaes")]


def _is_latent(name: str) -> bool:
    return name.lower().startswith(_LATENT)


def _names(info: Mapping[str, Any], kind: str) -> Sequence[str]:
    return cast("list[str]", info.get(kind) or [])
