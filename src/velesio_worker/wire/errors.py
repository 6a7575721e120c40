"""One tree of exceptions; each class below :class:`JobError` is one error code on the wire.

An exception's docstring is its message where none is given.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any, ClassVar, Final

from velesio_worker.wire.limits import LONGEST_ERROR
from velesio_worker.wire.printable import printable, short_numbers

_REPEATS: Final = ("{", "[", "but got:")
"""After which a message may repeat what a job holds."""


_BEFORE_QUOTES: Final = re.compile(r"\s*(Its last lines:|It said:)$")
_FOLDERS: Final = re.compile(r"(?<![\w./:~-])[/~][^\s'\",;:()]*/")


class VelesioError(Exception):
    """Something went wrong."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (inspect.getdoc(type(self)) or type(self).__name__).splitlines()[0])


class SettingsError(VelesioError):
    """A setting has a wrong value."""


class RedisUnusableError(VelesioError):
    """Redis answers, but cannot serve this worker."""


class EngineStartError(VelesioError):
    """An engine did not start.

    Attributes:
        final: whether trying again as things stand is of no use.
        out_of_memory: whether it did for want of memory.
        public: the same for those who submit jobs, without the paths of this host.
    """

    def __init__(
        self, message: str | None = None, *, final: bool = False, out_of_memory: bool = False, public: str = ""
    ) -> None:
        super().__init__(message)
        self.final = final
        self.out_of_memory = out_of_memory
        self._public = public

    @property
    def public(self) -> str:
        """What those may know who submit jobs: one line, none that the engine wrote, and no folder of the host."""
        line = self._public or _BEFORE_QUOTES.sub("", str(self).partition("\n")[0])
        return _FOLDERS.sub("…/", line)


class UnusablePayloadError(VelesioError):
    """The payload names no job that could be answered; it belongs to the dead letters."""


class FencedError(VelesioError):
    """Another attempt owns the job now; whatever this one still had to say is void."""


class AbandonedError(VelesioError):
    """The job's stream was deleted while it ran: nobody wants it any more."""


class StreamLostError(VelesioError):
    """Redis lost more of the job's stream than this attempt can write again: another attempt goes on from there."""


class StoppedError(VelesioError):
    """The worker is ending and publishes nothing any more; its jobs go back to their lists."""


_BY_CODE: Final[dict[str, type[JobError]]] = {}


class JobError(VelesioError):
    """A job ended without a result.

    Args:
        message: what happened, for whoever submitted the job; control characters in it are written out.
        said: the part of the message that may repeat the job's texts, such as the engine's own words; or several.

    Attributes:
        code: the error's name on the wire (wire protocol, section 5).
        retryable: whether the same job, submitted again, may succeed.
        public: the message as the log may have it: one line, and nothing of what is repeated of the job.
    """

    code: ClassVar[str] = ""
    retryable: ClassVar[bool] = False

    def __init_subclass__(cls, *, code: str | None = None, retryable: bool = False) -> None:
        if code is not None:
            cls.code, cls.retryable = code, retryable
            _BY_CODE[code] = cls

    def __init__(self, message: str | None = None, *, said: str | Sequence[str] = "") -> None:
        super().__init__(message)
        raw = str(self)
        self.public = _cut(_public(raw, [said] if isinstance(said, str) else said))
        self.args = (_cut(short_numbers(printable(raw))),)  # what somebody else wrote may stand in it

    def result(self) -> dict[str, Any]:
        """Return the job's result (wire protocol, section 5)."""
        return {"error": str(self), "code": self.code}

    def entry(self, *, partial: bool) -> dict[str, Any]:
        """Return the ``error`` entry's data (wire protocol, section 4); ``partial``: tokens were published before."""
        return {**self.result(), "retryable": self.retryable, "partial": partial}


class BadJobError(JobError, code="bad_job"):
    """The job is not as the protocol wants it."""


class UnknownTypeError(JobError, code="unknown_type"):
    """Unknown job type."""


class TooLargeError(JobError, code="too_large"):
    """The job is larger than MAX_JOB_BYTES."""


class ResultTooLargeError(TooLargeError):
    """The result is larger than Redis takes, or than MAX_RESULT_BYTES."""


class ExpiredError(JobError, code="expired"):
    """The job waited past its expires_at."""


class JobTimeoutError(JobError, code="timeout", retryable=True):
    """The job ran out of time."""


class NoWorkerError(JobError, code="no_worker", retryable=True):
    """The worker that the job names is gone."""


class WorkerLostError(JobError, code="worker_lost", retryable=True):
    """The job's worker was lost as often as max_attempts allows."""


class EngineUnavailableError(JobError, code="engine_unavailable", retryable=True):
    """The engine does not answer."""


class EngineFailedError(EngineUnavailableError):
    """The engine cannot be started; another worker's may."""


class ModelUnavailableError(EngineUnavailableError):
    """The model that the job asks for cannot be loaded."""


class EngineCrashedError(JobError, code="engine_crashed", retryable=True):
    """The engine went away while the job ran."""


class EngineStalledError(JobError, code="engine_stalled", retryable=True):
    """The engine sent nothing for too long."""


class EngineRefusedError(JobError, code="engine_error"):
    """The engine answered with an error."""


class ContextExceededError(JobError, code="context_exceeded"):
    """The prompt does not fit into the model's context.

    Attributes:
        prompt_tokens: how many tokens the prompt has; None where the engine did not tell.
    """

    def __init__(self, message: str | None = None, *, prompt_tokens: int | None = None) -> None:
        super().__init__(message)
        self.prompt_tokens = prompt_tokens


class OutOfMemoryError(JobError, code="out_of_memory", retryable=True):
    """The engine ran out of memory."""


class NoCapacityError(JobError, code="no_capacity", retryable=True):
    """No worker can take the job."""


class InternalError(JobError, code="internal", retryable=True):
    """The worker made a mistake; its log says which."""


def _public(text: str, quoted: Sequence[str]) -> str:
    for said in quoted:
        text = text.replace(said, "… (the words stand in the result)") if said else text
    line = short_numbers(printable((text.splitlines() or [""])[0]))
    cut = min((at for sign in _REPEATS if (at := line.find(sign)) >= 0), default=len(line))
    return line if cut == len(line) else f"{line[:cut].rstrip()} …"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_ERROR else f"{text[: LONGEST_ERROR - 1]}…"


def job_error(code: str, message: str) -> JobError:
    """Return the exception that stands for an error read off the wire, a plain :class:`JobError` for a new code."""
    return _BY_CODE.get(code, JobError)(message)
