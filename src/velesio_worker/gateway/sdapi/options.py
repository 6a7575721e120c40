"""The WebUI's settings, of which there are none here: what GET says, POST takes, and nothing else.

A setting that outlived its request would be everybody's, or one process's alone; a WebUI's clients mean neither. Who
wants another model names it with each image: ``override_settings.sd_model_checkpoint``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PureWindowsPath
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.sdapi.translation import CHECKPOINT

_SHOWN: Final = 80
_MOST_SHOWN: Final = 20
INSTEAD: Final = 'send {"override_settings": {"sd_model_checkpoint": "…"}} with each image instead'


class OptionsRequest(BaseModel):
    """The body of ``POST /sdapi/v1/options``: settings by their names."""

    model_config = ConfigDict(extra="allow")


def options(model: str | None) -> dict[str, Any]:
    """Return the settings that can be told.

    Args:
        model: the name of the checkpoint that an image gets which names none.
    """
    return {CHECKPOINT: model, "samples_format": "png"}


def check_unchanged(wanted: Mapping[str, Any], now: Mapping[str, Any], models: Sequence[str]) -> None:
    """Check settings that somebody wants to make; only what is so already can be had.

    Args:
        wanted: the settings.
        now: the settings that :func:`options` tells.
        models: the names of the checkpoints that there are.

    Raises:
        ApiError: they would change something.
    """
    for name, value in wanted.items():
        if name == CHECKPOINT and value is not None:
            _check_model(str(value), now[CHECKPOINT], models)
        elif value != now.get(name):
            raise ApiError(
                400,
                "invalid_request",
                f"{name[:_SHOWN]} cannot be set: the gateway keeps no settings between requests. "
                "What an image may have of its own goes into its override_settings.",
                param=name[:_SHOWN],
            )


def _check_model(value: str, default: str | None, models: Sequence[str]) -> None:
    meant = value.rpartition(" [")[0] or value  # titles of a WebUI have a hash behind them
    known = {meant, PureWindowsPath(meant).stem}
    if default in known:
        return
    if not known.intersection(models):
        there = ", ".join(models[:_MOST_SHOWN]) or "none"
        raise ApiError(
            404, "model_not_found", f"There is no checkpoint {value[:_SHOWN]!r}; there are {there}.", param=CHECKPOINT
        )
    raise ApiError(
        400,
        "invalid_request",
        f"The checkpoint stays {default!r}: the gateway keeps no settings between requests; {INSTEAD}.",
        param=CHECKPOINT,
    )
