"""What a WebUI has: models, samplers, schedulers, LoRAs, VAEs, upscalers, styles."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PureWindowsPath
from typing import Any, Final, cast

from velesio_worker.engines.webui.api import WebUIApi
from velesio_worker.wire.errors import EngineRefusedError
from velesio_worker.wire.fields import name_in

_SHOWN: Final = 40
_MOST_ENTRIES: Final = 10_000
_LONGEST: Final = 1000
"""Characters of what a WebUI calls something: what is longer, or cannot be printed, is no name, and left out."""

_NO_LETTER: Final = re.compile(r"[^\w+]|_")
AUTOMATIC: Final = "automatic"
"""The scheduler that leaves the choice to the WebUI."""


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
        labels: by a scheduler's name the one that is shown to people, which AUTOMATIC1111 takes without a warning.
        upscalers: as samplers, those of latent images among them; None if it does not tell, and has no hires fix.
        styles: the names of its styles of prompts; None if it does not tell.
        hypernetworks: likewise.
        face_restorers: likewise.
        refiner: whether it can go on with another checkpoint.
    """

    models: Sequence[ImageModel] = ()
    loaded: ImageModel | None = None
    samplers: Mapping[str, str] = field(default_factory=dict[str, str])
    schedulers: Mapping[str, str] = field(default_factory=dict[str, str])
    loras: frozenset[str] | None = None
    lora_aliases: frozenset[str] = frozenset()
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    vaes: frozenset[str] | None = None
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    upscalers: Mapping[str, str] | None = None
    styles: frozenset[str] | None = None
    hypernetworks: frozenset[str] | None = None
    face_restorers: frozenset[str] | None = None
    refiner: bool = False

    def model(self, name: str) -> ImageModel | None:
        """Return the model that ``name`` means; None if there is none.

        Files of different folders may have the same name: whose own name it is goes first.
        """
        meant = [model for model in self.models if model.answers_to(name)]
        return next((model for model in meant if model.is_called(name)), meant[0] if meant else None)

    def now(self, model: ImageModel | None) -> ImageModel | None:
        """Return what a model of an earlier catalogue is in this one; itself if it is not there any more."""
        return model and (self.model(model.name) or model)

    def sampler(self, name: str) -> tuple[str, str | None] | None:
        """Return the sampler that ``name`` means, and the scheduler if it names one, too; None if there is none.

        WebUIs before 1.9 had names for both together, such as ``DPM++ 2M Karras``.
        """
        said = plain(name)
        known = self.samplers.get(said)
        if known is not None:
            return known, None
        for cut in range(len(said) - 1, 0, -1):
            both, scheduler = self.samplers.get(said[:cut]), self.schedulers.get(said[cut:])
            if both is not None and scheduler is not None:
                return both, scheduler
        return None

    def scheduler(self, name: str) -> str | None:
        """Return the scheduler that ``name`` means; None if there is none."""
        return self.schedulers.get(plain(name))

    def label(self, scheduler: str | None) -> str | None:
        """Return what is sent for a scheduler; for None the one that leaves the choice to the WebUI, if it has it."""
        name = self.scheduler(AUTOMATIC) if scheduler is None else scheduler
        return None if name is None else self.labels.get(name, name)


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


def difference(old: Catalogue, new: Catalogue, *needed: ImageModel | None) -> str:
    """Say what shows that another WebUI has answered, of which nothing is known; empty if it may be the same one.

    Files come and go, samplers only with a start. ``needed`` are the models that the old one cannot have lost.
    """
    for model in needed:
        if model is not None and new.model(model.name) is None:
            known = listed(one.name for one in new.models) or "none"
            return f"has no model {model.name} any more; there are {known}"
    routes = [(which.loras is None, which.vaes is None) for which in (old, new)]
    same = routes[0] == routes[1] and (old.samplers, old.schedulers) == (new.samplers, new.schedulers)
    return "" if same else "is another one now: it has other samplers, schedulers or routes"


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
    said: object = options.get("sd_model_checkpoint")  # which is compared, and not shown
    loaded = Catalogue(models).model(said) if isinstance(said, str) else None
    loras = _fields(await api.get("loras"))
    vaes = _fields(await api.get("sd-vae"))
    schedulers = await api.get("schedulers")
    upscalers = [_fields(await api.get(route)) for route in ("upscalers", "latent-upscale-modes")]
    return Catalogue(
        models,
        loaded or (models[0] if len(models) == 1 else None),
        _named(await api.get("samplers"), "aliases"),
        _named(schedulers, "aliases", "label"),
        None if loras is None else _words(loras, "name"),
        _words(loras or [], "alias"),
        options,
        None if vaes is None else _words(vaes, "model_name"),
        _labels(schedulers),
        None if upscalers == [None, None] else _named([entry for part in upscalers for entry in part or []]),
        await _names(api, "prompt-styles"),
        await _names(api, "hypernetworks"),
        await _names(api, "face-restorers"),
        _has_refiner(await api.get("scripts")),
    )


async def _names(api: WebUIApi, route: str) -> frozenset[str] | None:
    entries = _fields(await api.get(route))
    return None if entries is None else _words(entries, "name")


def _labels(schedulers: object) -> dict[str, str]:
    """Return schedulers' labels by their names."""
    pairs = ((_word(fields, "name"), _word(fields, "label")) for fields in _fields(schedulers) or [])
    return {name: label for name, label in pairs if name and label}


def _has_refiner(scripts: object) -> bool:
    names: Any = cast("dict[str, Any]", scripts).get("txt2img") if isinstance(scripts, dict) else None
    if not isinstance(names, list):
        return False
    return any(isinstance(name, str) and plain(name) == "refiner" for name in cast("list[object]", names))


def _model(fields: Mapping[str, Any]) -> ImageModel | None:
    name, title = _word(fields, "model_name"), _word(fields, "title")
    if name is None or title is None:
        return None
    return ImageModel(name_in(name), title, _word(fields, "filename") or "", _word(fields, "hash") or None)


def _word(fields: Mapping[str, Any], name: str) -> str | None:
    """Return a field that may be what something is called; None if it may not."""
    value = fields.get(name)
    return value if isinstance(value, str) and len(value) <= _LONGEST and value.isprintable() else None


def _fields(entries: object) -> list[dict[str, Any]] | None:
    """Return the entries of a list that are objects; None if it is no list."""
    if not isinstance(entries, list):
        return None
    few = cast("list[object]", entries)[:_MOST_ENTRIES]
    return [cast("dict[str, Any]", entry) for entry in few if isinstance(entry, dict)]


def _words(entries: Sequence[Mapping[str, Any]], name: str) -> frozenset[str]:
    return frozenset(word for entry in entries if (word := _word(entry, name)) is not None)


def _named(entries: object, *others: str) -> dict[str, str]:
    """Return the entries' names by all that they may be called, in plain letters."""
    names: dict[str, str] = {}
    for fields in _fields(entries) or []:
        name = _word(fields, "name")
        if name is None:
            continue
        names[plain(name)] = name
        for other in others:
            said: Any = fields.get(other) or []
            for word in cast("list[object]", said)[:_SHOWN] if isinstance(said, list) else [said]:
                names.setdefault(plain(str(word)[:_LONGEST]), name)
    return names
