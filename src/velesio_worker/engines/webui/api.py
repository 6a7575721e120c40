"""The calls to a WebUI, and what it can do.

Source of the routes: AUTOMATIC1111 1.10, ``modules/api/api.py``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, cast

import anyio
import orjson

from velesio_worker.engines.http import ConnectionLostError, EngineHTTP, NotReachedError
from velesio_worker.engines.webui.answer import decode_answer
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

OK: Final = 200
_ABSENT: Final = frozenset({404, 501})
_UNAUTHORISED: Final = frozenset({401, 403})
_SHOWN: Final = 300
_PREFIX: Final = "/sdapi/v1"
_TASKS: Final = "/internal/progress"
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


class TaskState(StrEnum):
    """What a WebUI says of a request that is known by an id: inactive is what waits, or is over."""

    ACTIVE = "active"
    INACTIVE = "inactive"
    UNKNOWN = "unknown"


class WebUIApi:
    """Asks a WebUI, and turns what it answers into Python or into an error.

    Args:
        http: the client.
    """

    def __init__(self, http: EngineHTTP) -> None:
        self._http = http

    async def get(self, route: str) -> Any:  # noqa: ANN401 (JSON)
        """GET ``/sdapi/v1/<route>``; None if there is no such route.

        Raises:
            ConnectionLostError: there was no answer.
            JobError: the answer was an error.
        """
        status, answer = await self._http.get(f"{_PREFIX}/{route}", timeout=ANSWER_SECONDS)
        if status in _ABSENT:
            return None
        return _checked(status, answer)

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
            ConnectionLostError: there was no answer, or none in time.
            JobError: the answer was an error.
        """
        return _checked(*await self._post(f"{_PREFIX}/{route}", body, timeout))

    async def _post(self, path: str, body: dict[str, Any] | list[Any], limit: float | None) -> tuple[int, Any]:
        try:
            with anyio.fail_after(limit):
                async with self._http.post(path, orjson.dumps(body)) as response:
                    return response.status, decode_answer(await response.body())
        except TimeoutError:
            raise ConnectionLostError(f"no answer to {path} within {limit:g} s") from None

    async def task_state(self, task: str) -> TaskState:
        """How far the request with this task's id is.

        Raises:
            ConnectionLostError: there was no answer.
            JobError: the answer was an error.
        """
        question = {"id_task": task, "id_live_preview": -1, "live_preview": False}
        match _checked(*await self._post(_TASKS, question, ANSWER_SECONDS)):
            case {"active": True}:
                return TaskState.ACTIVE
            case {"queued": True} | {"completed": True}:
                return TaskState.INACTIVE
            case _:
                return TaskState.UNKNOWN

    async def abilities(self) -> Abilities:
        """Find out what the server can do; asking changes nothing.

        Raises:
            ConnectionLostError: there was no answer.
            JobError: the answer was an error.
        """
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


def _checked(status: int, answer: Any) -> Any:  # noqa: ANN401 (JSON)
    if status == OK:
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
