"""How a double is set up, what it refuses with, and the journal that another process reads."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

MISSING: Final = frozenset(
    {
        *("progress", "interrupt", "options", "memory", "unload-checkpoint", "loras", "info"),
        *("upscalers", "latent-upscale-modes", "prompt-styles", "hypernetworks", "face-restorers", "scripts"),
    }
)
"""What a server of the same routes may lack: ``options`` is POST only, ``info`` means an empty text."""


@dataclass(frozen=True)
class Setup:
    """A double's options; durations in seconds.

    Attributes:
        step_seconds: one sampling step; getting ready for the first takes as long.
        decode_seconds: the pause after sampling, in which progress is 0; None for one step.
        load_seconds: one load of a model, the first of all included, which happens behind the open port.
        models: the names of the checkpoints, the first of which is loaded.
        styles: the styles of prompts by their names, each a text that is put behind the prompt.
        restorers: the names of what restores faces.
        ckpt_dir: read the checkpoints from this folder instead.
        hashing: titles and hashes change once a model was loaded, as without --no-hashing.
        api: with the routes of the API (--api).
        nowebui: without the pages' own routes (/internal/...).
        task_ids: requests are known by the ids that they name (force_task_id), as in AUTOMATIC1111.
        api_auth: "user:password".
        missing: routes that answer 404, see MISSING.
        fail_with: how the first generation fails, see ``faults.FAULTS``.
        fail_note: a file; fail only where it is not there yet, and write it when failing.
        too_large: the name of a checkpoint that does not fit into memory.
        broken: the name of a checkpoint whose file cannot be read. Asked to load it, the real one answers 200, keeps
            the old one, and has its attention code undone: all its images come out different until a load succeeds, or
            the optimisation is chosen anew. Named by a request, as a refiner or for a hires fix, it fails that with the
            same effect.
        memory_pixels: how many pixels fit into memory at once; None for any number.
        journal: a file that gets one JSON line per event, ``at`` on the monotonic clock.
        console: where the progress bars go.
    """

    step_seconds: float = 0.02
    decode_seconds: float | None = None
    load_seconds: float = 0.0
    models: tuple[str, ...] = ("tinyA", "tinyB")
    loras: tuple[str, ...] = ()
    vaes: tuple[str, ...] = ()
    hypernetworks: tuple[str, ...] = ()
    styles: tuple[tuple[str, str], ...] = ()
    restorers: tuple[str, ...] = ("CodeFormer", "GFPGAN")
    ckpt_dir: Path | None = None
    hashing: bool = False
    api: bool = True
    nowebui: bool = False
    task_ids: bool = True
    api_auth: str | None = None
    missing: frozenset[str] = frozenset()
    fail_with: str | None = None
    fail_note: Path | None = None
    too_large: str | None = None
    broken: str | None = None
    memory_pixels: int | None = None
    journal: Path | None = None
    console: TextIO | None = None


class RefusedError(Exception):
    """An answer that is no result: a status and a document."""

    def __init__(self, status: int, document: dict[str, Any]) -> None:
        super().__init__(status, document)
        self.status = status
        self.document = document


def http_error(status: int, detail: str) -> RefusedError:
    """What the real program raises on purpose."""
    return RefusedError(status, {"error": "HTTPException", "detail": detail, "body": "", "errors": ""})


def crash(error: str, text: str) -> RefusedError:
    """What went wrong inside the real program: an exception's class and text."""
    return RefusedError(500, {"error": error, "detail": "", "body": "", "errors": text})


class ClosingError(Exception):
    """The double is being closed: whatever runs ends."""


class Journal:
    """Appends events to a file, whole lines at a time, or drops them where there is no file."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()

    def write(self, event: str, **fields: Any) -> None:
        if self._path is None:
            return
        line = json.dumps({"event": event, "at": time.monotonic(), **fields})
        with self._lock, self._path.open("a") as file:
            file.write(line + "\n")
