from __future__ import annotations

import sys

# Containers run Linux; so do the scripts in them.
collect_ignore = (
    []
    if sys.platform == "linux"
    else [f"test_{name}.py" for name in ("build_llama_server", "entry", "need_llama_server")]
)
