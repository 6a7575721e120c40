from __future__ import annotations

from itertools import pairwise

import pytest

from velesio_worker.core.settings import GpuSizing
from velesio_worker.engines.llama.sizing import Sizing, lower, sized

CAPS, FIT, OFF = GpuSizing.CAPS, GpuSizing.FIT, GpuSizing.OFF


@pytest.mark.parametrize(
    ("free_mib", "layers", "context", "expected"),
    [
        (0, 35, 8192, Sizing(20, 2048)),
        (3999, 35, 8192, Sizing(20, 2048)),
        (3999.99, 35, 8192, Sizing(20, 2048)),
        (4000, 35, 8192, Sizing(30, 4096)),
        (7999.99, 35, 8192, Sizing(30, 4096)),
        (8000, 35, 8192, Sizing(35, 8192)),
        (80_000, 99, 131_072, Sizing(99, 131_072)),
        (None, 35, 8192, Sizing(35, 8192)),
        (3000, 0, 8192, Sizing(0, 2048)),
        (3000, 35, 1024, Sizing(20, 1024)),
        (3000, 12, 512, Sizing(12, 512)),
        (6000, 25, 4096, Sizing(25, 4096)),
    ],
)
def test_caps_follow_the_free_memory_and_never_raise_what_is_configured(
    free_mib: float | None, layers: int, context: int, expected: Sizing
) -> None:
    assert sized(CAPS, free_mib, layers, context) == expected


@pytest.mark.parametrize("free_mib", [None, 0, 3000, 80_000])
def test_fit_leaves_the_layers_to_the_server_and_off_leaves_everything(free_mib: float | None) -> None:
    assert sized(FIT, free_mib, 35, 8192) == Sizing(None, 8192)
    assert sized(OFF, free_mib, 35, 8192) == Sizing(35, 8192)


@pytest.mark.parametrize(
    ("sizing", "expected"),
    [
        (Sizing(35, 8192), Sizing(30, 4096)),
        (Sizing(99, 2048), Sizing(30, 2048)),
        (Sizing(10, 8192), Sizing(10, 4096)),
        (Sizing(0, 8192), Sizing(0, 4096)),
        (Sizing(30, 4096), Sizing(20, 2048)),
        (Sizing(25, 2048), Sizing(20, 2048)),
        (Sizing(10, 4096), Sizing(10, 2048)),
        (Sizing(20, 2048), Sizing(10, 1024)),
        (Sizing(5, 600), Sizing(2, 512)),
        (Sizing(1, 512), Sizing(0, 512)),
        (Sizing(4, 128), Sizing(2, 128)),
        (Sizing(0, 1024), Sizing(0, 512)),
        (Sizing(0, 512), None),
        (Sizing(0, 64), None),
        (Sizing(None, 8192), Sizing(30, 4096)),
        (Sizing(None, 1024), Sizing(30, 1024)),
    ],
)
def test_the_next_smaller_sizing(sizing: Sizing, expected: Sizing | None) -> None:
    assert lower(sizing) == expected


@pytest.mark.parametrize("first", [Sizing(35, 4096), Sizing(999, 1_000_000), Sizing(None, 8192), Sizing(0, 64)])
def test_going_lower_comes_to_an_end_and_never_raises_anything(first: Sizing) -> None:
    steps = [first]
    while (step := lower(steps[-1])) is not None:
        steps.append(step)
        assert len(steps) < 20
    for above, below in pairwise(steps):
        assert below != above
        assert below.context <= above.context
        assert below.layers is not None
        assert above.layers is None or below.layers <= above.layers
    assert steps[-1].layers == 0
    assert steps[-1].context <= 512
