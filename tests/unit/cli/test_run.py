"""What ``velesio-worker run`` does before the worker begins."""

from __future__ import annotations

import gc
from collections.abc import Generator

import pytest

from velesio_worker.cli.run import spare_what_stays


@pytest.fixture
def collector() -> Generator[None, None, None]:
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


@pytest.mark.usefixtures("collector")
def test_what_was_loaded_is_not_looked_through_again_and_again() -> None:
    loaded = len(gc.get_objects())
    spare_what_stays()
    assert gc.get_freeze_count() > loaded // 2
    assert len(gc.get_objects()) < loaded // 10
    assert gc.isenabled()
