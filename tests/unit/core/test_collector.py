"""The garbage collector, which passes over what stays."""

from __future__ import annotations

import gc
from collections.abc import Generator

import pytest

from velesio_worker.core.collector import spare_what_stays


@pytest.fixture
def collector() -> Generator[None, None, None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)  # what is frozen stays so: among it are all tests, which nobody is to look through again


@pytest.mark.usefixtures("collector")
def test_what_was_loaded_is_not_looked_through_again_and_again() -> None:
    loaded = len(gc.get_objects())
    spare_what_stays(1_234)
    assert gc.get_freeze_count() > loaded // 2
    assert len(gc.get_objects()) < loaded // 10
    assert gc.get_threshold()[0] == 1_234
