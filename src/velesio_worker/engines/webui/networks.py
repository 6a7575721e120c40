"""What a prompt calls for in its tags, such as ``<lora:name:0.8>``, and what of it a WebUI leaves out in silence.

Source: AUTOMATIC1111 1.10, ``modules/extra_networks.py`` and ``extensions-builtin/Lora/extra_networks_lora.py``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Final

from velesio_worker.engines.webui.catalogue import Catalogue

_TAG: Final = re.compile(r"<(\w+):(.+)", re.DOTALL)
_LORA: Final = frozenset({"lora", "lyco"})
_HYPERNET: Final = "hypernet"
_KINDS: Final = _LORA | {_HYPERNET}
_NAMES: Final = {"lora": "LoRA", "lyco": "LoRA", _HYPERNET: "hypernetwork"}
_WEIGHTS: Final = frozenset({"te", "unet", "dyn"})
_SHOWN: Final = 80


def _tags(prompt: str) -> Iterator[tuple[str, list[str]]]:
    """Yield kind and items of each tag. A tag ends with the first ``>`` behind it: each stretch is looked at once."""
    for stretch in prompt.split(">")[:-1]:
        found = _TAG.search(stretch)
        if found is not None:
            yield found[1], found[2].split(":")


def kinds_in(prompt: str) -> list[str]:
    """Return the kinds of networks that a prompt calls for, each once."""
    return sorted({kind for kind, _ in _tags(prompt)} & _KINDS)


def unknown(prompt: str, catalogue: Catalogue) -> bool:
    """Whether a prompt calls for a network that the WebUI has not, as far as it tells."""
    return any(not _known(kind, items[0], catalogue) for kind, items in _tags(prompt))


def _known(kind: str, name: str, catalogue: Catalogue) -> bool:
    if kind in _LORA:
        return catalogue.loras is None or name in catalogue.loras | catalogue.lora_aliases
    return kind != _HYPERNET or catalogue.hypernetworks is None or name in catalogue.hypernetworks


def warnings_of(prompt: str, negative: str, catalogue: Catalogue) -> list[str]:
    """Say what of a prompt's tags has no effect, each once."""
    said: dict[str, None] = {}
    for kind, items in _tags(prompt):
        name = items[0][:_SHOWN]
        if kind not in _KINDS:
            said[f"The worker knows no <{kind[:_SHOWN]}:…>: the WebUI takes it out of the prompt, and it may have no "
                 "effect."] = None  # fmt: skip
        elif not _known(kind, items[0], catalogue):
            said[f"The {_NAMES[kind]} {name!r} is not known to the WebUI and has no effect."] = None
        elif (weight := _wrong_weight(kind, items)) is not None:
            all_ = f"no {_NAMES[kind]} of the prompt has any effect"
            said[f"The weight {weight[:_SHOWN]!r} of the {_NAMES[kind]} {name!r} is no number: {all_}."] = None
    for kind in kinds_in(negative):
        said[f"<{kind}:…> in the negative prompt has no effect: write it in the prompt."] = None
    return list(said)


def _wrong_weight(kind: str, items: list[str]) -> str | None:
    """Return the weight that is no number; a LoRA has three and may name them, a hypernetwork has one."""
    if kind == _HYPERNET:
        weights = items[1:2]
    else:
        pairs = [item.split("=", 2) for item in items]
        weights = [item for item, pair in zip(items, pairs, strict=True) if len(pair) != 2][1:3]  # noqa: PLR2004
        weights += [pair[1] for pair in pairs if len(pair) == 2 and pair[0] in _WEIGHTS]  # noqa: PLR2004
    return next((weight for weight in weights if not _is_number(weight)), None)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
