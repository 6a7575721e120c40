"""llama-server's command line, read by llama.cpp's own parser in the xllamacpp wheel.

The wheel exports the parser, a C++ function, and does not wrap it. It is called with the address of the
``common_params`` within the wheel's ``CommonParams``, so that it fills in the very object that the server is made of:
no text and no list crosses the border, only numbers and plain C strings. What this rests on is looked at before each
use, and a wheel that is otherwise is refused:

- where that struct lies is read from memory, with marks in its first fields, before anything is written there;
- the function's arguments are part of its exported name: a function that takes others is not found;
- the number that stands for llama-server is that of a known command line's meaning.

The parser ends the process by itself after ``--help`` (0) and what it finds beyond repair (1).
"""

from __future__ import annotations

import ctypes
import importlib
import os
import re
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from operator import attrgetter
from typing import Any, Final

Params = Any
"""The wheel's ``CommonParams``: an extension without types."""

TESTED: Final = "2026.10.11549"
"""The version of the wheel that the worker's pins name."""

PORT: Final = 8080
SMALL_MACHINE: Final = 4
REMEDY: Final = "use a llama-server binary (data/binaries/llama-server)"

PARSER: Final = "_Z19common_params_parseiPPcR13common_params13llama_examplePFviS0_E"
"""``common_params_parse(int, char **, common_params &, llama_example, void (*)(int, char **))``."""
LOG: Final = "_Z11common_initv"
"""``common_init()``: the log's lines get their time and level, those of the parser as well."""
_LOG_FLUSH: Final = "_Z16common_log_flushP10common_log"
_LOG_MAIN: Final = "_Z15common_log_mainv"
"""``common_log_flush(common_log *)`` and ``common_log_main()``."""
SERVER: Final = 12
"""``LLAMA_EXAMPLE_SERVER``, whose flags are read."""

KNOWN: Final[Mapping[str, tuple[str, object]]] = {
    "--ctx-size 4321": ("n_ctx", 4321),
    "--yarn-orig-ctx 7": ("yarn_orig_ctx", 7),
    "--temp 0.25": ("sampling.temp", 0.25),
    "--spec-draft-n-max 5": ("speculative.draft.n_max", 5),
    "--model x.gguf": ("model.path", "x.gguf"),
    "--no-warmup": ("warmup", False),
    "--parallel 3": ("n_parallel", 3),
    "--port 1234": ("port", 1234),
    "--host 127.0.0.9": ("hostnames", ["127.0.0.9"]),
    "--metrics": ("endpoint_metrics", True),
    "--sleep-idle-seconds 9": ("sleep_idle_seconds", 9),
}
"""Flags of llama-server's from the beginning of the struct to its end, the fields that they set, and to what."""

_MARKS: Final = {"n_predict": 0x5EED0001, "n_ctx": 0x5EED0002, "n_batch": 0x5EED0003, "n_ubatch": 0x5EED0004}
"""The struct's first fields, in their order, and numbers that stand there by no chance."""
_REMOTE: Final = tuple(
    f"{model}.{source}"
    for model in ("model", "mmproj", "speculative.draft.mparams")
    for source in ("url", "hf_repo", "docker_repo")
)
_JOINED: Final = re.compile(r"--[\w-]+=")


class ArgumentError(Exception):
    """The command line cannot be served; the text says why and is empty where the parser has said so."""


class WheelError(Exception):
    """The installed wheel is not as it is expected to be; the text says what to install."""

    def __init__(self, package: Any, reason: object) -> None:  # noqa: ANN401 (an extension without types)
        version = getattr(package, "__version__", "of an unknown version")
        super().__init__(
            f"error: xllamacpp {version} is too old or too new for this worker ({reason}): "
            f"pip install xllamacpp=={TESTED}, or {REMEDY}"
        )


def extension() -> Any:  # noqa: ANN401 (an extension without types)
    """Return the wheel's module; raises ImportError where it is not installed, or not built for this machine."""
    return importlib.import_module("xllamacpp")


def read_params(argv: Sequence[str]) -> Params:
    """Return the ``CommonParams`` that a command line and the environment (``LLAMA_ARG_…``) describe.

    The program's name is not among the arguments. ``--flag=value`` is taken, too, which llama-server does not.

    Raises:
        ArgumentError: they are not understood, or ask for what the wheel's server cannot do.
        WheelError: the wheel is not one that this works with.
        ImportError: the wheel cannot be imported.
    """
    package = extension()
    check_wheel(package)
    params = package.CommonParams()
    params.port = PORT  # the wheel's own is 0
    if (threads := default_threads()) is not None:
        params.cpuparams.n_threads = threads
    words = [part for word in argv for part in (word.split("=", 1) if _JOINED.match(word) else [word])]
    if not _parse(package, params, words):
        raise ArgumentError
    if remote := [found for field in _REMOTE if (found := attrgetter(field)(params))]:
        raise ArgumentError(f"error: the server in the xllamacpp wheel downloads nothing ({remote[0]}): {REMEDY}")
    if not params.model.path:
        raise ArgumentError("error: --model is required: the server in the xllamacpp wheel serves one model")
    return params


def default_threads() -> int | None:
    """Return how many threads compute; None leaves it to llama.cpp.

    llama.cpp takes every core, and its threads wait for each other in a loop. On a small machine, where the worker
    and Redis need a core as well, they then stand still most of the time: measured on 2 cores beside one busy
    process, 8 streams made 16 tokens/s with 2 threads and 44 with one.
    """
    cores = os.process_cpu_count() if sys.version_info >= (3, 13) else os.cpu_count()
    return max(1, cores - 1) if cores is not None and cores <= SMALL_MACHINE else None


def check_wheel(package: Any, known: Mapping[str, tuple[str, object]] = KNOWN) -> None:  # noqa: ANN401
    """Check that the parser can be called safely and means what it is expected to mean; else raises WheelError."""
    fields = attrgetter(*(field for field, _ in known.values()))
    wanted = tuple(value for _, value in known.values())
    try:
        _check_place(package)
        read, untouched = package.CommonParams(), package.CommonParams()
        before = fields(untouched)
        with _environment_without_flags():
            understood = _parse(package, read, " ".join(known).split())
        found = fields(read)
        kept = fields(untouched) == before
    except (AttributeError, TypeError, ValueError, OSError) as error:
        raise WheelError(package, error) from None
    if not understood or found != wanted or not kept:
        raise WheelError(package, "its parser does not read a known command line as llama-server does")


def _check_place(package: Any) -> None:  # noqa: ANN401 (an extension without types)
    """Check where the struct lies, by what can be read there; nothing has been written by address until then."""
    marked = package.CommonParams()
    for field, mark in _MARKS.items():
        setattr(marked, field, mark)
    if [*(ctypes.c_int32 * len(_MARKS)).from_address(_address(marked))] != [*_MARKS.values()]:
        raise ValueError("its CommonParams is laid out otherwise")


def _address(params: Params) -> int:
    """Return where the struct begins: right behind the head that every Python object has."""
    return id(params) + object.__basicsize__


def _parse(package: Any, params: Params, words: Sequence[str]) -> bool:  # noqa: ANN401
    """Have the parser read words; False: it has written to standard error what is wrong with them."""
    library = ctypes.CDLL(package.xllamacpp.__file__)
    parser = getattr(library, PARSER)
    parser.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
    parser.restype = ctypes.c_bool
    start_log = getattr(library, LOG)
    start_log.restype = None
    start_log()
    argv = [b"llama-server", *(os.fsencode(word) for word in words)]
    return parser(len(argv), (ctypes.c_char_p * (len(argv) + 1))(*argv, None), _address(params), SERVER, None)


def flush_log() -> None:
    """Have llama.cpp's log be written to its end: a thread of its own does so, which lags behind on a busy machine."""
    library = ctypes.CDLL(extension().xllamacpp.__file__)
    with suppress(AttributeError):  # a wheel that does not export them
        flush, log = getattr(library, _LOG_FLUSH), getattr(library, _LOG_MAIN)
        flush.argtypes, flush.restype, log.restype = [ctypes.c_void_p], None, ctypes.c_void_p
        flush(log())


@contextmanager
def _environment_without_flags() -> Generator[None]:
    """Hide the flags in the environment, which would be read beside the known ones."""
    hidden = {name: os.environ.pop(name) for name in [*os.environ] if name.startswith("LLAMA_")}
    try:
        yield
    finally:
        os.environ.update(hidden)
