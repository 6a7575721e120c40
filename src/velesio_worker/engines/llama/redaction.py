"""What a llama-server writes of the jobs that it runs, which is left out of the log.

Found out by giving each kind of request, good and bad, a word of its own, and looking for it in what llama.cpp's
server wrote, with and without ``--verbose``.
"""

from __future__ import annotations

import re
from typing import Final

from velesio_worker.engines.supervision.redaction import redact

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


class LlamaRedaction:
    """Cleans what a llama-server writes: some of it goes on over several lines."""

    def __init__(self) -> None:
        self._goes_on = False

    def __call__(self, line: str) -> str | None:
        """Return what may be shown of a line; None: nothing."""
        if self._goes_on and not _LLAMA_BEGINS.match(line):
            return None
        cleaned, self._goes_on = redact(_LLAMA, line)
        return cleaned
