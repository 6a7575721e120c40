"""What engines write of the jobs that they run, which is left out of the log and of an engine's last lines.

Found out by giving each kind of request, good and bad, a word of its own, and looking for it in what llama.cpp's
server wrote, with and without ``--verbose``. For WebUIs: AUTOMATIC1111 1.10, ``modules/api/api.py`` and
``modules/call_queue.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

LEFT_OUT: Final = "… (what it repeats of a job is left out)"

Clean = Callable[[str], str | None]
"""Gets each line that an engine writes, in order; returns what may be shown of it, None: nothing."""


def redact(signs: re.Pattern[str], line: str) -> tuple[str, bool]:
    """Return a line without what follows upon a sign, and whether there was one; the first group of ``signs``."""
    found = signs.search(line)
    return (line, False) if found is None else (f"{line[: found.end(1)].rstrip()} {LEFT_OUT}", True)
