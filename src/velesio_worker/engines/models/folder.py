"""The folder of text models: which there are, and which one a job's ``model`` names."""

from __future__ import annotations

import hashlib
import os
import reprlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Final

from velesio_worker.core.logs import get_logger
from velesio_worker.engines.models.gguf import GgufError, part_number, part_paths, read_gguf
from velesio_worker.wire.errors import BadJobError
from velesio_worker.wire.printable import printable

_log = get_logger(__name__)

_SUFFIX: Final = ".gguf"
_PROJECTOR: Final = "mmproj"
_DEPTH: Final = 3
"""Folders in folders: the Hugging Face hub's cache has its files three folders deep."""

_HASH_DIGITS: Final = 10
_REMEMBERED: Final = 1024
"""Of how many models it is remembered what was read, while their files keep their sizes and times."""

_SHOWN: Final = 8
"""How many models an error names; the rest is counted."""

_REPR: Final = reprlib.Repr()
_REPR.maxstring = 80

_Stamp = tuple[tuple[int, int], ...]


class ModelFolder:
    """The text models in a folder. All methods read the disk: call them in a thread.

    A model is a ``.gguf`` file in the folder or up to three folders below it, reached through symlinks or not: what
    the operator put there is theirs to choose. A job only chooses among these; its ``model`` never becomes a path.
    Hidden files, projectors (``mmproj*``) and the further parts of split models are no models. The folder need not
    exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, name: str) -> Path:
        """Return the model that a job names.

        Args:
            name: its path in the folder or, where that is no other's, its file's name; with ``.gguf`` or without.

        Raises:
            BadJobError: there is none of that name, or more than one.
        """
        if _is_unsayable(name) or name.startswith("/") or ".." in name.split("/"):
            raise BadJobError(
                f"data.model: {_REPR.repr(name)} is no name of a model: a file's name, or its path in the model folder"
            )
        there = {self._name(path): path for path in self.files()}
        found = _meant(name, there, _by_file_name(there))
        if len(found) == 1:
            return there[found[0]]
        if found:
            raise BadJobError(f"data.model: {_REPR.repr(name)} may be {_some(found)}: give the path")
        _log.info(f"no model {_REPR.repr(name)} in {self.folder}", action="model_unknown")  # producers need no path
        raise BadJobError(f"data.model: there is no model {_REPR.repr(name)}; {self._choice(there)}")

    def files(self) -> list[Path]:
        """Return the models' files, sorted by their paths in the folder; of a split model the first part.

        Of ``/`` only what lies in it itself: a ``MODEL_PATH`` there does not make a model folder of the whole host.
        """
        whole_disk = self.folder.resolve() == Path(self.folder.resolve().anchor)
        return sorted(_walk(self.folder, 0 if whole_disk else _DEPTH, frozenset()), key=self._name)

    def listing(self, loaded: Path | None) -> list[dict[str, Any]]:
        """Describe the models, of which one's file may be what the engine has ``loaded``.

        Returns:
            For each ``name`` (the file's name without ``.gguf``), ``filename`` (its path in the folder), ``hash``,
            ``size`` (bytes of all its parts), ``loaded``; ``architecture``, ``parameters`` and ``context_length``, or
            ``error`` where it cannot be used. ``hash`` is a fingerprint that takes no reading of gigabytes: the first
            10 hexadecimal digits of the SHA-256 of the file's size (decimal digits), its first MiB and its last MiB;
            of a split model that of the first part. It is null where the file cannot be read.
        """
        now = None if loaded is None else loaded.resolve()
        entries: list[dict[str, Any]] = []
        for path in self.files():
            try:
                what = _described(path, _stamp(path))
            except FileNotFoundError:
                continue
            except OSError as error:
                why = f"cannot be read ({error.strerror}): check its permissions"
                what = {"hash": None, "size": None, "error": why}
            place = {"name": path.stem, "filename": self._name(path)}
            entries.append({**place, **what, "loaded": path.resolve() == now})
        return entries

    def names(self, default: Path | None, most: int) -> tuple[dict[Path, str], int]:
        """Return what jobs may call the models that can be loaded: of each the shortest name that means no other.

        Args:
            default: the file that its own name stands for, whatever else is called so; None: there is none.
            most: how many files are looked at, which takes reading a little of each once.

        Returns:
            names by file, in the order of :meth:`files`, and how many files were not looked at.
        """
        there = {self._name(path): path for path in self.files()}
        called = _by_file_name(there)
        taken = set[str]() if default is None else {default.stem}
        names: dict[Path, str] = {}
        for place, path in list(there.items())[:most]:
            if not _can_be_read(path):
                continue
            if default is not None and path.absolute() == default.absolute():
                names[path] = default.stem
                continue
            bare = place.removesuffix(_SUFFIX)
            meant = (name for name in (path.stem, bare, place) if _meant(name, there, called) == [place])
            if (name := next((name for name in meant if name not in taken), None)) is not None:
                names[path] = name
        return names, max(len(there) - most, 0)

    def content_of(self, path: Path) -> str | None:
        """Return what tells a model's content from others: a hash of samples all over its file; None if it is gone."""
        try:
            return _content(path, _stamp(path))
        except OSError:
            return None

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _choice(self, there: dict[str, Path]) -> str:
        if there:
            return f"there are: {_some(list(there))}"
        return "there are none" if self.folder.is_dir() else "its folder is not there"


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
        if entry.name.startswith(".") or _is_unsayable(entry.name):
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


def _by_file_name(there: Mapping[str, Path]) -> dict[str, list[str]]:
    """Return the places of models in the folder by the names of their files, with ``.gguf`` and without."""
    called: dict[str, list[str]] = {}
    for place, path in there.items():
        for name in {path.name, path.stem}:
            called.setdefault(name, []).append(place)
    return called


def _meant(name: str, there: Mapping[str, Path], called: Mapping[str, list[str]]) -> list[str]:
    """Return the places of the models that a job's ``model`` may mean; a place comes before a file's name."""
    wanted = PurePosixPath(name).as_posix()
    exact = next((place for place in (wanted, wanted + _SUFFIX) if place in there), None)
    return called.get(wanted, []) if exact is None else [exact]


def _can_be_read(path: Path) -> bool:
    try:
        return "error" not in _described(path, _stamp(path))
    except OSError:
        return False


def _is_unsayable(name: str) -> bool:
    """Whether JSON cannot carry a name, or a log line not show it; surrogates stand for bytes that are no UTF-8."""
    return not name or printable(name) != name


def _is_model(path: Path) -> bool:
    return path.suffix == _SUFFIX and not path.name.lower().startswith(_PROJECTOR) and part_number(path) == 1


def _stamp(path: Path) -> _Stamp:
    """Return size and time of a model's files, up to the first that is missing."""
    stamps: list[tuple[int, int]] = []
    for part in part_paths(path):
        try:
            status = part.stat()
        except FileNotFoundError:
            break
        stamps.append((status.st_size, status.st_mtime_ns))
    return tuple(stamps)


@lru_cache(_REMEMBERED)
def _described(path: Path, stamp: _Stamp) -> dict[str, Any]:
    fingerprint = _sampled(path, 2, 1024 * 1024)[:_HASH_DIGITS]
    try:
        info = read_gguf(path)
    except GgufError as error:
        return {"hash": fingerprint, "size": sum(size for size, _ in stamp), "error": str(error)}
    return {
        "hash": fingerprint,
        "size": info.size,
        "architecture": info.architecture,
        "parameters": info.parameters,
        "context_length": info.context_length,
    }


@lru_cache(_REMEMBERED)
def _content(path: Path, _: _Stamp) -> str:
    return _sampled(path, 129, 64 * 1024)


def _sampled(path: Path, count: int, length: int) -> str:
    """Hash a file's size and so many pieces of it, spread evenly from its first byte to its last."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest = hashlib.sha256(str(size).encode())
        for number in range(count):
            file.seek(max(size - length, 0) * number // (count - 1))
            digest.update(file.read(length))
    return digest.hexdigest()


def _some(names: list[str]) -> str:
    shown = ", ".join(name if len(name) <= _REPR.maxstring else _REPR.repr(name) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} (+{len(names) - _SHOWN} more)"
