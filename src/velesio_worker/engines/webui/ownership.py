"""Whose image a WebUI makes that others use, too: progress and interrupts are about that one, whoever asked for it."""

from __future__ import annotations

import anyio

from velesio_worker.core.logs import get_logger
from velesio_worker.engines.webui.api import NAME, Abilities, WebUIApi
from velesio_worker.engines.webui.line_options import LineOptions
from velesio_worker.engines.webui.rounds import Round

log = get_logger(__name__)


class Ownership:
    """Finds out whether a WebUI works on a certain request of ours.

    A WebUI that knows requests by their ids tells. Of another, this looks whether it was busy when the request was
    sent, and waits for the end of that image: who of several strangers is next, nobody can know.

    Args:
        api: the WebUI.
        abilities: what it can do.
        options: how it is treated.
    """

    def __init__(self, api: WebUIApi, abilities: Abilities, options: LineOptions) -> None:
        self._api = api
        self._options = options
        self._progress = abilities.progress
        self._keeps_ids: bool | None = None if abilities.tasks else False  # None: not known yet

    async def look(self, round_: Round) -> None:
        """Take note of what the WebUI does just before a request is sent."""
        if self._options.shared and self._progress and not self._keeps_ids:
            round_.behind = await self._image()
        round_.sent_at = anyio.current_time()

    async def is_ours(self, round_: Round) -> bool:
        """Whether the WebUI works on this request, which was sent. Raises as a :class:`WebUIApi` does."""
        if not self._options.shared:
            return True
        if self._keeps_ids is not False:
            at_work = await self._api.works_on(round_.task)
            if at_work is not None:
                self._keeps_ids = True
            if self._keeps_ids or anyio.current_time() < round_.sent_at + self._options.pace.unknown:
                return at_work is True
            log.warning(
                f"{NAME} does not know requests by their ids: whose image it makes can only be guessed at, "
                "so an interrupt may meet somebody else's where several others use it",
                action="tasks_unknown",
            )
            self._keeps_ids = False
        if round_.behind is not None and round_.behind != await self._image():
            round_.behind = None
        return round_.behind is None

    async def _image(self) -> str | None:
        """When the image that is made now was begun, in the WebUI's own words; None if none is, or it does not say."""
        state = await self._api.state()
        begun = state.get("job_timestamp")
        return begun if state.get("job_count") and isinstance(begun, str) else None
