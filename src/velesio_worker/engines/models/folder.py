"""The folder of text models: which there are, and which one a job's ``model`` names."""

from __future__ import annotations

import hashlib
import os
import re
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from velesio_worker.engines.models.gguf import GgufError, GgufInfo, part_number, part_paths, read_gguf
from velesio_worker.wire.errors import BadJobError

_SUFFIX: Final = ".gguf"
_PROJECTOR: Final = "mmproj"
_DEPTH: Final = 3
"""Folders in folders: the Hugging Face hub's cache has its files three folders deep."""

_SAMPLE: Final = 1024 * 1024
_SAMPLES, _PIECE = 129, 64 * 1024
_HASH_DIGITS: Final = 10
_SAYABLE: Final = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]+")
"""Names that JSON can carry and a log line can show; surrogates stand for bytes that are no UTF-8."""

_SHOWN: Final = 8
"""How many models an error names; the rest is counted."""

_REPR: Final = reprlib.Repr()
_REPR.maxstring = 80

_Stamp = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class _Known:
    """What was read of a model when its files had these sizes and times; a text says why it cannot be used."""

    stamp: _Stamp
    fingerprint: str
    info: GgufInfo | str


class ModelFolder:
    """The text models in a folder. All methods read the disk: call them in a thread.

    A model is a ``.gguf`` file in the folder or up to three folders below it, reached through symlinks or not: what
    the operator put there is theirs to choose. A job only chooses among these; its ``model`` never becomes a path.
    Hidden files, projectors (``mmproj*``) and the further parts of split models are no models.

    Args:
        folder: where they lie; it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[Path, _Known] = {}
        self._contents: dict[Path, tuple[_Stamp, str]] = {}

    def find(self, name: str) -> Path:
        """Return the model that a job names.

        Args:
            name: its path in the folder or, where that is no other's, its file's name; with ``.gguf`` or without.

        Raises:
            BadJobError: there is none of that name, or more than one.
        """
        if not _SAYABLE.fullmatch(name) or name.startswith("/") or ".." in name.split("/"):
            raise BadJobError(
                f"data.model: {_REPR.repr(name)} is no name of a model: a file's name, or its path in {self.folder}"
            )
        there = {self._name(path): path for path in self.files()}
        wanted = PurePosixPath(name).as_posix()
        for exact in (wanted, wanted + _SUFFIX):
            if exact in there:
                return there[exact]
        found = [known for known, path in there.items() if wanted in {path.name, path.stem}]
        if len(found) == 1:
            return there[found[0]]
        if found:
            raise BadJobError(f"data.model: {_REPR.repr(name)} may be {_some(found)}: give the path")
        raise BadJobError(f"data.model: there is no model {_REPR.repr(name)} in {self.folder}; {self._choice(there)}")

    def files(self) -> list[Path]:
        """Return the models' files, sorted by their paths in the folder; of a split model the first part.

        Of ``/`` only what lies in it itself: a ``MODEL_PATH`` there does not make a model folder of the whole host.
        """
        whole_disk = self.folder.resolve() == Path(self.folder.resolve().anchor)
        return sorted(_walk(self.folder, 0 if whole_disk else _DEPTH, frozenset()), key=self._name)

    def listing(self, loaded: Path | None) -> list[dict[str, Any]]:
        """Describe the models.

        Args:
            loaded: the file of the model that the engine has, if any.

        Returns:
            For each ``name`` (the file's name without ``.gguf``), ``filename`` (its path in the folder), ``hash``,
            ``size`` (bytes of all its parts), ``loaded``; ``architecture``, ``parameters`` and ``context_length``, or
            ``error`` where it cannot be used. ``hash`` is a fingerprint that takes no reading of gigabytes: the first
            10 hexadecimal digits of the SHA-256 of the file's size (decimal digits), its first MiB and its last MiB;
            of a split model that of the first part. It is null where the file cannot be read.
        """
        now = None if loaded is None else loaded.resolve()
        seen = {path: what for path in self.files() if (what := self._look(path)) is not None}
        self._known = {path: what for path, what in seen.items() if isinstance(what, _Known)}
        return [
            {"name": path.stem, "filename": self._name(path), **_described(what), "loaded": path.resolve() == now}
            for path, what in seen.items()
        ]

    def content_of(self, path: Path) -> str | None:
        """Return what tells a model's content from others: a hash of samples all over its file; None if it is gone."""
        try:
            stamp = tuple(_stamps(path))
            known = self._contents.get(path)
            if known is None or known[0] != stamp:
                known = self._contents[path] = (stamp, _sampled(path))
        except OSError:
            return None
        return known[1]

    def _look(self, path: Path) -> _Known | OSError | None:
        """Read a model, or remember what was read; None if it is gone."""
        try:
            stamp = tuple(_stamps(path))
            known = self._known.get(path)
            if known is not None and known.stamp == stamp:
                return known
            return _Known(stamp, _fingerprint(path), _info(path))
        except FileNotFoundError:
            return None
        except OSError as error:
            return error

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _choice(self, there: dict[str, Path]) -> str:
        if there:
            return f"it has: {_some(list(there))}"
        return "it has none" if self.folder.is_dir() else "there is no such folder"


def _walk(folder: Path, depth: int, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """Yield the models in a folder and those below; ``above`` are the folders that it lies in, for symlinks."""
    try:
        status = folder.stat()
        with os.scandir(folder) as listed:
            entries = list(listed)
    except OSError:  # gone, or not for this user: then its models are not either
        return
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for entry in entries:
        if entry.name.startswith(".") or not _SAYABLE.fullmatch(entry.name):
            continue
        path = folder / entry.name
        try:
            if entry.is_dir():
                if depth > 0:
                    yield from _walk(path, depth - 1, above | {here})
            elif entry.is_file() and _is_model(path):
                yield path
        except OSError:  # a symlink that leads round in a circle, or nowhere that may be seen
            continue


def _is_model(path: Path) -> bool:
    return path.suffix == _SUFFIX and not path.name.lower().startswith(_PROJECTOR) and part_number(path) == 1


def _stamps(path: Path) -> Iterator[tuple[int, int]]:
    """Yield size and time of a model's files, up to the first that is missing."""
    for part in part_paths(path):
        try:
            status = part.stat()
        except FileNotFoundError:
            return
        yield status.st_size, status.st_mtime_ns


def _sampled(path: Path) -> str:
    """Hash a file's size and pieces of it, spread evenly: a few MiB also of a model that has many GiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest.update(str(size).encode())
        for number in range(_SAMPLES):
            file.seek(max(size - _PIECE, 0) * number // (_SAMPLES - 1))
            digest.update(file.read(_PIECE))
    return digest.hexdigest()


def _fingerprint(path: Path) -> str:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest = hashlib.sha256(str(size).encode())
        for start in (0, max(0, size - _SAMPLE)):
            file.seek(start)
            digest.update(file.read(_SAMPLE))
    return digest.hexdigest()[:_HASH_DIGITS]


def _info(path: Path) -> GgufInfo | str:
    try:
        return read_gguf(path)
    except GgufError as error:
        return str(error)


def _described(what: _Known | OSError) -> dict[str, Any]:
    if isinstance(what, OSError):
        return {"hash": None, "size": None, "error": f"cannot be read ({what.strerror}): check its permissions"}
    if isinstance(what.info, str):
        return {"hash": what.fingerprint, "size": sum(size for size, _ in what.stamp), "error": what.info}
    return {
        "hash": what.fingerprint,
        "size": what.info.size,
        "architecture": what.info.architecture,
        "parameters": what.info.parameters,
        "context_length": what.info.context_length,
    }


def _some(names: list[str]) -> str:
    shown = ", ".join(name if len(name) <= _REPR.maxstring else _REPR.repr(name) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} (+{len(names) - _SHOWN} more)"
