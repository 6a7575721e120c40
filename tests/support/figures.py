"""What the process's metrics say; all tests share them, so only differences mean something."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from velesio_worker.core.metrics import REGISTRY


def figure(name: str, **labels: str) -> float:
    """The value of a sample; 0 if there is none."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


@dataclass
class Rise:
    """By how much a sample rose."""

    by: float = 0.0


@contextmanager
def rise(name: str, **labels: str) -> Generator[Rise, None, None]:
    """Tell by how much a sample rises in the context."""
    before, found = figure(name, **labels), Rise()
    yield found
    found.by = figure(name, **labels) - before
