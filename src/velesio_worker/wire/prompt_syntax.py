"""How long a WebUI's prompt may be, and what it may hold of the signs that its parser reads.

It takes minutes, and gigabytes, for many.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from velesio_worker.wire.limits import MOST_IMAGE_PROMPT, MOST_NETWORKS

MOST_SIGNS: Final = 400
"""How many signs a prompt may have. Measured on AUTOMATIC1111's grammar: ten seconds at most; four times as many take
about fifty times as long."""

DEEPEST: Final = 32
"""How deep brackets may stand in each other."""

MOST_PARTS: Final = 64
"""How many parts ``AND`` may join: each is denoised by itself, at each step."""

_SIGN: Final = re.compile(r"\\.|([()\[\]:|])", re.DOTALL)
"""A sign; one behind a backslash is plain text."""

_NETWORK: Final = re.compile(r"<(?:lora|lyco|hypernet):", re.IGNORECASE)

_AND: Final = re.compile(r"\bAND\b")


def check_prompt(prompt: str) -> str:
    """Return the prompt. Raises ValueError, with the limit, if a WebUI would take too long for it."""
    signs = [sign for sign in _SIGN.findall(prompt) if sign]
    if len(signs) > MOST_SIGNS:
        raise ValueError(
            f"has {len(signs)} of the signs ( ) [ ] : |, and {MOST_SIGNS} are allowed; one that is meant as text needs "
            "a backslash before it"
        )
    depth = 0
    for sign in signs:
        depth = depth + 1 if sign in "([" else max(depth - 1, 0) if sign in ")]" else depth
        if depth > DEEPEST:
            raise ValueError(f"has brackets that stand in more than {DEEPEST} others, or are not closed")
    if len(_AND.findall(prompt)) >= MOST_PARTS:
        raise ValueError(f"has more than {MOST_PARTS} parts with AND between them")
    if len(_NETWORK.findall(prompt)) > MOST_NETWORKS:
        raise ValueError(f"has more than {MOST_NETWORKS} LoRAs and hypernetworks")
    return prompt


Prompt = Annotated[str, Field(max_length=MOST_IMAGE_PROMPT), AfterValidator(check_prompt)]
"""A prompt that a WebUI can read in seconds."""
