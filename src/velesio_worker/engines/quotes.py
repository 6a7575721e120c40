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

_LLAMA_SIGNS: Final = (
    *("got exception:", "llg error:", r"Failed to parse\b", "but got:", "error parsing grammar:", "grammar:"),
    *(r"Grammar \(", "JSON schema:", "launching slot :", "next token:", "streamed chunk:", "Parsed message:"),
    *(r"Parsing [\w ]+:", "generated parser:", "request: *(?={)", "response: *(?={)"),
)
_LLAMA: Final = re.compile(rf"({'|'.join(_LLAMA_SIGNS)}).*\S.*", re.DOTALL | re.IGNORECASE)
_LLAMA_BEGINS: Final = re.compile(
    r"[\d.]+ [DIWE] |(?:srv|slot|que|res|cmn|main) +\S+: |(?:llama|ggml|common|gguf)_\w+: |.*(?:GGML_ASSERT|CUDA error)"
)
"""How a line begins that does not go on with what the one before it repeated."""

_WEBUI: Final = re.compile(r"(API error:[^{]*|Arguments:)(?= *\S).*", re.DOTALL)
_WEBUI_LOCALS: Final = re.compile(r"\s*[│|] ?[│|╭╰]|\s*[╭╰].*\blocals\b")
"""The variables of a function in a traceback by ``rich``: the request is among them."""


class LlamaQuotes:
    """Cleans what a llama-server writes: some of it goes on over several lines."""

    def __init__(self) -> None:
        self._goes_on = False

    def __call__(self, line: str) -> str | None:
        """Return what may be shown of a line; None: nothing."""
        if self._goes_on and not _LLAMA_BEGINS.match(line):
            return None
        cleaned, self._goes_on = _cut(_LLAMA, line)
        return cleaned


class WebUIQuotes:
    """Cleans what a WebUI writes."""

    def __call__(self, line: str) -> str | None:
        """Return what may be shown of a line; None: nothing."""
        return None if _WEBUI_LOCALS.match(line) else _cut(_WEBUI, line)[0]


def _cut(signs: re.Pattern[str], line: str) -> tuple[str, bool]:
    found = signs.search(line)
    return (line, False) if found is None else (f"{line[: found.end(1)].rstrip()} {LEFT_OUT}", True)
