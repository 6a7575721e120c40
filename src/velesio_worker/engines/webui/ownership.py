"""Whose image a WebUI makes that others use, too: progress and interrupts are about that one, whoever asked for it."""

from __future__ import annotations

import contextlib
from enum import StrEnum
from typing import Any, Final

import anyio

from velesio_worker.core.logs import get_logger
from velesio_worker.engines.http import ConnectionLostError
from velesio_worker.engines.webui.api import NAME, Abilities, TaskState, WebUIApi
from velesio_worker.engines.webui.progress import state_of
from velesio_worker.engines.webui.rounds import Round
from velesio_worker.wire.errors import JobError

UNKNOWN_SECONDS: Final = 10.0
"""How long a request that was sent may be unknown by its id before the WebUI is taken to keep none."""

log = get_logger(__name__)


class TaskIds(StrEnum):
    """What is known of a WebUI's ids for requests."""

    NONE = "none"
    MAYBE = "maybe"
    KEPT = "kept"


class Ownership:
    """Finds out whether a WebUI works on a certain request of ours.

    A WebUI that knows requests by their ids tells. Of another, this looks whether it was busy when the request was
    sent, and waits for the end of that image: who of several strangers is next, nobody can know.

    Args:
        api: the WebUI.
        abilities: what it can do.
        shared: whether others may use it.
    """

    def __init__(self, api: WebUIApi, abilities: Abilities, *, shared: bool) -> None:
        self._api = api
        self._shared = shared
        self._progress = abilities.progress
        self._ids = TaskIds.MAYBE if abilities.tasks else TaskIds.NONE

    async def look(self, round_: Round) -> None:
        """Take note of what the WebUI does just before a request is sent."""
        if self._shared and self._progress and self._ids is not TaskIds.KEPT:
            round_.behind = await self._image()
        round_.sent_at = anyio.current_time()

    async def is_ours(self, round_: Round) -> bool:
        """Whether the WebUI works on this request, which was sent.

        Raises:
            ConnectionLostError: there was no answer.
            JobError: the answer was an error.
        """
        if not self._shared:
            return True
        if self._ids is not TaskIds.NONE:
            state = await self._api.task_state(round_.task)
            if state is not TaskState.UNKNOWN:
                self._ids = TaskIds.KEPT
            if self._ids is TaskIds.KEPT or anyio.current_time() < round_.sent_at + UNKNOWN_SECONDS:
                return state is TaskState.ACTIVE
            log.warning(
                f"{NAME} does not know requests by their ids: whose image it makes can only be guessed at, "
                "so an interrupt may meet somebody else's where several others use it",
                action="tasks_unknown",
            )
            self._ids = TaskIds.NONE
        if round_.behind is not None and round_.behind != await self._image():
            round_.behind = None
        return round_.behind is None

    async def _image(self) -> str | None:
        """When the image that is made now was begun, in the WebUI's own words; None if none is, or it does not say."""
        state: dict[str, Any] = {}
        with contextlib.suppress(ConnectionLostError, JobError):
            state = state_of(await self._api.get("progress?skip_current_image=true"))
        begun = state.get("job_timestamp")
        return begun if state.get("job_count") and isinstance(begun, str) else None
