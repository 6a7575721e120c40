"""How many tokens an answer took, as OpenAI counts them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class UsageCount:
    """Adds up the usage of a request's jobs: prompts once each, however many choices are made of one.

    Args:
        choices: how many jobs in a row have the same prompt.
    """

    def __init__(self, choices: int = 1) -> None:
        self._choices = choices
        self._prompts: dict[int, int] = {}
        self._cached: dict[int, int] = {}
        self._completion = 0

    def add(self, index: int, ended: Mapping[str, Any]) -> None:
        """Add what a job's result, or its last entry, says; a count that the engine did not tell is left out."""
        usage: Mapping[str, Any] = ended.get("usage") or {}
        timings: Mapping[str, Any] = ended.get("timings") or {}
        prompt = index // self._choices
        self._prompts[prompt] = max(self._prompts.get(prompt, 0), _count(usage, "prompt_tokens"))
        self._cached[prompt] = max(self._cached.get(prompt, 0), _count(timings, "cache_n"))
        self._completion += _count(usage, "completion_tokens")

    def told(self) -> dict[str, Any]:
        """Return the usage. Clients want numbers: of what is not known there is 0."""
        prompt = sum(self._prompts.values())
        cached = min(sum(self._cached.values()), prompt)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self._completion,
            "total_tokens": prompt + self._completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        }


def _count(fields: Mapping[str, Any], name: str) -> int:
    value = fields.get(name)
    return value if isinstance(value, int) else 0
