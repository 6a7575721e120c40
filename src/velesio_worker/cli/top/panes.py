"""The screens above the fleet's: a question, the help, and a job's stream as it is made."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import ClassVar, Final

from redis.exceptions import RedisError
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widgets import Static

from velesio_worker.cli.base import harmless
from velesio_worker.client import StreamEvent
from velesio_worker.wire import events
from velesio_worker.wire.errors import VelesioError
from velesio_worker.wire.printable import printable

SHOWN: Final = 20_000
"""Characters of a stream that are kept on the screen: its end."""

_PAINT_SECONDS: Final = 0.1

HELP: Final = """\
Tab       workers, or jobs          Enter l  look at a job's stream
Up Down   choose one                c        cancel the job (asks)
s         sort jobs by the next     d        drain the worker (asks)
r         the other way round       /        only jobs with these words
?         this help                 q        quit

A drained worker takes no more jobs, lets those that run end, and is gone.
A worker is silent when it misses beats, and lost when its lease ran out:
others then go on with its jobs. TOK/S is what a worker itself has counted
over the last seconds. ATT is the attempt, TTFT how long its first token
took. Engine states: docs/explain/engines.md.
"""


class Question(ModalScreen[bool]):
    """Asks once; y is yes, everything else is no."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "yes"),
        Binding("n,escape,enter,q", "answer(False)", "no"),
    ]

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        """Show the question."""
        with Vertical(classes="box"):
            yield Static(Text(f"{harmless(self._question)}\n\ny  yes     n  no"), markup=False)

    def action_answer(self, answer: bool) -> None:  # noqa: FBT001 (textual's way)
        """Go back with the answer."""
        self.dismiss(answer)


class Help(ModalScreen[None]):
    """Which key does what."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,enter,q,question_mark", "dismiss(None)", "back")]

    def compose(self) -> ComposeResult:
        """Show it."""
        with Vertical(classes="box"):
            yield Static(Text(HELP.rstrip()), markup=False)


class Stream(Screen[None]):
    """A job's stream as it is made: text, whatever stands in it.

    Args:
        job_id: the job.
        events: yields the stream's entries.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,l", "app.pop_screen", "back")]

    def __init__(self, job_id: str, events: Callable[[], AsyncGenerator[StreamEvent, None]]) -> None:
        super().__init__()
        self._job_id = job_id
        self._events = events
        self._text = ""
        self._entries = self._painted = 0

    def compose(self) -> ComposeResult:
        """Show what there is so far: nothing."""
        yield Static(Text(f"stream of {self._job_id}   Esc: back", no_wrap=True), classes="bar", markup=False)
        with VerticalScroll(id="page", can_focus=True):
            yield Static("nothing yet", id="said", markup=False)

    def on_mount(self) -> None:
        """Begin to read."""
        self.query_one("#page", VerticalScroll).anchor()  # stays at the end, until somebody scrolls
        self.set_interval(_PAINT_SECONDS, self._paint)
        self.run_worker(self._follow(), exit_on_error=False)

    async def _follow(self) -> None:
        try:
            async with aclosing(self._events()) as entries:
                async for event in entries:
                    self._add(_said(event))
        except (RedisError, VelesioError) as error:
            self._add(f"\n[cannot be read: {printable(str(error))}]\n")

    def _add(self, text: str) -> None:
        self._entries += 1
        self._text = (self._text + text)[-SHOWN:].lstrip("\n")

    def _paint(self) -> None:
        if self._painted == self._entries:
            return
        self._painted = self._entries
        self.query_one("#said", Static).update(Text(self._text))


def _said(event: StreamEvent) -> str:
    """Return what an entry adds to the page; control characters are written out."""
    data, name = event.data, event.event
    if name == events.START:
        what = f"attempt {data.get('attempt')} on {data.get('worker')}, {data.get('model')}: {data.get('mode')}"
    elif name == events.PROGRESS:
        done, whole = data.get("processed", data.get("step")), data.get("total", data.get("steps"))
        what = f"{data.get('stage')}: {done}{'' if whole is None else f' of {whole}'}"
    elif name == events.DONE:
        what = f"done: {data.get('finish_reason')}"
    elif name == events.ERROR:
        what = f"error {data.get('code')}: {data.get('error')}"
    else:
        return harmless(event.text)
    return f"\n[{printable(what)}]\n"
