"""The real llama.cpp server out of the xllamacpp wheel, started like the binary: same flags, log and exit codes."""

from __future__ import annotations

import argparse
import importlib
import os
import select
import signal
import sys
import threading
from types import FrameType
from typing import Any, Final, NoReturn

LAYERS: Final = {"auto": -1, "all": -2}
SMALL_MACHINE: Final = 4
CLOSE_SECONDS: Final = 2.0
"""How long the server may take to close; with a request open it would wait for half a minute."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"error: invalid argument: {message}", file=sys.stderr)  # noqa: T201 (as llama-server does)
        sys.exit(1)


def _layers(value: str) -> int:
    return LAYERS[value] if value in LAYERS else int(value)


def parser() -> argparse.ArgumentParser:
    """Return the parser of those of llama-server's flags that are understood."""
    flags = _Parser(prog="velesio_worker.engines.embedded", description=__doc__, allow_abbrev=False)
    flags.add_argument("-m", "--model", required=True)
    flags.add_argument("-c", "--ctx-size", type=int, default=0)
    flags.add_argument("-np", "--parallel", type=int, default=1)
    flags.add_argument("-ngl", "--gpu-layers", "--n-gpu-layers", dest="gpu_layers", type=_layers, default=-1)
    flags.add_argument("-t", "--threads", type=int, default=None)
    flags.add_argument("-b", "--batch-size", type=int, default=None)
    flags.add_argument("-ub", "--ubatch-size", type=int, default=None)
    flags.add_argument("--host", default=os.environ.get("LLAMA_ARG_HOST", "127.0.0.1"))
    flags.add_argument("--port", type=int, default=int(os.environ.get("LLAMA_ARG_PORT", "8080")))
    flags.add_argument("-cram", "--cache-ram", type=int, default=None)
    flags.add_argument("--metrics", action="store_true")
    flags.add_argument("--slots", action="store_true")
    return flags


def _params(xllamacpp: Any, flags: argparse.Namespace) -> Any:  # noqa: ANN401 (an untyped extension)
    params = xllamacpp.CommonParams()
    params.model.path = flags.model
    params.n_ctx = flags.ctx_size
    params.n_parallel = flags.parallel
    params.n_gpu_layers = flags.gpu_layers
    params.hostnames = [flags.host]
    params.port = flags.port
    params.endpoint_metrics = flags.metrics
    params.endpoint_slots = flags.slots
    params.endpoint_props = True
    threads = _threads() if flags.threads is None else flags.threads
    if threads is not None:
        params.cpuparams.n_threads = threads
        params.cpuparams_batch.n_threads = threads
    if flags.batch_size is not None:
        params.n_batch = flags.batch_size
    if flags.ubatch_size is not None:
        params.n_ubatch = flags.ubatch_size
    if flags.cache_ram is not None:
        params.cache_ram_mib = flags.cache_ram
    return params


def _threads() -> int | None:
    """Return how many threads compute; None leaves it to llama.cpp.

    llama.cpp takes every core, and its threads wait for each other in a loop. On a small machine, where the worker
    and Redis need a core as well, they then stand still most of the time: measured on 2 cores beside one busy
    process, 8 streams made 16 tokens/s with 2 threads and 44 with one.
    """
    cores = os.process_cpu_count() if sys.version_info >= (3, 13) else os.cpu_count()
    return max(1, cores - 1) if cores is not None and cores <= SMALL_MACHINE else None


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Leave the signal to the wake-up pipe."""


def _wait_for_stop() -> None:
    """Wait for SIGTERM or SIGINT, whichever thread the system hands it to."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ignore)
    select.select([readable], [], [])


def main(argv: list[str] | None = None) -> int:
    """Serve until a signal comes; returns the exit code (1: the model did not load)."""
    flags = parser().parse_args(argv)
    xllamacpp: Any = importlib.import_module("xllamacpp")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        server = [xllamacpp.Server(_params(xllamacpp, flags))]
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 (as llama-server does)
        return 1
    _wait_for_stop()
    closing = threading.Thread(target=server.clear, daemon=True)
    closing.start()
    closing.join(CLOSE_SECONDS)
    sys.stderr.flush()
    os._exit(0)  # whatever requests are open: the kernel closes them and frees the memory


if __name__ == "__main__":
    sys.exit(main())
