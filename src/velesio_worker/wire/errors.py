"""One tree of exceptions; each class below :class:`JobError` is one error code on the wire.

An exception's docstring is its message where none is given.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, Final

_REPEATS: Final = ("{", "[", "but got:")
"""After which a message may repeat what a job holds."""


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
    """

    def __init__(self, message: str | None = None, *, final: bool = False, out_of_memory: bool = False) -> None:
        super().__init__(message)
        self.final = final
        self.out_of_memory = out_of_memory


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


class JobError(VelesioError):
    """A job ended without a result.

    Args:
        message: what happened, for whoever submitted the job.
        said: the part of the message that is the engine's own words, which may repeat the job's texts.

    Attributes:
        code: the error's name on the wire (wire protocol, section 5).
        retryable: whether the same job, submitted again, may succeed.
    """

    code: ClassVar[str] = ""
    retryable: ClassVar[bool] = False

    def __init__(self, message: str | None = None, *, said: str = "") -> None:
        super().__init__(message)
        self._said = said

    @property
    def public(self) -> str:
        """The message as the log may have it: one line, and nothing of what an engine repeats of the job."""
        text = str(self)
        if self._said:
            text = text.replace(self._said, "… (the engine's words stand in the result)")
        line = text.splitlines()[0]
        cut = min((at for sign in _REPEATS if (at := line.find(sign)) >= 0), default=len(line))
        return line if cut == len(line) else f"{line[:cut].rstrip()} …"

    def result(self) -> dict[str, Any]:
        """Return the job's result (wire protocol, section 5)."""
        return {"error": str(self), "code": self.code}

    def entry(self, *, partial: bool) -> dict[str, Any]:
        """Return the ``error`` entry's data (wire protocol, section 4); ``partial``: tokens were published before."""
        return {**self.result(), "retryable": self.retryable, "partial": partial}


class BadJobError(JobError):
    """The job is not as the protocol wants it."""

    code = "bad_job"


class UnknownTypeError(JobError):
    """Unknown job type."""

    code = "unknown_type"


class TooLargeError(JobError):
    """The job is larger than MAX_JOB_BYTES."""

    code = "too_large"


class ExpiredError(JobError):
    """The job waited past its expires_at."""

    code = "expired"


class JobTimeoutError(JobError):
    """The job ran out of time."""

    code = "timeout"
    retryable = True


class NoWorkerError(JobError):
    """The worker that the job names is gone."""

    code = "no_worker"
    retryable = True


class WorkerLostError(JobError):
    """The job's worker was lost as often as max_attempts allows."""

    code = "worker_lost"
    retryable = True


class EngineUnavailableError(JobError):
    """The engine does not answer."""

    code = "engine_unavailable"
    retryable = True


class EngineFailedError(EngineUnavailableError):
    """The engine cannot be started; another worker's may."""


class ModelUnavailableError(EngineUnavailableError):
    """The model that the job asks for cannot be loaded."""


class EngineCrashedError(JobError):
    """The engine went away while the job ran."""

    code = "engine_crashed"
    retryable = True


class EngineStalledError(JobError):
    """The engine sent nothing for too long."""

    code = "engine_stalled"
    retryable = True


class EngineRefusedError(JobError):
    """The engine answered with an error."""

    code = "engine_error"


class ContextExceededError(JobError):
    """The prompt does not fit into the model's context.

    Attributes:
        prompt_tokens: how many tokens the prompt has; None where the engine did not tell.
    """

    code = "context_exceeded"

    def __init__(self, message: str | None = None, *, prompt_tokens: int | None = None) -> None:
        super().__init__(message)
        self.prompt_tokens = prompt_tokens


class OutOfMemoryError(JobError):
    """The engine ran out of memory."""

    code = "out_of_memory"
    retryable = True


class NoCapacityError(JobError):
    """No worker can take the job."""

    code = "no_capacity"
    retryable = True


class InternalError(JobError):
    """The worker made a mistake; its log says which."""

    code = "internal"
    retryable = True


_BY_CODE: dict[str, type[JobError]] = {kind.code: kind for kind in JobError.__subclasses__()}


def job_error(code: str, message: str) -> JobError:
    """Return the exception that stands for an error read off the wire.

    Args:
        code: one of the wire protocol's codes; an unknown one gives a plain :class:`JobError`.
        message: the error's text, for people.
    """
    return _BY_CODE.get(code, JobError)(message)
