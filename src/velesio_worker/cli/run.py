"""``velesio-worker run``, which is what happens without a command, too: the worker."""

from __future__ import annotations

import gc
import os
from typing import Final

from velesio_worker.cli.base import EXIT_FAILED, run_async
from velesio_worker.core.exposure import exposures
from velesio_worker.core.logs import configure_logging, get_logger
from velesio_worker.core.settings import load_settings
from velesio_worker.core.settings_list import misspelt
from velesio_worker.wire.errors import SettingsError, VelesioError
from velesio_worker.worker import Worker

log = get_logger(__name__)

_COLLECT_AFTER: Final = 2_000
"""So many objects more than before, and the youngest are looked through. More would be cheaper; but what fails leaves
cycles, tracebacks with payloads, and those are to go soon."""


def command() -> int:
    """Run the worker until it is stopped; returns the exit code. Raises SettingsError."""
    settings = load_settings()

    async def main() -> int:
        worker = Worker(settings)
        configure_logging(settings.log_level, settings.log_format, worker=worker.id)
        for found, meant in misspelt(os.environ):
            log.warning(f"{found} is no setting; did you mean {meant}?", action="unknown_setting")
        for exposed in exposures(settings):
            log.warning(f"{exposed.what}: {exposed.remedy}", action="exposed")
        spare_what_stays()
        await worker.run()
        return 0

    try:
        return run_async(main)
    except SettingsError:
        raise
    except VelesioError as error:
        log.critical(str(error), action="worker_failed", error=type(error).__name__)
        return EXIT_FAILED


def spare_what_stays() -> None:
    """Have the garbage collector pass over what lives as long as the process: modules, classes, schemas.

    Else it looks through all of it again and again, for a tenth of a second each time, in which no token moves.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, *gc.get_threshold()[1:])
