"""What a WebUI writes of the jobs that it runs, which is left out of the log.

AUTOMATIC1111 1.10, ``modules/api/api.py`` and ``modules/call_queue.py``.
"""

from __future__ import annotations

import re
from typing import Final

from velesio_worker.engines.supervision.redaction import redact

_WEBUI: Final = re.compile(r"(API error:[^{]*|Arguments:)(?= *\S).*", re.DOTALL)
_WEBUI_LOCALS: Final = re.compile(r"\s*[│|] ?[│|╭╰]|\s*[╭╰].*\blocals\b")
"""The variables of a function in a traceback by ``rich``: the request is among them."""


class WebUIRedaction:
    """Cleans what a WebUI writes."""

    def __call__(self, line: str) -> str | None:
        """Return what may be shown of a line; None: nothing."""
        return None if _WEBUI_LOCALS.match(line) else redact(_WEBUI, line)[0]
