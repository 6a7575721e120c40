"""How many layers and how much context a GPU's free memory allows: plain arithmetic, no GPU is asked here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from velesio_worker.core.settings import GpuSizing

LEAST_CONTEXT: Final = 512
"""What :func:`lower` leaves of the context, in tokens: with less hardly a prompt fits."""


@dataclass(frozen=True, slots=True)
class Sizing:
    """How much of the GPU's memory llama-server is to take.

    Attributes:
        layers: how many of the model's layers go on the GPU; None leaves that to llama-server (``--fit``).
        context: tokens of one job, prompt and answer together.
    """

    layers: int | None
    context: int


_CAPS: Final = ((4000, Sizing(layers=20, context=2048)), (8000, Sizing(layers=30, context=4096)))
"""Below so many MiB of free memory at most this: from the least memory to the most, and the first that holds counts."""


def sized(mode: GpuSizing, free_mib: float | None, layers: int, context: int) -> Sizing:
    """Return how llama-server is started; never more than is configured.

    Args:
        mode: who decides (``GPU_SIZING``).
        free_mib: free memory of the GPUs that it sees, in MiB; None if that is not known, which caps nothing.
        layers: ``GPU_LAYERS``.
        context: ``CONTEXT_SIZE``.
    """
    if mode is GpuSizing.FIT:
        return Sizing(None, context)
    configured = Sizing(layers, context)
    if mode is GpuSizing.OFF or free_mib is None:
        return configured
    return next((_at_most(configured, most) for below, most in _CAPS if free_mib < below), configured)


def lower(sizing: Sizing) -> Sizing | None:
    """Return the next smaller sizing, for a server that ran out of memory; None if there is none.

    First down the steps that ``GPU_SIZING=caps`` knows, then by halves to no layers and ``LEAST_CONTEXT``. A sizing
    that was llama-server's own decision becomes the uppermost step.
    """
    for _, most in reversed(_CAPS):
        if (step := _at_most(sizing, most)) != sizing:
            return step
    half = Sizing(
        layers=(sizing.layers or 0) // 2,
        context=min(sizing.context, max(sizing.context // 2, LEAST_CONTEXT)),  # the outer min: it may be less already
    )
    return half if half != sizing else None


def _at_most(sizing: Sizing, most: Sizing) -> Sizing:
    layers = [layers for layers in (sizing.layers, most.layers) if layers is not None]
    return Sizing(min(layers, default=None), min(sizing.context, most.context))
