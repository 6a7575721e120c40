"""Python's garbage collector, in processes in which many wait for each token."""

from __future__ import annotations

import gc


def spare_what_stays(*thresholds: int) -> None:
    """Have the collector pass over what is there now and lives as long as the process: modules, classes, schemas.

    Else it looks through all of it again and again, for a tenth of a second each time, in which no token moves.

    Args:
        thresholds: those of :func:`gc.set_threshold`, the first ones.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*thresholds, *gc.get_threshold()[len(thresholds) :])
