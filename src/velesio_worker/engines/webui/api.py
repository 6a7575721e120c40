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

from velesio_worker.engines.http import ConnectionLostError, EngineHTTP, NotReachedError, decode_json
from velesio_worker.wire.errors import (
    EngineCrashedError,
    EngineRefusedError,
    EngineUnavailableError,
    JobError,
    OutOfMemoryError,
)

NAME: Final = "the WebUI"
ANSWER_SECONDS: Final = 10.0
"""How long the answer to a question that takes no work may take."""

_OK: Final = 200
_ABSENT: Final = frozenset({404, 501})
_UNAUTHORISED: Final = frozenset({401, 403})
_SHOWN: Final = 300
_PREFIX: Final = "/sdapi/v1"
_TASKS: Final = "/internal/progress"
_SMALL: Final = 256 * 1024
_LARGE: Final = 1024 * 1024
_IMAGES: Final = re.compile(rb'\s*\{\s*"images"\s*:\s*\[')
"""How the answers with images of every known server begin."""

_NO_IMAGE_YET: Final = "0"
"""What AUTOMATIC1111, Forge and SD.Next tell as the time of the last image before the first."""

_NEXT: Final = re.compile(rb'\s*(?:,\s*)?("|\])')

_NO_MEMORY: Final = re.compile(
    r"([\w.]+\.)?OutOfMemoryError\b"
    r"|((CUDA|HIP|XPU|MPS) (backend |error: )?)?out of memory\b"  # torch, of each kind of GPU
    r"|(\[enforce fail at [^\]]{1,200}\] ?\w*\. ?)?DefaultCPUAllocator: (can't allocate|not enough) memory\b"
    r"|(\[Errno 12\] )?cannot allocate memory\b"
    r"|ggml\w*: .{0,200}?(out of memory|failed to allocate)\b"  # sd-server
    r"|failed to allocate\b",
    re.IGNORECASE,
)
"""How an error begins that is one of memory; further on it may repeat a job's texts."""

_OF_MEMORY: Final = frozenset({"RuntimeError", "AcceleratorError", "OSError"})
"""Exceptions that may be about memory: others begin with whatever a job says."""


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
    """

    def __init__(self, http: EngineHTTP) -> None:
        self._http = http

    async def get(self, route: str) -> Any:  # noqa: ANN401 (JSON)
        """GET ``/sdapi/v1/<route>``; None if there is no such route."""
        status, text = await self._http.get_text(f"{_PREFIX}/{route}", timeout=ANSWER_SECONDS)
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
        return _checked(*await self._post(f"{_PREFIX}/{route}", body, timeout))

    async def _post(self, path: str, body: dict[str, Any] | list[Any], limit: float | None) -> tuple[int, Any]:
        try:
            with anyio.fail_after(limit):
                async with self._http.post(path, orjson.dumps(body)) as response:
                    return response.status, await _decoded(await response.body())
        except TimeoutError:
            raise ConnectionLostError(f"no answer to {path} within {limit:g} s") from None

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
        status, _ = await self._http.get(path, timeout=ANSWER_SECONDS)
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


def refusal(status: int, answer: object) -> JobError:
    """Return the exception that stands for an answer that is an error.

    AUTOMATIC1111 says ``{"error", "detail", "errors"}``, Forge ``message`` for ``errors``, FastAPI itself ``detail``
    alone, which may be a list.

    Args:
        status: the HTTP status.
        answer: the body, decoded; None if it is no JSON.
    """
    if status in _UNAUTHORISED:
        return EngineRefusedError(
            f"{NAME} wants a user and a password (--api-auth): put them into SD_SERVER_URL, as "
            "http://user:password@host:port"
        )
    fields = cast("dict[str, Any]", answer) if isinstance(answer, dict) else {}
    words = [_text(word) for name in ("error", "detail", "errors", "message") if (word := fields.get(name))]
    whole = ": ".join(words) or "nothing more"
    said = whole[:_SHOWN]
    if _lacks_memory(fields):
        return OutOfMemoryError(f"{NAME} ran out of memory: {said}")
    kind = f"{words[0]}: " if words and words[0].isidentifier() else ""  # an exception's name, which repeats nothing
    return EngineRefusedError(f"{NAME} answered with status {status}: {said}", said=said.removeprefix(kind))


def _lacks_memory(fields: dict[str, Any]) -> bool:
    """Whether an error says, in the server's own words, that there is too little memory."""
    kind: object = fields.get("error")  # an exception's name, or else the words themselves
    said: object = fields.get("errors") or fields.get("message")
    if not kind:
        said = said or fields.get("detail")
    elif not isinstance(kind, str) or kind not in _OF_MEMORY:
        said = kind
    return isinstance(said, str) and _NO_MEMORY.match(said) is not None


def is_passing(error: JobError) -> bool:
    """Whether an error is one of a server that starts, or of a proxy before one."""
    return isinstance(error, EngineRefusedError) and str(error).startswith(f"{NAME} answered with status 5")


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


def _text(value: object) -> str:
    if isinstance(value, list):  # FastAPI's, of what is wrong
        return "; ".join(_problem(problem) for problem in cast("list[object]", value))
    return str(value)


def _problem(problem: object) -> str:
    if not isinstance(problem, dict):
        return str(problem)
    fields = cast("dict[str, Any]", problem)
    path: Any = fields.get("loc")
    place = ".".join(str(step) for step in cast("list[object]", path)) if isinstance(path, list) else ""
    return f"{place}: {fields.get('msg')}"
