"""The double's options and checkpoints: what is set, what is loaded, and what that costs."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.doubles.webui.catalogue import OPTIONS
from tests.doubles.webui.setup import ClosingError, Journal, Setup, crash

CHECKPOINT: Final = "sd_model_checkpoint"
ATTENTION: Final = "cross_attention_optimization"
FOLDER: Final = Path("/opt/webui/models/Stable-diffusion")
SUFFIXES: Final = frozenset({".safetensors", ".ckpt"})


@dataclass
class Checkpoint:
    """One checkpoint; its title changes once its hash is known. ``stamp`` changes with its file."""

    path: Path
    sha256: str | None = None
    stamp: int = 0

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def hash(self) -> str | None:
        return self.sha256[:10] if self.sha256 else None

    @property
    def title(self) -> str:
        return f"{self.path.name} [{self.hash}]" if self.hash else self.path.name

    def answers_to(self, alias: Any) -> bool:
        return alias is not None and alias in (self.title, self.name, self.path.name, str(self.path), self.hash)

    def listed(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "model_name": self.name,
            "hash": self.hash,
            "sha256": self.sha256,
            "filename": str(self.path),
            "config": str(self.path.with_suffix(".yaml")),
        }


class Shelf:
    """Options and checkpoints.

    Attributes:
        data: the options that config.json holds: just the checkpoint at first. Others have their defaults.
        loads: the name of each checkpoint that was loaded, in order.
        loaded: the one that is.
        unloaded: whether it was moved out of the device's memory.
        hooked: whether the attention code is in place that images are made with.
    """

    def __init__(self, setup: Setup, journal: Journal, closing: threading.Event) -> None:
        self._setup = setup
        self._journal = journal
        self._closing = closing
        self._loading = threading.RLock()
        self.styles = setup.styles
        self.checkpoints: list[Checkpoint] = []
        self.loads: list[str] = []
        self.loaded: Checkpoint | None = None
        self.unloaded = False
        self.hooked = True
        self.refresh()
        self.data: dict[str, Any] = {CHECKPOINT: self.checkpoints[0].title if self.checkpoints else None}

    def refresh(self) -> None:
        """Look for checkpoints; those that are known, and whose files are the same, stay the same objects."""
        known = {(checkpoint.path, checkpoint.stamp): checkpoint for checkpoint in self.checkpoints}
        if (folder := self._setup.ckpt_dir) is not None:
            paths = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)
        else:
            paths = [FOLDER / f"{name}.safetensors" for name in self._setup.models]
        stamps = [(path, path.stat().st_mtime_ns if folder else 0) for path in paths]
        self.checkpoints = [known.get(each) or Checkpoint(each[0], stamp=each[1]) for each in stamps]

    def options(self) -> dict[str, Any]:
        return OPTIONS | self.data

    def value(self, key: str) -> Any:
        return self.data[key] if key in self.data else OPTIONS[key]

    def set(self, key: str, value: Any) -> None:
        """Set one option.

        Raises:
            RefusedError: 500 KeyError where there is no such option.
        """
        if key not in OPTIONS:
            raise crash("KeyError", repr(key))
        if key == ATTENTION and value != self.value(key):
            self.hooked = True
        self.data[key] = value

    def find(self, alias: Any) -> Checkpoint | None:
        return next((one for one in self.checkpoints if one.answers_to(alias)), None)

    def load_wanted(self) -> Checkpoint:
        """Load the checkpoint that the options name, unless it is loaded.

        Raises:
            RefusedError: 500 where there is none at all.
        """
        with self._loading:
            wanted = self.find(self.data[CHECKPOINT]) or self.loaded or next(iter(self.checkpoints), None)
            if wanted is None:
                raise crash("FileNotFoundError", "No checkpoints found.")
            if wanted is not self.loaded:
                self._journal.write("load", model=wanted.name)
                if self._closing.wait(self._setup.load_seconds):
                    raise ClosingError
                if wanted.name == self._setup.too_large:
                    self.data[CHECKPOINT] = self.loaded.title if self.loaded else None
                    raise crash("OutOfMemoryError", "CUDA out of memory. Tried to allocate 5.00 GiB.")
                if wanted.name == self._setup.broken:
                    self.data[CHECKPOINT], self.hooked = self.loaded.title if self.loaded else None, False
                    return self.loaded or wanted
                self._hash(wanted)
                self.loaded, self.unloaded, self.hooked = wanted, False, True
                self.loads.append(wanted.name)
            self.data[CHECKPOINT] = wanted.title
            return wanted

    def load_within(self, name: str) -> None:
        """Load a checkpoint in the midst of a generation, which leaves the options as they are.

        Raises:
            RefusedError: 500 where it cannot be read; the attention code is undone then.
        """
        checkpoint = self.find(name)
        if checkpoint is not None and checkpoint is not self.loaded:
            self._journal.write("load", model=checkpoint.name)
            if checkpoint.name == self._setup.broken:
                self.hooked = False
                raise crash("SafetensorError", "Error while deserializing header: InvalidHeaderDeserialization")
            self.hooked = True

    def _hash(self, checkpoint: Checkpoint) -> None:
        if self._setup.hashing and checkpoint.sha256 is None:
            content = checkpoint.path.read_bytes() if self._setup.ckpt_dir else checkpoint.name.encode()
            checkpoint.sha256 = hashlib.sha256(content).hexdigest()
