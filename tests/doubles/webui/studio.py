"""The double's engine: one generation at a time, in steps that take time, with progress, interrupts and leaks."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any, Final

from PIL import Image

from tests.doubles.webui.faults import Faults
from tests.doubles.webui.fields import check_scripts, parse
from tests.doubles.webui.order import Order, describe, infotext
from tests.doubles.webui.pictures import decode, draw, encode, grid
from tests.doubles.webui.scripts import scripted
from tests.doubles.webui.setup import ClosingError, Journal, RefusedError, Setup, crash, http_error
from tests.doubles.webui.shelf import CHECKPOINT, Checkpoint, Shelf
from tests.doubles.webui.state import GpuTurns, State, Tasks

_POLL: Final = 0.005


class Studio:
    """Makes pictures.

    Attributes:
        running: whether a generation has its turn.
        gate: sampling stands still while it is not set.
        pause_at: the step after which it is shut.
        made: the number of pictures of each generation that came to its end.
        fetched: the addresses that requests named as images.
        log: the warnings that the real program would have written.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.closing = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.journal = Journal(setup.journal)
        self.shelf = Shelf(setup, self.journal, self.closing)
        self.faults = Faults(setup, self.closing)
        self.state = State()
        self.tasks = Tasks()
        self.turns = GpuTurns()
        self.running = False
        self.pause_at: int | None = None
        self.made: list[int] = []
        self.fetched: list[str] = []
        self.log: list[str] = []
        self._ids = count(1)

    def load_first(self) -> None:
        """Load the first checkpoint; a generation that comes meanwhile waits for it."""
        with suppress(ClosingError, RefusedError):
            self.shelf.load_wanted()

    def generate(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        """Answer txt2img or img2img, after those that asked before.

        Raises:
            RefusedError: anything but a result.
        """
        fields = parse(kind, body)
        mask = None
        if kind == "img2img":
            if fields["init_images"] is None:
                raise http_error(404, "Init image not found")
            mask = decode(fields["mask"], self.fetched) if fields["mask"] else None
        check_scripts(kind, fields)
        named = fields["force_task_id"] if self.setup.task_ids else None
        task = named or f"task({kind}-{next(self._ids)})"
        self.tasks.pending.append(task)
        with self.turns.turn(), self._task(kind, task, fields["prompt"]):
            sources = None
            if kind == "img2img":
                sources = [decode(one, self.fetched) for one in fields["init_images"]]
            order = Order(fields, sources, mask)
            pictures, info = self._with_settings(order)
            self.made.append(len(pictures))
        images = [encode(picture, self.shelf.value("samples_format"), text) for picture, text in pictures]
        if kind == "img2img" and not fields["include_init_images"]:
            fields |= {"init_images": None, "mask": None}
        text = "" if "info" in self.setup.missing else json.dumps(info)
        return {"images": images if fields["send_images"] else [], "parameters": fields, "info": text}

    @contextmanager
    def _task(self, kind: str, task: str, prompt: str | None) -> Generator[None, None, None]:
        self.tasks.pending.remove(task)
        self.tasks.current = task
        self.running = True
        self.state.begin(f"scripts_{kind}")
        self.journal.write("begun", path=kind, task=task, prompt=prompt)
        try:
            yield
        finally:
            self.state.end()
            self.running = False
            self.tasks.current = None
            self.tasks.finished.append(task)

    def _with_settings(self, order: Order) -> tuple[list[tuple[Image.Image, str]], dict[str, Any]]:
        """Run an order with its settings; afterwards only those are restored that config.json knows.

        A restored checkpoint is loaded by the next order that needs it, not before.
        """
        settings: dict[str, Any] = dict(order.fields["override_settings"] or {})
        stored = {key: self.shelf.data[key] for key in settings if key in self.shelf.data}
        if self.shelf.find(settings.get(CHECKPOINT)) is None:
            settings.pop(CHECKPOINT, None)
        try:
            for key, value in settings.items():
                self.shelf.set(key, value)
            model = self.shelf.load_wanted()
            order.check(self.shelf)
            return self._sample_all(order, model)
        finally:
            if order.fields["override_settings_restore_afterwards"]:
                self.shelf.data.update(stored)

    def _sample_all(self, order: Order, model: Checkpoint) -> tuple[list[tuple[Image.Image, str]], dict[str, Any]]:
        if order.warning:
            self.log.append(order.warning)
        self.pause(self.setup.step_seconds + order.parsing)
        rounds, batch = order.fields["n_iter"], order.batch
        self.state.count(rounds * len(order.passes))
        self.pause(self.setup.step_seconds)
        fault = self.faults.take(order.fields["width"] * order.fields["height"] * batch)
        pictures: list[tuple[Image.Image, str]] = []
        for number in range(rounds):
            self.state.skipped = False
            if self.state.interrupted:
                break
            if rounds > 1:
                self.state.job = f"Batch {number + 1} out of {rounds}"
            passed = [self._sample(order, steps, fault) for steps in order.passes]
            for name in order.checkpoints:
                self.shelf.load_within(name)
            for place in range(number * batch, (number + 1) * batch):
                undone = () if self.shelf.hooked else ("without its attention code",)
                picture = draw(*order.size, *order.content(place, model.name, passed), *undone)
                pictures.append((picture, infotext(order, model, self.shelf, place)))
        self.state.end()
        decode_seconds = self.setup.decode_seconds
        self.pause(self.setup.step_seconds if decode_seconds is None else decode_seconds)
        pictures, first = scripted(order, pictures)
        if order.fields["save_images"] and len(pictures) > 1 and self.shelf.value("return_grid"):
            pictures.insert(0, (grid([picture for picture, _ in pictures]), pictures[0][1]))
            first = 1
        return pictures, describe(order, model, self.shelf, [text for _, text in pictures], first)

    def _sample(self, order: Order, steps: int, fault: str | None) -> int:
        """One pass; returns the steps that were done until its end, an interrupt or a skip."""
        self.state.sample(steps)
        console, begun = self.setup.console, time.monotonic()
        done = 0
        while done < steps and not (self.state.interrupted or self.state.skipped):
            self.pause(self.setup.step_seconds)
            if self.shelf.unloaded:
                text = "Expected all tensors to be on the same device, but found at least two devices, cpu and cuda:0!"
                raise crash("RuntimeError", text)
            if fault:
                self.faults.strike(fault)
            done += 1
            if done < steps:
                self._show(order, done)
            if done == self.pause_at:
                self.pause_at = None
                self.gate.clear()
            if console:
                rate = done / max(time.monotonic() - begun, 1e-6)
                bar = "█" * (10 * done // steps)
                print(f"\r{100 * done // steps:3}%|{bar:10}| {done}/{steps} [{rate:.2f}it/s]", file=console, flush=True)
        self.state.next_job()
        return done

    def _show(self, order: Order, step: int) -> None:
        """Count a step; every tenth shows a small preview."""
        state, every = self.state, self.shelf.value("show_progress_every_n_steps")
        with state.lock:
            state.sampling_step = step
            if every > 0 and step - state.preview_step >= every and self.shelf.value("live_previews_enable"):
                state.preview = encode(draw(*order.size, "preview", order.seeds, state.job_no, step))
                state.preview_step = step

    def pause(self, seconds: float) -> None:
        """Let time pass, and stand still while the gate is shut.

        Raises:
            ClosingError: the double is being closed.
        """
        if self.closing.wait(seconds):
            raise ClosingError
        while not self.gate.wait(_POLL):
            if self.closing.is_set():
                raise ClosingError

    def interrupt(self) -> None:
        """Interrupt whatever runs; while nothing does, the next start forgets it."""
        self.journal.write("interrupt", running=self.running)
        self.state.interrupted = True

    def set_options(self, options: dict[str, Any]) -> None:
        """Set options for good; a checkpoint is loaded before this returns, after whatever runs.

        Raises:
            RefusedError: 500, for an unknown option or checkpoint.
        """
        self.journal.write("options", options=options)
        wanted = options.get(CHECKPOINT)
        if wanted is not None and self.shelf.find(wanted) is None:
            raise crash("RuntimeError", f"model {wanted!r} not found")
        for key, value in options.items():
            if key == CHECKPOINT and value != self.shelf.data[key]:
                with self.turns.turn():
                    self.shelf.set(key, value)
                    self.shelf.load_wanted()
            else:
                self.shelf.set(key, value)
