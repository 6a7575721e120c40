"""What a job counts for where many wait: its priority, its tenant, and what it costs."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from velesio_worker.wire.image_parameters import ImageParameters
from velesio_worker.wire.jobs import Job
from velesio_worker.wire.text_parameters import TextParameters

_BYTES: Final = 4
"""How many bytes of a job make a token of its prompt, about."""

_ENVELOPE: Final = 160
"""So many bytes of a job are not its prompt, about."""

_LONGEST: Final = 32768
"""More tokens than so many nobody is believed to need before he has: of a picture in a chat, say, or ``max_tokens``."""

_ANSWER: Final = 2
"""A token of an answer costs as much as so many of a prompt."""

_OPEN_END: Final = 512
"""As how many tokens an answer counts at first that may be as long as the model likes."""

_PATCH: Final = 64 * 64
"""So many pixels of a step are one unit of cost."""


class Share(NamedTuple):
    """What a job counts for.

    Attributes:
        priority: ``high``, ``normal`` or ``low``.
        tenant: whose it is; empty: nobody's in particular.
        cost: what it is estimated to cost, in tokens of a prompt; of an image from its pixels and steps.
    """

    priority: str
    tenant: str
    cost: int

    @property
    def plain(self) -> bool:
        """Whether it has neither a priority nor a tenant."""
        return (self.priority, self.tenant) == ("normal", "")


def share_of(job: Job, size: int) -> Share:
    """Return what a job of so many bytes counts for, as far as can be told before it has run."""
    return Share(job.priority, job.tenant or "", _estimated(job, size))


def _estimated(job: Job, size: int) -> int:
    asked = job.parameters
    if isinstance(asked, ImageParameters):
        width, height = asked.final_size
        return max(1, width * height * asked.steps * asked.images // _PATCH)
    answer = 0
    if isinstance(asked, TextParameters):
        answer = min(asked.max_tokens, _LONGEST) if asked.max_tokens > 0 else _OPEN_END
    return max(1, min(max(0, size - _ENVELOPE) // _BYTES, _LONGEST) + _ANSWER * answer)


def used(usage: Any) -> int | None:  # noqa: ANN401 (any JSON)
    """Return what a text job did cost by the usage of its result; None if that does not say."""
    match usage:
        case {"prompt_tokens": int(prompt), "completion_tokens": int(answer)}:
            return max(1, prompt + _ANSWER * answer)
        case {"prompt_tokens": int(prompt)}:
            return max(1, prompt)
        case _:
            return None
