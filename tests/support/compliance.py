"""The compliance tests of llm-comply, run against a URL with the specifications that it brings along."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from typing import Any


def cases(module: str, name: str) -> list[Any]:
    """Return the cases of a suite, such as ``openai_chat`` and ``OPENAI_CHAT_TESTS``."""
    return getattr(importlib.import_module(f"llm_comply.tests.{module}"), name)


@cache
def _specification(name: str) -> Any:
    package: Any = importlib.import_module("llm_comply")
    return package.SpecLoader(str(Path(package.__file__).parent / "specs" / name))


def comply(case: Any, base_url: str, *, model: str, specification: str) -> Any:
    """Run a case; returns its result, with ``status``, ``errors`` and ``warnings``."""
    package: Any = importlib.import_module("llm_comply")
    config = importlib.import_module("llm_comply.config").ComplianceConfig(base_url, "x", model=model, timeout=100)
    try:
        return package.TestRunner(config, [case], _specification(specification)).run_one(case)
    finally:
        importlib.import_module("llm_comply.http").close_client()
