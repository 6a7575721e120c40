"""A worker whose event loop can be made to stick: on SIGUSR1 it does not move any more, while other threads do.

Python runs signal handlers in the main thread, the event loop's: this is what a call that never returns does.
"""

from __future__ import annotations

import signal
import sys
import threading

from velesio_worker.__main__ import main
from velesio_worker.observability import monitor


def _stick(*_: object) -> None:
    threading.Event().wait()


if __name__ == "__main__":
    monitor.STUCK_SECONDS = 2.0  # pyright: ignore[reportConstantRedefinition] (else the test would take 10 s)
    signal.signal(signal.SIGUSR1, _stick)
    sys.exit(main())
