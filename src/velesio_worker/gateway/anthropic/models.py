"""The models, in the form that is asked for with a header ``anthropic-version``."""

from __future__ import annotations

from typing import Any

from velesio_worker.gateway.chosen import chosen
from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.jobs import Fleet, Model

_CREATED = "1970-01-01T00:00:00Z"
"""What Anthropic says of models whose day is not known."""


def models_body(fleet: Fleet) -> dict[str, Any]:
    """Return the list of the models that write text, all on one page."""
    models = [_written(model) for model in fleet.models if model.kind == "text"]
    ends = {"first_id": models[0]["id"], "last_id": models[-1]["id"]} if models else {"first_id": None, "last_id": None}
    return {"data": models, "has_more": False, **ends}


def model_body(fleet: Fleet, name: str) -> dict[str, Any]:
    """Return one model.

    Raises:
        ApiError: there is none of this name.
    """
    model = fleet.model(chosen(fleet, name), "text")
    if model is None:
        raise ApiError(404, "model_not_found", "No models are known at present: no worker says that it has one.")
    return _written(model)


def _written(model: Model) -> dict[str, Any]:
    return {"type": "model", "id": model.name, "display_name": model.name, "created_at": _CREATED}
