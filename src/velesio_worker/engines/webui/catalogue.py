"""What a WebUI has: models, samplers, schedulers, LoRAs, VAEs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PureWindowsPath
from typing import Any, Final, cast

from velesio_worker.engines.webui.api import WebUIApi
from velesio_worker.wire.errors import EngineRefusedError

_SHOWN: Final = 40
_NO_LETTER: Final = re.compile(r"[^\w+]|_")


@dataclass(frozen=True, slots=True)
class ImageModel:
    """A checkpoint that a WebUI knows.

    Attributes:
        name: its name; the file's, without the ending.
        title: what the WebUI calls it; changes once its hash is known.
        filename: the file, as the WebUI sees it.
        hash: the beginning of its SHA-256, where that is known.
    """

    name: str
    title: str
    filename: str
    hash: str | None

    def is_called(self, name: str) -> bool:
        """Whether ``name`` is the model's own; a title's hash is no matter, since it comes and goes."""
        return name in {self.name, self.title} or _untagged(name) == _untagged(self.title)

    def answers_to(self, name: str) -> bool:
        """Whether somebody who says ``name`` may mean this model: it is its own name, its file's or its hash."""
        file = PureWindowsPath(self.filename).name  # which knows both kinds of slash
        return bool(name) and (self.is_called(name) or name in {file, self.hash})


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What a WebUI has.

    Attributes:
        models: its checkpoints.
        loaded: the checkpoint that it says is loaded; None if it does not.
        samplers: by plain name (see :func:`plain`) what the WebUI calls them; empty if it does not tell.
        schedulers: likewise.
        loras: the names of its LoRAs; None if it does not tell.
        lora_aliases: what prompts may call them beside that.
        options: its settings; empty if it does not tell.
        vaes: the names of its VAEs; None if it does not tell.
    """

    models: Sequence[ImageModel] = ()
    loaded: ImageModel | None = None
    samplers: Mapping[str, str] = field(default_factory=dict[str, str])
    schedulers: Mapping[str, str] = field(default_factory=dict[str, str])
    loras: frozenset[str] | None = None
    lora_aliases: frozenset[str] = frozenset()
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    vaes: frozenset[str] | None = None

    def model(self, name: str) -> ImageModel | None:
        """Return the model that ``name`` means; None if there is none.

        Files of different folders may have the same name: whose own name it is goes first.
        """
        meant = [model for model in self.models if model.answers_to(name)]
        return next((model for model in meant if model.is_called(name)), meant[0] if meant else None)

    def sampler(self, name: str) -> tuple[str, str | None] | None:
        """Return the sampler that ``name`` means, and the scheduler if it names one, too; None if there is none.

        WebUIs before 1.9 had names for both together, such as ``DPM++ 2M Karras``.
        """
        known = self.samplers.get(plain(name))
        if known is not None:
            return known, None
        first, _, last = name.strip().rpartition(" ")
        both, scheduler = self.samplers.get(plain(first)), self.schedulers.get(plain(last))
        return (both, scheduler) if first and both is not None and scheduler is not None else None

    def scheduler(self, name: str) -> str | None:
        """Return the scheduler that ``name`` means; None if there is none."""
        return self.schedulers.get(plain(name))


def _untagged(title: str) -> str:
    """Return a title without the hash behind it."""
    return title.rpartition(" [")[0] or title


def plain(name: str) -> str:
    """Return a name without what servers write differently: ``Euler a`` and ``euler_a`` are the same sampler."""
    return _NO_LETTER.sub("", name.lower())


def listed(names: Iterable[str]) -> str:
    """List names for people: not more than they read."""
    names = sorted(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


async def read_catalogue(api: WebUIApi) -> Catalogue:
    """Ask a WebUI what it has.

    Raises:
        ConnectionLostError: there was no answer.
        JobError: the answer was an error, or what answers is no WebUI.
    """
    entries = _fields(await api.get("sd-models"))
    if entries is None:
        raise EngineRefusedError("what answers /sdapi/v1/sd-models is no Stable Diffusion WebUI (start it with --api)")
    models = [model for entry in entries if (model := _model(entry)) is not None]
    read: Any = await api.get("options")
    options = cast("dict[str, Any]", read) if isinstance(read, dict) else {}
    said: object = options.get("sd_model_checkpoint")
    loaded = Catalogue(models).model(said) if isinstance(said, str) else None
    loras = _fields(await api.get("loras"))
    vaes = _fields(await api.get("sd-vae"))
    return Catalogue(
        models,
        loaded or (models[0] if len(models) == 1 else None),
        _named(await api.get("samplers"), "aliases"),
        _named(await api.get("schedulers"), "aliases", "label"),
        None if loras is None else _words(loras, "name"),
        _words(loras or [], "alias"),
        options,
        None if vaes is None else _words(vaes, "model_name"),
    )


def _model(fields: Mapping[str, Any]) -> ImageModel | None:
    words = {name: value for name, value in fields.items() if isinstance(value, str)}
    if "model_name" not in words or "title" not in words:
        return None
    return ImageModel(words["model_name"], words["title"], words.get("filename", ""), words.get("hash") or None)


def _fields(entries: object) -> list[dict[str, Any]] | None:
    """Return the entries of a list that are objects; None if it is no list."""
    if not isinstance(entries, list):
        return None
    return [cast("dict[str, Any]", entry) for entry in cast("list[object]", entries) if isinstance(entry, dict)]


def _words(entries: Sequence[Mapping[str, Any]], name: str) -> frozenset[str]:
    return frozenset(word for entry in entries if isinstance(word := entry.get(name), str))


def _named(entries: object, *others: str) -> dict[str, str]:
    """Return the entries' names by all that they may be called, in plain letters."""
    names: dict[str, str] = {}
    for fields in _fields(entries) or []:
        name = fields.get("name")
        if not isinstance(name, str):
            continue
        names[plain(name)] = name
        for other in others:
            said: Any = fields.get(other) or []
            for word in cast("list[object]", said) if isinstance(said, list) else [said]:
                names.setdefault(plain(str(word)), name)
    return names
