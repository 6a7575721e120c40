"""What a job counts for where many wait: its priority, its tenant, and what it costs."""

from __future__ import annotations

import hashlib
from typing import Any, Final, NamedTuple

import orjson

from velesio_worker.wire.chat_parameters import ChatCompletionParameters
from velesio_worker.wire.image_parameters import ImageParameters
from velesio_worker.wire.jobs import Job
from velesio_worker.wire.parameters import ModelParameters
from velesio_worker.wire.text_parameters import TextParameters

_BYTES: Final = 4
"""How many bytes of a prompt make a token, about."""

_LONGEST: Final = 32768
"""More tokens than so many nobody is believed to need before he has: of a prompt, or of ``max_tokens``."""

_ANSWER: Final = 2
"""A token of an answer costs as much as so many of a prompt."""

_OPEN_END: Final = 512
"""As how many tokens an answer counts at first that may be as long as the model likes."""

_PATCH: Final = 64 * 64
"""So many pixels of a step are one unit of cost."""


_SESSIONS: Final = "\u00a0"
"""The tenant of jobs with a session and without a tenant; nobody can be called that, since it is not printable."""

_LEADING: Final = 256 * 1024
"""In jobs of more bytes it is not looked how a chat begins."""


class Share(NamedTuple):
    """What a job counts for.

    Attributes:
        priority: ``high``, ``normal`` or ``low``.
        tenant: whose it is; empty: nobody's in particular.
        cost: what it is estimated to cost, in tokens of a prompt; of an image from its pixels and steps.
        session: what stands for the conversation that it belongs to, in hexadecimal digits; empty if it is of none.
    """

    priority: str
    tenant: str
    cost: int
    session: str = ""

    @property
    def plain(self) -> bool:
        """Whether it has neither a priority nor a tenant."""
        return (self.priority, self.tenant) == ("normal", "")


def share_of(job: Job, size: int) -> Share:
    """Return what a job of so many bytes counts for, as far as can be told before it has run."""
    named = job.session if isinstance(job.parameters, TextParameters) else None
    tenant = job.tenant or ("" if named is None else _SESSIONS)
    return Share(job.priority, tenant, _estimated(job), _session(job, named, size))


def _session(job: Job, named: str | None, size: int) -> str:
    """Return what stands for a job's conversation: its name, or how it begins; empty if it is of none.

    Engines keep what they have read by model, and a tenant's sessions are his own.
    """
    told: Any = named
    if told is None and isinstance(job.parameters, ChatCompletionParameters) and size <= _LEADING:
        told = _leading(job.parameters.messages)
    return "" if told is None else hashlib.sha256(orjson.dumps([job.tenant, job.model, told])).hexdigest()[:32]


def _leading(messages: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """Return what a chat begins with, up to what its user said first; None before there was an answer."""
    roles = [message["role"] for message in messages]
    if "user" not in roles or "assistant" not in roles:
        return None
    return messages[: roles.index("user") + 1]


def _estimated(job: Job) -> int:
    asked = job.parameters
    if isinstance(asked, ImageParameters):
        width, height = asked.final_size
        return max(1, width * height * asked.steps * asked.images // _PATCH)
    answer = 0
    if isinstance(asked, TextParameters):
        answer = min(asked.max_tokens, _LONGEST) if asked.max_tokens > 0 else _OPEN_END
    return max(1, prompt_tokens(job) + _ANSWER * answer)


def prompt_tokens(job: Job) -> int:
    """Return about how many tokens a job's prompt has; of a long one no more is looked at than counts."""
    size, most = 0, _LONGEST * _BYTES
    for part in job.parameters.prompt_parts if isinstance(job.parameters, ModelParameters) else ():
        size += part * _BYTES if isinstance(part, int) else len(part[:most].encode(errors="replace"))
        if size >= most:
            return _LONGEST
    return size // _BYTES


def used(usage: Any) -> int | None:  # noqa: ANN401 (any JSON)
    """Return what a text job did cost by the usage of its result; None if that does not say."""
    match usage:
        case {"prompt_tokens": int(prompt), "completion_tokens": int(answer)}:
            return max(1, prompt + _ANSWER * answer)
        case {"prompt_tokens": int(prompt)}:
            return max(1, prompt)
        case _:
            return None
