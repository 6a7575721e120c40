"""What a worker offers: the names of models that jobs may give, for its hash in Redis, where gateways read them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import orjson

from velesio_worker.wire.jobs import Kind
from velesio_worker.wire.limits import MOST_OFFERED_BYTES, MOST_OFFERED_NAMES


def offer(kind: Kind, models: Sequence[str], default: str, *, more: int, exchanges: bool) -> dict[str, str | int]:
    """Return the fields of the worker's hash that say which models jobs of a kind may name (wire protocol, section 6).

    Args:
        kind: the kind of job.
        models: the names, the most important first; empty ones and repetitions are passed over.
        default: what jobs get that name none; empty where that is not known yet.
        more: how many models there are beside those.
        exchanges: whether another model is loaded for a job that names it.
    """
    names = [name for name in dict.fromkeys(models) if name]
    told = _as_many_as_fit(names)
    return {
        f"{kind}_models": orjson.dumps(told).decode(),
        f"{kind}_models_more": len(names) - len(told) + more,
        f"{kind}_default": default,
        f"{kind}_exchanges": int(exchanges),
    }


def _as_many_as_fit(names: Iterable[str]) -> list[str]:
    told: list[str] = []
    size = len("[]")
    for name in names:
        size += len(orjson.dumps(name)) + len(",")
        if len(told) == MOST_OFFERED_NAMES or size > MOST_OFFERED_BYTES:
            break
        told.append(name)
    return told
