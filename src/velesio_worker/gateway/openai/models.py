"""Which models there are, and which one a request means."""

from __future__ import annotations

from typing import Any, Final

from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.jobs import Fleet, Model

_SHOWN: Final = 20
_SUFFIX: Final = ".gguf"


def chosen(fleet: Fleet, asked: str | None, kind: str) -> str | None:
    """Return the name of the model that a request means; None if it names none.

    Args:
        fleet: what there is.
        asked: the name that the request has.
        kind: ``text`` or ``image``.

    Raises:
        ApiError: there is none of that name (404, with those there are).
    """
    names = [model.name for model in fleet.models if model.kind == kind]
    if not asked or asked in names:
        return asked or None
    if (bare := asked.removesuffix(_SUFFIX)) in names:
        return bare
    if not names:  # whoever takes the job knows
        return asked
    raise _unknown(asked, names)


def model_list(fleet: Fleet) -> dict[str, Any]:
    """Return the models as OpenAI lists them."""
    return {"object": "list", "data": [_described(model) for model in fleet.models]}


def model_entry(fleet: Fleet, name: str) -> dict[str, Any]:
    """Return one model.

    Raises:
        ApiError: there is none of that name.
    """
    for model in fleet.models:
        if model.name == name:
            return _described(model)
    raise _unknown(name, [model.name for model in fleet.models])


def _described(model: Model) -> dict[str, Any]:
    """Describe a model; nobody knows when it was made, and clients want a number."""
    described: dict[str, Any] = {"id": model.name, "object": "model", "created": 0, "owned_by": "velesio"}
    described["kind"] = model.kind
    if model.context is not None:
        described |= {"context_length": model.context, "max_model_len": model.context}
    return described


def _unknown(asked: str, names: list[str]) -> ApiError:
    shown = asked if len(asked) <= 100 else f"{asked[:100]}…"  # noqa: PLR2004 (as much as anybody reads)
    there = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    told = f"there are: {there}." if names else "there are none at present."
    return ApiError(404, "model_not_found", f"The model {shown!r} does not exist; {told}", param="model")
