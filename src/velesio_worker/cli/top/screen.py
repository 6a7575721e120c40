"""The screen: workers above, what waits between, jobs below; and what the keys do."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import ClassVar, Final, Protocol

import anyio
from redis.exceptions import RedisError
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.events import Key, Resize
from textual.widgets import DataTable, Footer, Input, Static

from velesio_worker.cli.base import harmless
from velesio_worker.cli.top import writing
from velesio_worker.cli.top.arranging import Order, arranged
from velesio_worker.cli.top.panes import Help, Question, Stream
from velesio_worker.cli.top.tables import Column, Rows, Table, fit
from velesio_worker.cli.top.watch import LOST, SILENT, EngineRow, JobRow, Picture, Watch
from velesio_worker.client import FleetView, StreamEvent
from velesio_worker.queue.remedies import remedy

LOOK_SECONDS: Final = 5.0
"""How long a look may take before Redis counts as away."""

_ENGINES: Final = (
    *(Column("WORKER", grows=2), Column("KIND", 5), Column("STATE", 9), Column("MODEL", grows=2, end=True)),
    *(Column("SLOTS", 5, right=True), Column("GPU MEM", 9, right=True), Column("GPU", 4, right=True)),
    Column("TOK/S", 6, right=True),
)
_JOBS: Final = (
    *(Column("JOB", grows=3), Column("TYPE", 15), Column("WORKER", grows=2), Column("AGE", 5, right=True)),
    *(Column("ATT", 3, right=True), Column("TOKENS", 6, right=True), Column("TTFT", 5, right=True)),
)
_STYLES: Final = {"ready": "green", "failed": "bold red", "backoff": "red", LOST: "bold red", SILENT: "yellow"}


class Source(Protocol):
    """Where the data is from, and what the keys ask for: a :class:`velesio_worker.client.Client`."""

    async def look(self) -> FleetView:
        """Return workers and queue."""
        ...

    async def cancel(self, job_id: str) -> None:
        """Stop a job."""

    async def drain(self, worker: str) -> None:
        """End a worker in good order."""

    def events(
        self, job_id: str, after: str = "0-0", *, stall_timeout: float | None = None, reads: bool = True
    ) -> AsyncGenerator[StreamEvent, None]:
        """Yield a job's stream."""
        ...


class Top(App[None]):
    """The terminal view.

    Args:
        source: where the data is from.
        queue: the queue's name.
        redis_url: where Redis is, to say what is the matter with it.
        interval: how often to look, in seconds.
        order: what jobs are sorted by at first.
        words: which of them are shown at first.

    Attributes:
        picture: the fleet as it is shown.
    """

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { layout: vertical; }
    .bar { height: 1; background: $panel; }
    DataTable { background: $background; scrollbar-size-vertical: 1; overflow-x: hidden; }
    #workers { height: auto; max-height: 45%; }
    #jobs { height: 1fr; }
    #filter { display: none; height: 1; border: none; padding: 0; }
    #filter.shown { display: block; }
    #trouble { height: auto; max-height: 3; display: none; color: $text-error; text-style: bold; }
    #trouble.shown { display: block; }
    #page { height: 1fr; }
    ModalScreen { align: center middle; }
    .box { width: auto; max-width: 100%; height: auto; border: round $primary; padding: 0 1; background: $surface; }
    .box Static { width: auto; }
    Table:nocolor:focus > .datatable--cursor { text-style: reverse; }
    .bar:nocolor { text-style: underline; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "cancel", "Cancel"),
        Binding("l", "look", "Look"),
        Binding("d", "drain", "Drain"),
        Binding("s", "sort", "Sort"),
        Binding("r", "turn", "Turn", show=False),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(
        self,
        source: Source,
        queue: str,
        redis_url: str,
        *,
        interval: float = 1.0,
        order: Order = Order.AGE,
        words: str = "",
    ) -> None:
        plain = bool(os.environ.get("NO_COLOR"))
        super().__init__(ansi_color=True if plain else None)  # else textual makes greys of the colours
        self._source = source
        self._queue = queue
        self._redis_url = redis_url
        self._interval = interval
        self._watch = Watch()
        self._order, self._turned, self._words = order, False, words
        self.picture = Picture()

    def compose(self) -> ComposeResult:
        """Lay the screen out."""
        yield Static("", id="summary", classes="bar", markup=False)
        yield Table(id="workers", cursor_type="row", cell_padding=0)
        yield Static("", id="queues", classes="bar", markup=False)
        yield Table(id="jobs", cursor_type="row", cell_padding=0)
        yield Input(id="filter", placeholder="words of a job's id, type or worker", compact=True)
        yield Static("", id="trouble", markup=False)
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """Begin to look."""
        self._engine_rows = Rows(self._table("workers"), _ENGINES)
        self._job_rows = Rows(self._table("jobs"), _JOBS)
        self._resize(self.size.width)
        self._table("jobs").focus()
        self.run_worker(self._keep_looking(), exit_on_error=True)

    def on_resize(self, event: Resize) -> None:
        """Give the columns the new width."""
        if self.is_running and hasattr(self, "_job_rows"):  # the first one comes before there is anything
            self._resize(event.size.width)

    def _resize(self, width: int) -> None:
        for rows in (self._engine_rows, self._job_rows):
            rows.resize(width)
        self._paint()

    def _table(self, name: str) -> Table:
        return self.screen_stack[0].query_one(f"#{name}", Table)

    async def _keep_looking(self) -> None:
        while True:
            await self.look_once()
            await anyio.sleep(self._interval)

    async def look_once(self) -> None:
        """Look at the fleet, and show it."""
        try:
            with anyio.fail_after(LOOK_SECONDS):
                view = await self._source.look()
            self.picture = self._watch.see(view, time.monotonic())
        except RedisError as error:
            self.picture = self._watch.fail(remedy(error, self._redis_url))
        except TimeoutError:
            self.picture = self._watch.fail(f"Redis has not answered for {LOOK_SECONDS:g} s")
        self._paint()

    def _paint(self) -> None:
        picture, screens = self.picture, self.screen_stack
        if not screens or not screens[0].query("#trouble"):  # it is not there yet, or not any more
            return
        base = screens[0]
        jobs = arranged(picture.jobs, self._order, turned=self._turned, words=self._words)
        engines = picture.engines
        keys = [f"{row.worker} {row.kind}" for row in engines]
        self._engine_rows.show(keys, [_styled(row) for row in engines])
        shown = jobs[: writing.MOST_ROWS]
        self._job_rows.show([f"{job.worker} {job.id}" for job in shown], [_plain(job) for job in shown])
        clock = time.strftime("%H:%M:%S")
        summary = writing.summary(picture, self._queue)
        base.query_one("#summary", Static).update(fit(summary, clock, self.size.width))
        base.query_one("#queues", Static).update(fit(writing.queues(picture), self._sorting(jobs), self.size.width))
        trouble = base.query_one("#trouble", Static)
        trouble.set_class(bool(picture.trouble), "shown")
        trouble.update(Text(harmless(f"as it was last: {picture.trouble}") if picture.trouble else ""))

    def _sorting(self, jobs: Sequence[JobRow]) -> str:
        """Say how many jobs there are, and how they are arranged."""
        hidden = max(0, len(jobs) - writing.MOST_ROWS) + self.picture.untold
        more = f", {hidden} not shown" if hidden else ""
        words = f", /{self._words}" if self._words else ""
        count = f"{len(jobs)} job{'' if len(jobs) == 1 else 's'}"
        return f"{count} by {self._order}{' (turned)' if self._turned else ''}{words}{more}"

    def _chosen_job(self) -> JobRow | None:
        key = self._job_rows.chosen
        return next((job for job in self.picture.jobs if f"{job.worker} {job.id}" == key), None)

    def _chosen_worker(self) -> EngineRow | None:
        key = self._engine_rows.chosen
        return next((row for row in self.picture.engines if f"{row.worker} {row.kind}" == key), None)

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Look at a job on Enter."""
        if event.control.id == "jobs":  # pyright: ignore[reportUnknownMemberType] (textual's)
            self.action_look()

    def action_look(self) -> None:
        """Show the chosen job's stream."""
        if (job := self._chosen_job()) is None:
            self.notify("no job is chosen", timeout=2)
            return
        self.push_screen(Stream(job.id, lambda: self._source.events(job.id, reads=False)))

    def action_cancel(self) -> None:
        """Ask, and cancel the chosen job."""
        if (job := self._chosen_job()) is None:
            self.notify("no job is chosen", timeout=2)
            return
        question = f"Cancel {job.type} {job.id}?\nIts result is what it has so far."
        self._ask(question, lambda: self._source.cancel(job.id), f"{job.id} is cancelled")

    def action_drain(self) -> None:
        """Ask, and drain the chosen worker."""
        if (row := self._chosen_worker()) is None or row.gone is not None:
            self.notify("no worker is chosen that lives", timeout=2)
            return
        question = f"Drain {row.worker}?\nIt takes no more jobs, lets those that run end, and ends itself."
        self._ask(question, lambda: self._source.drain(row.worker), f"{row.worker} is drained")

    def _ask(self, question: str, act: Callable[[], Awaitable[None]], done: str) -> None:
        async def do() -> None:
            try:
                await act()
            except RedisError as error:
                self.notify(harmless(remedy(error, self._redis_url)), severity="error", markup=False)
            else:
                self.notify(harmless(done), timeout=3, markup=False)

        def answered(yes: bool | None) -> None:  # noqa: FBT001 (textual's way)
            if yes:
                self.run_worker(do(), exit_on_error=False)

        self.push_screen(Question(question), answered)

    def action_sort(self) -> None:
        """Sort by the next column."""
        self._order = self._order.next
        self._paint()

    def action_turn(self) -> None:
        """Sort the other way round."""
        self._turned = not self._turned
        self._paint()

    def action_help(self) -> None:
        """Say which key does what."""
        self.push_screen(Help())

    def action_filter(self) -> None:
        """Let words be written that jobs are to have."""
        field = self.query_one("#filter", Input)
        field.add_class("shown")
        field.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Show the jobs that have the words so far."""
        self._words = event.value
        self._paint()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Go back to the jobs."""
        event.input.set_class(bool(event.value), "shown")
        self._table("jobs").focus()

    def on_key(self, event: Key) -> None:
        """Give the filter up on Esc."""
        field = self._table("jobs").screen.query_one("#filter", Input)
        if event.key == "escape" and len(self.screen_stack) == 1 and field.has_class("shown"):
            field.value = ""
            field.remove_class("shown")
            self._table("jobs").focus()


def _plain(job: JobRow) -> list[Text]:
    return [Text(harmless(cell)) for cell in writing.job_cells(job)]


def _styled(row: EngineRow) -> list[Text]:
    """Return the cells of an engine; colours say nothing that words do not."""
    cells = [Text(harmless(cell)) for cell in writing.engine_cells(row)]
    cells[2].stylize(_STYLES.get(row.state, ""))
    return cells
