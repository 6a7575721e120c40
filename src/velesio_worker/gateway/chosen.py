"""Which model a request means."""

from __future__ import annotations

from typing import Final

from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.jobs import Fleet

_SHOWN: Final = 20
_LONGEST: Final = 100
_SUFFIX: Final = ".gguf"


def chosen(fleet: Fleet, asked: str, kind: str = "text") -> str:
    """Return the name of the model that a request means.

    Args:
        fleet: what there is.
        asked: the name that the request has.
        kind: ``text`` or ``image``.

    Raises:
        ApiError: there is none of that name (404, with those there are).
    """
    names = [model.name for model in fleet.models if model.kind == kind]
    if asked in names or not names:  # where none is known, whoever takes the job knows
        return asked
    if (bare := asked.removesuffix(_SUFFIX)) in names:
        return bare
    if fleet.has_more(kind):  # perhaps one of those that are not listed
        return asked
    shown = asked if len(asked) <= _LONGEST else f"{asked[:_LONGEST]}…"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    told = f"The model {shown!r} does not exist; there are: {', '.join(names[:_SHOWN])}{more}."
    raise ApiError(404, "model_not_found", told, param="model")
