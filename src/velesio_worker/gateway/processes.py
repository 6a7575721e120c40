"""Several processes on one socket: started, started again when one is lost, ended together.

Each process takes connections from the same listening socket, so a process that dies takes none with it but its own.
All know by a pipe whether the one that started them is still there.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from prometheus_client import multiprocess

from velesio_worker.core.logs import configure_logging, get_logger
from velesio_worker.gateway.metrics import FOLDER_VARIABLE
from velesio_worker.gateway.server import ENDING, serve
from velesio_worker.gateway.settings import load_gateway_settings
from velesio_worker.wire.errors import SettingsError

_TICK_SECONDS: Final = 0.1
_YOUNG_SECONDS: Final = 10.0
"""A process that dies younger than this is started again only after a pause."""

_LONGEST_PAUSE: Final = 10.0
_EXTRA_SECONDS: Final = 20.0
"""What a process may take beyond ``DRAIN_SECONDS`` before it is killed."""

_IN_ORDER: Final = frozenset({0, -signal.SIGTERM})
"""How one ends that was told to; one that had only just begun has no better way."""

_USAGE: Final = 2
_FAILED: Final = 1

log = get_logger(__name__)


@dataclass(slots=True)
class _Place:
    """One of the processes, or where it is about to be."""

    process: subprocess.Popen[bytes] | None = None
    begun: float = 0.0
    losses: int = 0
    start_at: float = 0.0


class Processes:
    """Keeps a number of gateway processes running.

    Args:
        number: how many.
        listener: the socket that they share.
        drain_seconds: how long they may take to end.
    """

    def __init__(self, number: int, listener: socket.socket, drain_seconds: float) -> None:
        self._places = [_Place() for _ in range(number)]
        self._listener = listener
        self._drain_seconds = drain_seconds
        self._ending = False
        self._writing: int | None = None

    def run(self) -> int:
        """Run them until a signal comes; returns the exit code."""
        before = {number: signal.signal(number, self._end) for number in ENDING}
        folder = tempfile.mkdtemp(prefix="velesio-gateway-")
        reading, self._writing = os.pipe()
        try:
            return self._keep(folder, reading)
        finally:
            self._let_go()
            os.close(reading)
            shutil.rmtree(folder, ignore_errors=True)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end(self, *_: object) -> None:
        """Begin to end; the second time have them end at once."""
        if self._ending:
            self._let_go()
        self._ending = True

    def _let_go(self) -> None:
        if self._writing is not None:
            os.close(self._writing)
            self._writing = None

    def _keep(self, folder: str, life: int) -> int:
        while not self._ending:
            for place in self._places:
                if place.process is None and time.monotonic() >= place.start_at:
                    self._start(place, folder, life)
                elif place.process is not None and (code := place.process.poll()) is not None:
                    if code == _USAGE:  # what it says of the settings holds for all of them
                        self._stop()
                        return code
                    self._lose(place, place.process.pid, code, folder)
            time.sleep(_TICK_SECONDS)
        return self._stop()

    def _start(self, place: _Place, folder: str, life: int) -> None:
        listener = self._listener.fileno()
        place.begun = time.monotonic()
        place.process = subprocess.Popen(  # noqa: S603 (ourselves)
            [sys.executable, "-m", __name__, str(listener), str(life)],
            env={**os.environ, FOLDER_VARIABLE: folder},
            pass_fds=(listener, life),
        )

    def _lose(self, place: _Place, pid: int, code: int, folder: str) -> None:
        multiprocess.mark_process_dead(pid, path=folder)  # pyright: ignore[reportUnknownMemberType]
        place.process = None
        young = time.monotonic() - place.begun < _YOUNG_SECONDS
        place.losses = place.losses + 1 if young else 0
        pause = min(_LONGEST_PAUSE, 0.25 * 2**place.losses) if young else 0.0
        place.start_at = time.monotonic() + pause
        said = f"gateway process {pid} ended with exit code {code}; another one is started"
        log.error(said, action="gateway_process_lost", pid=pid, exit_code=code)

    def _stop(self) -> int:
        log.info("the gateway's processes end; a second signal ends them at once", action="gateway_processes_ending")
        running = [place.process for place in self._places if place.process is not None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + self._drain_seconds + _EXTRA_SECONDS
        code = 0
        for process in running:
            try:
                ended = process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                ended = process.wait()
            code = code or (0 if ended in _IN_ORDER else _FAILED)
        return code


def main(listener: int, life: int) -> int:
    """Be one of the processes; returns the exit code."""
    try:
        settings = load_gateway_settings()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return _USAGE
    configure_logging(settings.log_level, settings.log_format)
    with suppress(KeyboardInterrupt):  # before there is a handler
        serve(settings, socket.socket(fileno=listener), life=life)
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
