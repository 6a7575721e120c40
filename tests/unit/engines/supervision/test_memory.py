"""How much memory a process takes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

import psutil

from velesio_worker.engines.supervision import memory as module
from velesio_worker.engines.supervision.memory import Memory, default_limit

MEBIBYTE = 1024**2
CHILD = "import sys; held = bytearray(b'x') * (64 << 20); print('has it', flush=True); sys.stdin.read()"
PARENT = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {CHILD!r}]))"
MAPPED = (
    "import mmap, sys; file = open(sys.argv[1], 'rb'); held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ); "
    "sum(held[::4096]); print('has it', flush=True); sys.stdin.read()"
)


@contextmanager
def running(*arguments: str) -> Generator[int, None, None]:
    """Run Python until the end of the context; begins once the program has said something."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", *arguments], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"has it\n"
        yield process.pid
        process.communicate()


def test_what_a_process_and_its_children_hold_counts() -> None:
    with running(PARENT) as pid:
        assert 64 * MEBIBYTE < Memory(pid).measure() < 128 * MEBIBYTE
    assert Memory(pid).measure() == 0, "it is gone"


def test_a_file_that_is_only_mapped_does_not(tmp_path: module.Path) -> None:
    """A model larger than the memory can be served so: the kernel lets go of what it needs elsewhere."""
    path = tmp_path / "model"
    path.write_bytes(b"x" * 64 * MEBIBYTE)
    with running(MAPPED, str(path)) as pid:
        assert psutil.Process(pid).memory_info().rss > 64 * MEBIBYTE
        assert Memory(pid).measure() < 32 * MEBIBYTE


def test_the_default_leaves_something_to_the_worker() -> None:
    total = psutil.virtual_memory().total
    assert 0 < default_limit() < 0.9 * total
