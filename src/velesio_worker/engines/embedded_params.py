"""What llama-server's flags set in the wheel's ``CommonParams``."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any, Final

from velesio_worker.engines.embedded_values import Member

Params = Any
"""The wheel's ``CommonParams``: an extension without types."""

Put = Callable[[Params, Any], None]
"""Sets what a flag's value means."""

PORT: Final = 8080
SLOTS: Final = -1
"""llama-server's default: 4 of them, which share one context."""

SMALL_MACHINE: Final = 4
EVERYTHING: Final = 2**31 - 1
_MIB: Final = 1024 * 1024

CHOSEN: Final = {
    "sampling.samplers": "SAMPLERS",
    "sampling.temp": "TEMP",
    "sampling.top_k": "TOP_K",
    "sampling.top_p": "TOP_P",
    "sampling.min_p": "MIN_P",
    "sampling.xtc_probability": "XTC_PROBABILITY",
    "sampling.xtc_threshold": "XTC_THRESHOLD",
    "sampling.penalty_last_n": "PENALTY_LAST_N",
    "sampling.penalty_repeat": "PENALTY_REPEAT",
    "sampling.mirostat": "MIROSTAT",
    "sampling.mirostat_eta": "MIROSTAT_ETA",
    "sampling.mirostat_tau": "MIROSTAT_TAU",
}
"""Fields that a model can bring values of its own for, which a flag overrules: the mark that says so."""


def extension() -> Any:  # noqa: ANN401 (an extension without types)
    """Return the wheel's module.

    Raises:
        ImportError: it is not installed, or not built for this machine.
    """
    return importlib.import_module("xllamacpp")


def new_params() -> Params:
    """Return a ``CommonParams`` with llama-server's defaults, where the wheel has others."""
    params = extension().CommonParams()
    params.port = PORT
    params.n_parallel = SLOTS
    params.default_template_kwargs = {"preserve_reasoning": "true"}
    if (threads := default_threads()) is not None:
        params.cpuparams.n_threads = threads
    return params


def default_threads() -> int | None:
    """Return how many threads compute; None leaves it to llama.cpp.

    llama.cpp takes every core, and its threads wait for each other in a loop. On a small machine, where the worker
    and Redis need a core as well, they then stand still most of the time: measured on 2 cores beside one busy
    process, 8 streams made 16 tokens/s with 2 threads and 44 with one.
    """
    cores = os.process_cpu_count() if sys.version_info >= (3, 13) else os.cpu_count()
    return max(1, cores - 1) if cores is not None and cores <= SMALL_MACHINE else None


def put_fields(params: Params, target: str, value: Any) -> None:  # noqa: ANN401 (whatever the field holds)
    """Set the fields that a flag's target names; see :class:`velesio_worker.engines.embedded_flags.Flag`."""
    words = target.split()
    if words[:1] == ["not"]:
        value = not value
        del words[0]
    for field in words:
        *owners, name = field.split(".")
        owner = params
        for attribute in owners:
            owner = getattr(owner, attribute)
        setattr(owner, name, _looked_up(value) if isinstance(value, Member) else value)
        if field in CHOSEN:
            enumeration = "common_params_sampling_config"
            mark = _looked_up(Member(enumeration, f"{enumeration.upper()}_{CHOSEN[field]}"))
            params.sampling.user_sampling_config |= int(mark)


def _looked_up(member: Member) -> Any:  # noqa: ANN401 (an extension without types)
    return getattr(getattr(extension(), member.enumeration), member.name)


def put_context(params: Params, size: int) -> None:
    """Set the context's size; the model's own (0), once asked for, is not made smaller to fit the memory."""
    params.n_ctx = size
    if size == 0:
        params.fit_params_min_ctx = -1


def put_reranking(params: Params, _on: bool) -> None:  # noqa: FBT001 (a switch's value)
    """Serve ``/rerank``."""
    params.embedding = True
    params.pooling_type = _looked_up(Member("llama_pooling_type", "LLAMA_POOLING_TYPE_RANK"))


def put_verbose(params: Params, _on: bool) -> None:  # noqa: FBT001 (a switch's value)
    """Log everything."""
    params.verbosity = EVERYTHING


def put_rope_scale(params: Params, factor: float) -> None:
    """Expand the context by a factor."""
    params.rope_freq_scale = 1.0 / factor


def put_repeat_last(params: Params, count: int) -> None:
    """Set how many tokens are looked at for repetitions; as many must be remembered."""
    put_fields(params, "sampling.penalty_last_n", count)
    params.sampling.n_prev = max(params.sampling.n_prev, count)


def put_adapters(params: Params, found: list[tuple[str, float]]) -> None:
    """Add LoRA adapters."""
    make = extension().CommonAdapterLoraInfo
    params.lora_adapters = [*params.lora_adapters, *(make(path, scale) for path, scale in found)]


def put_tensor_split(params: Params, shares: list[float]) -> None:
    """Set the GPUs' shares of the model; the field has a fixed length."""
    missing = len(params.tensor_split) - len(shares)
    if missing < 0:
        raise ValueError(f"{len(shares)} values are more than there can be devices")
    params.tensor_split = [*shares, *[0.0] * missing]


def put_fit_target(params: Params, margins: list[float]) -> None:
    """Set how much memory stays free on each device, in MiB; a single value goes for all."""
    target: list[int] = params.fit_params_target
    if len(margins) > len(target):
        raise ValueError(f"{len(margins)} values are more than there can be devices")
    sizes = [int(margin) * _MIB for margin in (margins * len(target) if len(margins) == 1 else margins)]
    params.fit_params_target = [*sizes, *target[len(sizes) :]]


def put_api_keys(params: Params, keys: list[str]) -> None:
    """Add API keys."""
    params.api_keys = [*params.api_keys, *keys]


def put_draft_types(params: Params, types: list[Member]) -> None:
    """Add kinds of speculative decoding."""
    params.speculative.types = [*params.speculative.types, *(_looked_up(kind) for kind in types)]


def put_template_values(params: Params, found: dict[str, str]) -> None:
    """Add values that every chat template gets."""
    params.default_template_kwargs = {**params.default_template_kwargs, **found}


def put_reasoning(params: Params, on: bool | None) -> None:  # noqa: FBT001 (a flag's value)
    """Switch thinking on or off; None leaves it to the template."""
    params.enable_reasoning = -1 if on is None else int(on)
    if on is not None:
        put_template_values(params, {"enable_thinking": json.dumps(on)})


def put_reasoning_effort(params: Params, level: str) -> None:
    """Set the effort that the chat template is given."""
    kept = {name: value for name, value in params.default_template_kwargs.items() if name != "reasoning_effort"}
    params.default_template_kwargs = kept if level == "default" else {**kept, "reasoning_effort": json.dumps(level)}


def put_kept_reasoning(params: Params, on: bool) -> None:  # noqa: FBT001 (a switch's value)
    """Keep the thoughts of earlier messages, or drop them."""
    put_template_values(params, {"preserve_reasoning": json.dumps(on)})
    params.preserve_reasoning_specified = True
