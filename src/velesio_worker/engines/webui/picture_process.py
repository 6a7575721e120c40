"""The process that decodes pictures which came with jobs: one that is a trap costs this process, and no more.

A request is a line of JSON, a list with name and length of each picture, and the pictures behind it, in base64. The
answer is a line of JSON, too: ``{"error"}``, or ``{"lengths"}`` and the pictures as they are to be sent on; null stands
for one that is as it was. It imports little, so that it starts soon.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from typing import BinaryIO, Final

from velesio_worker.engines.webui.pictures import check_picture
from velesio_worker.wire.errors import BadJobError

_PR_SET_PDEATHSIG: Final = 1
_NO_MEMORY: Final = "The images take too much memory to decode: send smaller ones."


def main(arguments: list[str]) -> None:
    """Decode until standard input ends.

    Args:
        arguments: the id of the process that asks, with which this one ends; how many pixels a picture may have; the
            seconds of CPU time that one may take; the bytes of memory that this process may have.
    """
    parent, max_pixels, seconds, memory = map(int, arguments)
    _die_with(parent)
    with suppress(ValueError, OSError):  # there are systems that have no such limit
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    while line := sys.stdin.buffer.readline():
        try:
            _answer(json.loads(line), max_pixels, seconds)
        except BadJobError as error:
            _write({"error": str(error)}, [])
        except MemoryError:
            _write({"error": _NO_MEMORY}, [])


def _answer(wanted: list[tuple[str, int]], max_pixels: int, seconds: int) -> None:
    pictures = [(name, _read(sys.stdin.buffer, length).decode()) for name, length in wanted]
    changed: list[bytes | None] = []
    for name, picture in pictures:
        _allow(seconds)
        checked = check_picture(picture, name=name, max_pixels=max_pixels)
        changed.append(None if checked == picture else checked.encode())
    _write({"lengths": [None if one is None else len(one) for one in changed]}, [one for one in changed if one])


def _read(stream: BinaryIO, length: int) -> bytes:
    content = stream.read(length)
    if len(content) < length:
        sys.exit()  # whoever asked is gone
    return content


def _write(head: dict[str, object], pictures: list[bytes]) -> None:
    sys.stdout.buffer.write(b"".join((json.dumps(head).encode(), b"\n", *pictures)))
    sys.stdout.buffer.flush()


def _allow(seconds: int) -> None:
    """Have the kernel end this process once it has computed for so many seconds more."""
    _, hardest = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + seconds, hardest))


def _die_with(parent: int) -> None:
    """Have the kernel end this process with that one, where it can: it may be in the midst of a picture then."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit()


if __name__ == "__main__":
    main(sys.argv[1:])
