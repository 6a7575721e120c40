"""How much of the host's memory a process takes with all that it started, and how much it may."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil

_CHILDREN_SECONDS: Final = 2.0
"""How often it is looked for new children: that reads something of every process of the host."""

_SHARE: Final = 0.9
_WORKER_BYTES: Final = 512 * 1024**2
"""What the worker itself needs: a large job and its result."""

_TAKEN: Final = re.compile(r"^(?:RssAnon|RssShmem|VmSwap):\s+(\d+) kB$", re.MULTILINE)
"""What cannot be let go of. A model's file that is only mapped can, and counts for nothing."""

_CGROUPS: Final = Path("/sys/fs/cgroup")
_OLD_LIMIT: Final = _CGROUPS / "memory" / "memory.limit_in_bytes"


class Memory:
    """Measures a process by its id, and its children."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._children: list[int] = []
        self._looked_at = 0.0

    def measure(self) -> int:
        """Return how many bytes are taken; 0 once the process is gone. Reads files."""
        now = time.monotonic()
        if now > self._looked_at + _CHILDREN_SECONDS:
            self._looked_at = now
            with contextlib.suppress(psutil.Error):
                self._children = [child.pid for child in psutil.Process(self._pid).children(recursive=True)]
        return sum(map(_taken_by, (self._pid, *self._children)))


def _taken_by(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        status = ""
    figures = _TAKEN.findall(status)
    if figures:
        return 1024 * sum(map(int, figures))
    with contextlib.suppress(psutil.Error):  # not on Linux, or of a kernel that does not tell them apart
        return psutil.Process(pid).memory_info().rss
    return 0


def _limits(own: Path) -> Iterator[Path]:
    """Yield the files that may limit this process, whose control groups ``own`` names."""
    yield _OLD_LIMIT
    group = _CGROUPS
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = own.read_text(encoding="utf-8").splitlines()
        group /= next(line.removeprefix("0::/") for line in lines if line.startswith("0::/"))
    for each in (group, *group.parents):
        if each.is_relative_to(_CGROUPS):
            yield each / "memory.max"


def default_limit() -> int:
    """Return how much an engine may take of the host's or the container's memory, in bytes."""
    total = psutil.virtual_memory().total
    for limit in _limits(Path("/proc/self/cgroup")):
        with contextlib.suppress(OSError, ValueError):  # there is none, or it says "max"
            total = min(total, int(limit.read_text(encoding="ascii")))
    return max(int(total * _SHARE) - _WORKER_BYTES, total // 2)
