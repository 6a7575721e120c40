"""What ``GET /props`` tells: of the workers, as far as they tell it themselves, and nothing of their hosts."""

from __future__ import annotations

from typing import Any, Final

from velesio_worker import __version__
from velesio_worker.gateway.jobs import Fleet

_TEXT: Final = "text"


def props(fleet: Fleet) -> dict[str, Any]:
    """Return the properties of all text workers together, in llama-server's form.

    The model and its context are those of jobs that name no model; slots are counted over all workers.
    """
    model = fleet.default(_TEXT)
    name = model.name if model else None
    engines = [worker.engines[_TEXT] for worker in fleet.workers if _TEXT in worker.kinds]
    return {
        "default_generation_settings": {"n_ctx": model.context if model else None},
        "total_slots": sum(engine.slots for engine in engines),
        "model_alias": name,
        "model_path": name,
        "build_info": f"velesio-worker {__version__}",
        "is_sleeping": False,
    }
