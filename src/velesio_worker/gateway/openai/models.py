"""``/v1/models``: which models there are."""

from __future__ import annotations

from typing import Any, Final

from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.jobs import Fleet, Model

_LONGEST: Final = 100


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
    shown = name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…"
    there = "GET /v1/models lists those there are" if fleet.models else "there are none at present"
    raise ApiError(404, "model_not_found", f"The model {shown!r} does not exist; {there}.", param="model")


def _described(model: Model) -> dict[str, Any]:
    """Describe a model; nobody knows when it was made, and clients want a number."""
    described: dict[str, Any] = {"id": model.name, "object": "model", "created": 0, "owned_by": "velesio"}
    described["kind"] = model.kind
    if model.context is not None:
        described |= {"context_length": model.context, "max_model_len": model.context}
    return described
