"""``python -m tests.doubles.webui``: the double as a program, started with the flags of the real one."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Final

from tests.doubles.webui.double import WebUIDouble
from tests.doubles.webui.faults import FAULTS
from tests.doubles.webui.setup import MISSING, Setup

_PORT, _PORT_WITHOUT_PAGES = 7860, 7861
_EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 (what the real one does without pages, and what a worker has to prevent)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def _missing(text: str) -> frozenset[str]:
    if unknown := set(_words(text)) - MISSING:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(sorted(MISSING))}")
    return frozenset(_words(text))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tests.doubles.webui", description=__doc__, allow_abbrev=False)
    parser.add_argument("--port", type=int)
    parser.add_argument("--server-name")
    parser.add_argument("--listen", action="store_true")
    parser.add_argument("--api", action="store_true", help="without it there are no routes of the API")
    parser.add_argument("--nowebui", action="store_true", help="only the API, and other defaults of host and port")
    parser.add_argument("--api-auth")
    parser.add_argument("--ckpt-dir", type=Path)
    parser.add_argument("--step-seconds", type=float, default=0.02)
    parser.add_argument("--decode-seconds", type=float)
    parser.add_argument("--start-seconds", type=float, default=0.0, help="until the port opens")
    parser.add_argument("--load-seconds", type=float, default=0.0)
    parser.add_argument("--models", type=_words, default=("tinyA", "tinyB"))
    parser.add_argument("--loras", type=_words, default=())
    parser.add_argument("--broken", help="a checkpoint that cannot be read")
    parser.add_argument("--vaes", type=_words, default=())
    parser.add_argument("--hashing", action="store_true")
    parser.add_argument("--missing", type=_missing, default=frozenset())
    parser.add_argument("--fail-with", help=f"{', '.join(FAULTS)} or the class of an exception")
    parser.add_argument("--fail-note", type=Path)
    parser.add_argument("--memory-pixels", type=int, help="how many pixels fit into memory at once")
    parser.add_argument("--journal", type=Path)
    return parser


def main() -> None:
    """Serve until SIGTERM or SIGINT; flags of the real program that mean nothing here are ignored."""
    args, _ = _parser().parse_known_args()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: ended.set())
    setup = Setup(
        step_seconds=args.step_seconds,
        decode_seconds=args.decode_seconds,
        load_seconds=args.load_seconds,
        models=args.models,
        loras=args.loras,
        vaes=args.vaes,
        ckpt_dir=args.ckpt_dir,
        hashing=args.hashing,
        broken=args.broken,
        api=args.api or args.nowebui,
        nowebui=args.nowebui,
        api_auth=args.api_auth,
        missing=args.missing,
        fail_with=args.fail_with,
        fail_note=args.fail_note,
        memory_pixels=args.memory_pixels,
        journal=args.journal,
        console=sys.stderr,
    )
    host = args.server_name or (_EVERYWHERE if args.listen or args.nowebui else "127.0.0.1")
    port = args.port or (_PORT_WITHOUT_PAGES if args.nowebui else _PORT)
    begun = time.monotonic()
    if ended.wait(args.start_seconds):
        return
    with WebUIDouble(setup, host, port):
        print(f"Startup time: {time.monotonic() - begun:.1f}s.", flush=True)  # noqa: T201 (as the real one does)
        print(f"Running on local URL:  http://{host}:{port}", flush=True)  # noqa: T201
        ended.wait()


if __name__ == "__main__":
    main()
