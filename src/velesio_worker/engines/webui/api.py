"""The calls to a WebUI, and what it can do.

Source of the routes: AUTOMATIC1111 1.10, ``modules/api/api.py``.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, cast

import anyio
import anyio.to_thread
import orjson

from velesio_worker.core.settings import Settings
from velesio_worker.engines.decoding import decode_json
from velesio_worker.engines.http import (
    ANSWER_BYTES,
    LIST_BYTES,
    SMALL_BYTES,
    AnswerTooLargeError,
    ConnectionLostError,
    EngineHTTP,
    NotReachedError,
    UnreadableAnswerError,
)
from velesio_worker.engines.webui.refusals import NAME, refusal
from velesio_worker.wire.errors import (
    EngineCrashedError,
    EngineRefusedError,
    EngineUnavailableError,
    JobError,
    ResultTooLargeError,
)

ANSWER_SECONDS: Final = 10.0
"""How long the answer to a question that takes no work may take."""

_OK: Final = 200
_ABSENT: Final = frozenset({404, 501})
_PREFIX: Final = "/sdapi/v1"
_TASKS: Final = "/internal/progress"
_MAKING: Final = frozenset({"txt2img", "img2img"})
_SMALL: Final = 256 * 1024
_LARGE: Final = 1024 * 1024
_IMAGES: Final = re.compile(rb'\s*\{\s*"images"\s*:\s*\[')
"""How the answers with images of every known server begin."""

_PIXEL_BYTES: Final = 6
"""Of a PNG that cannot be made smaller, with what base64 adds to it."""

_GRIDS: Final = 2
"""A grid of all images may stand before them, and has as many pixels."""

_SCRIPTED: Final = 16
"""So many times as many images may come where scripts are allowed: a plot has one for each pair of values."""

_NO_IMAGE_YET: Final = "0"
"""What AUTOMATIC1111, Forge and SD.Next tell as the time of the last image before the first."""

_NEXT: Final = re.compile(rb'\s*(?:,\s*)?("|\])')


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a server can do beside making images.

    Attributes:
        progress: tell how far it is.
        interrupt: stop in the middle.
        options: change its settings, the loaded model among them.
        unload: take its model out of the GPU's memory, and load it again.
        tasks: tell whether it works on a certain request.
    """

    progress: bool = False
    interrupt: bool = False
    options: bool = False
    unload: bool = False
    tasks: bool = False


class WebUIApi:
    """Asks a WebUI, and turns what it answers into Python or into an error.

    What asks raises :class:`ConnectionLostError` if there was no answer, and :class:`JobError` if it was an error.

    Args:
        http: the client.
        images: the most bytes that an answer with images may have.
    """

    def __init__(self, http: EngineHTTP, images: int = ANSWER_BYTES) -> None:
        self._http = http
        self._images = images

    async def get(self, route: str) -> Any:  # noqa: ANN401 (JSON)
        """GET ``/sdapi/v1/<route>``; None if there is no such route."""
        with readable(route):
            path = f"{_PREFIX}/{route}"
            status, text = await self._http.get_text(path, timeout=ANSWER_SECONDS, limit=LIST_BYTES)
        return None if status in _ABSENT else _checked(status, await _decoded(text.encode()))

    async def post(
        self,
        route: str,
        body: dict[str, Any],
        *,
        timeout: float | None = ANSWER_SECONDS,  # noqa: ASYNC109 (one limit for all the steps)
    ) -> Any:  # noqa: ANN401 (JSON)
        """POST to ``/sdapi/v1/<route>``; the longest wait is in seconds, None: for ever.

        Raises:
            NotReachedError: nothing listens there.
        """
        most = self._images if route in _MAKING else LIST_BYTES
        return _checked(*await self._post(f"{_PREFIX}/{route}", body, timeout, most))

    async def _post(
        self, path: str, body: dict[str, Any] | list[Any], patience: float | None, most: int = LIST_BYTES
    ) -> tuple[int, Any]:
        try:
            with anyio.fail_after(patience), readable(path):
                async with self._http.post(path, orjson.dumps(body)) as response:
                    if response.status == _OK:
                        return _OK, await _decoded(await response.body(most))
                    with suppress(AnswerTooLargeError):  # the status says enough
                        return response.status, decode_json(await response.body(SMALL_BYTES))
                    return response.status, None
        except TimeoutError:
            raise ConnectionLostError(f"no answer to {path} within {patience:g} s") from None

    async def state(self) -> dict[str, Any]:
        """Return the ``state`` of what is made now; empty if the server does not tell."""
        with suppress(ConnectionLostError, JobError):
            return state_of(await self.get("progress?skip_current_image=true"))
        return {}

    async def works_on(self, task: str) -> bool | None:
        """Whether the request of this id is at work, not waiting nor over; None: the server knows no such request."""
        question = {"id_task": task, "id_live_preview": -1, "live_preview": False}
        match _checked(*await self._post(_TASKS, question, ANSWER_SECONDS)):
            case {"active": True}:
                return True
            case {"queued": True} | {"completed": True}:
                return False
            case _:
                return None

    async def abilities(self) -> Abilities:
        """Find out what the server can do; asking changes nothing."""
        progress: Any = await self.get("progress")
        changes, _ = await self._post(f"{_PREFIX}/options", [], None)  # no object: refused before anything is set
        return Abilities(
            progress=isinstance(progress, dict) and "state" in progress,
            interrupt=await self._takes_post(f"{_PREFIX}/interrupt"),
            options=changes not in _ABSENT,
            unload=await self._takes_post(f"{_PREFIX}/unload-checkpoint"),
            tasks=await self._takes_post(_TASKS),
        )

    async def _takes_post(self, path: str) -> bool:
        """Whether there is a route that takes POST: to a GET it says that the method is wrong, not the route."""
        with readable(path):
            status, _ = await self._http.get_text(path, timeout=ANSWER_SECONDS, limit=LIST_BYTES)
        return status not in _ABSENT


async def _decoded(body: bytes) -> Any:  # noqa: ANN401 (JSON)
    """Decode an answer, in a thread if it is large: text jobs would wait for the event loop."""
    if len(body) <= _LARGE:
        return decode_answer(body)
    return await anyio.to_thread.run_sync(decode_answer, body)


def decode_answer(body: bytes, *, small: int = _SMALL) -> Any:  # noqa: ANN401 (JSON)
    """Decode an answer; None if it is no JSON.

    Images are most of one that is not small, in bytes, and base64 needs no decoding: text jobs wait while JSON is
    decoded.
    """
    begin = _IMAGES.match(body) if len(body) > small else None
    cut = None if begin is None else _cut_images(body, begin.end())
    if begin is None or cut is None:
        return decode_json(body)
    images, end = cut
    others = decode_json(b"".join((body[: begin.end()], body[end:])))
    return None if others is None else others | {"images": images}


def _cut_images(body: bytes, at: int) -> tuple[list[str], int] | None:
    """Return the strings of an array, and where it ends; None if it holds anything else. Base64 needs no escapes."""
    images: list[str] = []
    while (found := _NEXT.match(body, at)) is not None:
        if found[1] == b"]":
            return images, found.end() - 1
        end = body.find(b'"', found.end())
        image = body[found.end() : max(end, 0)]
        if end < 0 or b"\\" in image or not image.isascii():
            return None
        images.append(image.decode())
        at = end + 1
    return None


def state_of(answer: object) -> dict[str, Any]:
    """Return the ``state`` of an answer to ``GET /progress``; empty if there is none."""
    state: Any = cast("dict[str, Any]", answer).get("state") if isinstance(answer, dict) else None
    return cast("dict[str, Any]", state) if isinstance(state, dict) else {}


def begun_of(state: dict[str, Any]) -> str:
    """Return when the last image was begun, in the WebUI's own words; empty if none was, or it does not tell."""
    begun = state.get("job_timestamp")
    return begun if isinstance(begun, str) and begun != _NO_IMAGE_YET else ""


def is_new(state: dict[str, Any]) -> bool:
    """Whether a WebUI tells that it has begun no image since it was started."""
    return state.get("job_timestamp") == _NO_IMAGE_YET


def _checked(status: int, answer: Any) -> Any:  # noqa: ANN401 (JSON)
    if status == _OK:
        return answer
    raise refusal(status, answer)


@contextmanager
def readable(path: str) -> Generator[None]:
    """Raise a JobError for an answer that is too large, or packed: another try would get the same."""
    try:
        yield
    except AnswerTooLargeError as error:
        raise ResultTooLargeError(f"{NAME}'s answer to {path} is too large: {error}.") from error
    except UnreadableAnswerError as error:
        raise EngineRefusedError(f"{NAME}'s answer to {path} cannot be read: {error}.") from error


def largest_answer(settings: Settings) -> int:
    """How many bytes an answer with images may have, by how many pixels and images jobs may ask for."""
    images = max(settings.sd_max_images, settings.sd_max_batch) * (_SCRIPTED if settings.sd_scripts else 1)
    return settings.sd_max_pixels * _PIXEL_BYTES * images * _GRIDS + LIST_BYTES


@contextmanager
def reached() -> Generator[None]:
    """Raise EngineUnavailableError for a connection that is lost: it is the engine's end, no mistake of the worker."""
    try:
        yield
    except ConnectionLostError as error:
        raise EngineUnavailableError(f"{NAME} does not answer: {error}") from error


def lost(error: ConnectionLostError) -> JobError:
    """Return what the end of a connection means for a job: a request that never arrived costs it no attempt."""
    if isinstance(error, NotReachedError):
        return EngineUnavailableError(f"{NAME} cannot be reached: {error}")
    return EngineCrashedError(f"{NAME} went away while it made the image: {error}")
