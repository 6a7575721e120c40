"""The line before a WebUI: one request at a time, some of them for several jobs at once."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final

import anyio
import anyio.to_thread

from velesio_worker.core.bell import Bell
from velesio_worker.core.logs import get_logger
from velesio_worker.engines.base import SpoiltError
from velesio_worker.engines.http import ConnectionLostError
from velesio_worker.engines.webui.api import NAME, Abilities, WebUIApi, begun_of, lost, reached, state_of
from velesio_worker.engines.webui.line_options import LineOptions
from velesio_worker.engines.webui.ownership import Ownership
from velesio_worker.engines.webui.pictures import preview
from velesio_worker.engines.webui.request import ImageRequest
from velesio_worker.engines.webui.result import images_of, results
from velesio_worker.engines.webui.rounds import Round, Ticket
from velesio_worker.wire.errors import EngineRefusedError, EngineUnavailableError, JobError, OutOfMemoryError
from velesio_worker.wire.events import Begun, Progress
from velesio_worker.wire.image_parameters import Txt2ImgParameters

_LAST_SECONDS: Final = 2.0
"""How long an interrupt may take, for which something else waits."""

_Trouble = JobError | ConnectionLostError

log = get_logger(__name__)


class Line:
    """Sends one request at a time, so that progress and interrupts, which name no request, are about that one.

    Args:
        api: the WebUI.
        abilities: what it can do.
        options: how it is treated.
        before: what is done before each request; returns the name of the model that is loaded.
        after: what is done after one that failed. Raises SpoiltError if the WebUI is to be replaced.

    Attributes:
        most: how many images may be made at once for several jobs; one, once there was too little memory for more.
        ended: whether it has ended its WebUI.
        begun: when the WebUI began its last image, in its own words; empty if it began none, or does not tell.
    """

    def __init__(
        self,
        api: WebUIApi,
        abilities: Abilities,
        options: LineOptions,
        before: Callable[[], Awaitable[str]],
        after: Callable[[ImageRequest, JobError], Awaitable[None]],
    ) -> None:
        self._api = api
        self._abilities = abilities
        self._options = options
        self._before = before
        self._after = after
        self._whose = Ownership(api, abilities, options)
        self._waiting: deque[Ticket] = deque()
        self._round: Round | None = None
        self._round_over = Bell()
        self._arrived = Bell()
        self.most = options.most
        self.ended = False
        self.begun = ""
        self._in_doubt = False

    @property
    def waiting(self) -> int:
        """How many jobs wait for their turn."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way."""
        return self._round is None

    @contextlib.asynccontextmanager
    async def place(self, request: ImageRequest) -> AsyncGenerator[Ticket, None]:
        """Stand in line with a request; leaving stops the work on it."""
        ticket = Ticket(request)
        self._waiting.append(ticket)
        self._arrived.ring()
        try:
            yield ticket
        finally:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            if self._round is not None:
                self._round.leave(ticket)

    async def idle(self) -> None:
        """Wait until no request is under way: one that nobody wants any more may still be."""
        while self._round is not None:
            await self._round_over.wait()

    async def run(self) -> None:
        """Serve the line until cancelled."""
        while True:
            while not self._waiting:
                await self._arrived.wait()
            self._round = Round(self._next())
            try:
                await self._perform(self._round)
            except anyio.get_cancelled_exc_class():  # a WebUI elsewhere does not care who still listens, and goes on
                with anyio.move_on_after(_LAST_SECONDS, shield=True):
                    await self._interrupt(self._round)
                raise
            finally:
                self._round = None
                self._round_over.ring()

    def _next(self) -> list[Ticket]:
        """Take the first in line, and those behind it that ask for the same."""
        first = self._waiting.popleft()
        tickets = [first]
        asked = first.request.parameters
        if not isinstance(asked, Txt2ImgParameters):
            return tickets
        room = self.most - asked.batch_size
        for ticket in list(self._waiting):
            other = ticket.request.parameters
            same = isinstance(other, Txt2ImgParameters) and asked.same_but_for_seed(other)
            if same and other.batch_size <= room:
                self._waiting.remove(ticket)
                tickets.append(ticket)
                room -= other.batch_size
        return tickets

    async def _perform(self, round_: Round) -> None:
        model, answers, failure = "", list[Any](), None
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._listen, None)  # it has a limit of its own: a model may be loaded
                await self._make_sure()
                model = await self._before()
                group.cancel_scope.cancel()
            if not round_.wanted:
                return
            round_.tell(Begun())
            async with anyio.create_task_group() as group:
                if self._abilities.progress:
                    group.start_soon(self._follow, round_)
                else:
                    group.start_soon(self._listen, self._options.work)
                group.start_soon(self._stop_unwanted, round_)
                answers = await self._send(round_)
                group.cancel_scope.cancel()
            if not round_.wanted:
                return
            await self._check_whole(round_)
            requests = [ticket.request for ticket in round_.tickets]
            done = await anyio.to_thread.run_sync(results, requests, answers, round_.seed, model)
            for ticket, end in zip(round_.tickets, done, strict=True):
                if ticket in round_.wanted:
                    ticket.tell(Progress(round_.course.end()), end)
        except* (JobError, ConnectionLostError) as errors:
            error = _first(errors)
            if isinstance(error, OutOfMemoryError) and len(round_.tickets) > 1:
                self.most = 1
                log.warning(f"{NAME} ran out of memory: jobs are not run together any more", action="merging_off")
            self._in_doubt = self._in_doubt or isinstance(error, ConnectionLostError)
            failure = lost(error) if isinstance(error, ConnectionLostError) else error
            round_.fail(failure)
        if failure is not None:
            await self._put_right(round_, failure)

    async def _put_right(self, round_: Round, failure: JobError) -> None:
        """See that a request that failed has spoilt none of the next."""
        kill = self._options.kill
        try:
            await self._after(round_.tickets[0].request, failure)
        except SpoiltError as error:
            with anyio.move_on_after(_LAST_SECONDS):  # its jobs have failed for a reason of their own
                await round_.unwanted.wait()
            log.warning(f"{NAME} is started again: {error}", action="engine_replaced")
            if kill is not None:
                self._replace(kill, f"a model could not be loaded in the midst of an image: {error}")
        except (JobError, ConnectionLostError) as error:
            log.debug(f"{NAME} could not be put right: {error}", action="put_right_failed")

    async def _make_sure(self) -> None:
        """See that the WebUI is there, after a connection was lost: else a job would begin that only stood in line.

        Raises:
            EngineUnavailableError: it is not.
        """
        if self._in_doubt:
            with reached():
                await self._api.get("sd-models")
            self._in_doubt = False

    async def _send(self, round_: Round) -> list[Any]:
        """Send the request; to a server that does not know ``n_iter``, once for each batch."""
        request, answers, made = round_.tickets[0].request, list[Any](), 0
        wanted = round_.batch_size * request.parameters.n_iter
        if len(round_.tickets) > 1:
            log.info(f"{len(round_.tickets)} jobs that ask for the same are run at once", action="jobs_merged")
        while True:
            body = request.body_with(round_.seed + made, round_.batch_size)
            if self._abilities.tasks:
                body["force_task_id"] = round_.task
            await self._whose.look(round_)
            answers.append(await self._api.post(request.route, body, timeout=None))
            more = len(await anyio.to_thread.run_sync(images_of, answers[-1]))
            made += more
            if self._abilities.interrupt or not (more and made < wanted and round_.wanted):  # or it was interrupted
                return answers

    async def _check_whole(self, round_: Round) -> None:
        """Find out whether somebody else interrupted the request: its image would be half done, and does not say so."""
        if not self._abilities.progress:
            return
        state = await self._api.state()
        self.begun = begun_of(state) or self.begun
        if _is_interrupted(state) or round_.spoiled:
            raise EngineRefusedError("Somebody interrupted the image at the WebUI itself; what it has is half done.")

    def _show_sign(self) -> None:
        """Tell everybody in the line, those who wait as well, that the WebUI is at work."""
        for ticket in (*self._waiting, *(self._round.wanted if self._round else ())):
            ticket.tell()

    async def _listen(self, work: Callable[[], float] | None) -> None:
        """Show signs of a WebUI that does not tell how far it is: that it writes or computes; else trust it."""
        seen = None
        while True:
            await anyio.sleep(self._options.pace.listen)
            now = None if work is None else work()
            if now is None or now != seen:
                self._show_sign()
            seen = now

    async def _follow(self, round_: Round) -> None:
        """Tell the jobs how far the WebUI is; trouble with that is no matter."""
        seen, pace = None, self._options.pace
        for polls in itertools.count(1):
            await anyio.sleep(pace.poll)
            looks = self._options.previews and polls % pace.preview_polls == 0
            try:
                ours = await self._whose.is_ours(round_)
                answer: Any = await self._api.get(f"progress?skip_current_image={'false' if looks else 'true'}")
            except (ConnectionLostError, JobError) as error:
                log.debug(f"{NAME} does not tell how far it is: {error}", action="progress_unknown")
                continue
            state = state_of(answer)
            if state != seen:
                seen = state
                self._show_sign()
            if ours and state.get("job_count") and _is_interrupted(state):
                round_.spoiled = True  # whoever is next in the WebUI's own line may wipe that out before the end
            position = round_.course.moved(answer) if ours else None
            if position is not None:
                picture = await _preview(answer, round_.most_pixels) if looks else None
                round_.tell(Progress(position, picture))

    async def _stop_unwanted(self, round_: Round) -> None:
        """Once nobody wants a request any more, interrupt it until it ends; a server of our own that goes on, goes."""
        await round_.unwanted.wait()
        pace, kill = self._options.pace, self._options.kill
        deadline = anyio.current_time() + pace.replace
        while kill is None or anyio.current_time() < deadline:
            await self._interrupt(round_)
            await anyio.sleep(pace.interrupt)
        log.warning(f"{NAME} goes on with an image that nobody wants; it is started again", action="engine_replaced")
        self._replace(kill, "it went on with an image that nobody wanted.")

    def _replace(self, kill: Callable[[], None], why: str) -> None:
        for ticket in self._waiting:  # it costs them no attempt
            ticket.fail(EngineUnavailableError(f"{NAME} was replaced: {why}"))
        self.ended = True
        kill()

    async def _interrupt(self, round_: Round) -> None:
        if self._abilities.interrupt:
            with contextlib.suppress(ConnectionLostError, JobError):
                if await self._whose.is_ours(round_):
                    with anyio.move_on_after(_LAST_SECONDS, shield=True):  # else it might arrive after the next request
                        await self._api.post("interrupt", {})


async def _preview(answer: dict[str, Any], most_pixels: int) -> bytes | None:
    image = answer.get("current_image")
    if not isinstance(image, str) or not image:
        return None
    try:
        return await anyio.to_thread.run_sync(preview, image, most_pixels)
    except Exception as error:  # noqa: BLE001 (whatever it is: it is about no more than a preview)
        log.debug(f"{NAME}'s preview cannot be used: it {error}", action="preview_unusable")
        return None


def _is_interrupted(state: dict[str, Any]) -> bool:
    return bool(state.get("interrupted") or state.get("skipped") or state.get("stopping_generation"))


def _first(errors: BaseExceptionGroup[_Trouble]) -> _Trouble:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
