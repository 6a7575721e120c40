"""The prompt cache: answers that the same job would get again (``prompt_cache:<hash>``, wire protocol, section 2)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

import orjson
from pydantic import AfterValidator, TypeAdapter, ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from velesio_worker.core.logs import get_logger
from velesio_worker.core.settings import CacheMode
from velesio_worker.engines.base import Sink
from velesio_worker.queue.connection import REPLY_SECONDS
from velesio_worker.queue.outage import within
from velesio_worker.wire.events import Done, has_output
from velesio_worker.wire.jobs import Job
from velesio_worker.wire.parameters import EmbeddingParameters, RerankParameters
from velesio_worker.wire.text_parameters import TextParameters
from velesio_worker.wire.transcript import Transcript

CACHE_SECONDS: Final = 7200
LARGEST: Final = 1024 * 1024
"""Answers of more bytes are not kept."""

MOST_PIECES: Final = 8192
"""Nor are those in more pieces."""

REPLAY_PIECES: Final = 64
"""So many pieces of an answer are given again at a time."""

_VERSION: Final = 2
_WITHOUT_EFFECT: Final = frozenset({"stream", "model", "id_slot", "cache_prompt"})
"""Parameters that change nothing about an answer; the model counts by what it is, not by what the job calls it."""

log = get_logger(__name__)


def _entry(data: dict[str, Any]) -> dict[str, Any]:
    match data:
        case {"choices": [dict(), *_]}:
            Transcript().add(data["choices"][0])
            return data
        case _:
            raise ValueError("no data of a token entry")


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer in the cache, as it stands there.

    Attributes:
        model: the name of the model that made it.
        tokens: the data of the ``token`` entries that it came in.
        done: its end.
    """

    model: str
    tokens: list[Annotated[dict[str, Any], AfterValidator(_entry)]]
    done: Done


_KEPT: Final = TypeAdapter(Kept)


class Replay:
    """An answer given again, in the pieces that it came in at first: a ``Generation`` without an engine."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._transcript = Transcript()

    async def run(self, sink: Sink) -> Done:
        """Tell the answer's pieces, and return its end."""
        for count, data in enumerate(self._kept.tokens, start=1):
            choice = data["choices"][0]
            self._transcript.add(choice)
            sink.token(choice, has_output=has_output(choice))
            if count % REPLAY_PIECES == 0 or count == len(self._kept.tokens):
                sink.heard()
                await sink.room()
        return self._kept.done

    def cut_short(self, finish_reason: str = "cancelled") -> Done:
        """Return the end of a job that stops where it is, with what it was given so far."""
        whole = self._kept.done.result
        if "text" not in whole:
            return Done({"finish_reason": finish_reason}, finish_reason)
        return Done(self._transcript.result(finish_reason, chat="message" in whole), finish_reason)


class PromptCache:
    """Finds and keeps answers, as the job or else the mode says. Trouble with Redis is a miss, never an error."""

    def __init__(self, redis: Redis, mode: CacheMode) -> None:
        self._commands: Any = redis
        self._mode = mode

    def wants(self, job: Job) -> bool:
        """Whether a job's answer is looked up, and kept."""
        parameters = job.parameters
        match parameters:
            case TextParameters():
                deterministic = parameters.deterministic
            case EmbeddingParameters() | RerankParameters():
                deterministic = True
            case _:
                return False
        if job.cache is not None:
            return job.cache
        return self._mode is CacheMode.ALL or (self._mode is CacheMode.DETERMINISTIC and deterministic)

    async def find(self, key: str) -> Kept | None:
        """Return what is kept under a key; None if there is nothing."""
        try:
            stored: bytes | None = await within(REPLY_SECONDS, self._commands.get(key))
            if stored is None:
                return None
            kept = _KEPT.validate_json(stored)
        except (RedisError, ValidationError) as error:
            reason: object = error
            if isinstance(error, ValidationError):  # whose text quotes the answer
                reason = error.errors(include_url=False, include_context=False, include_input=False)
            log.debug(f"the prompt cache was not read: {reason}", action="cache_unread")
            return None
        return replace(kept, done=replace(kept.done, result=kept.done.result | {"cached": True}))

    async def keep(self, key: str, kept: Kept) -> None:
        """Keep an answer for ``CACHE_SECONDS``."""
        value = orjson.dumps(kept)
        if len(value) > LARGEST:
            return
        try:
            await within(REPLY_SECONDS, self._commands.set(key, value, ex=CACHE_SECONDS))
        except RedisError as error:
            log.debug(f"the prompt cache was not written: {error}", action="cache_unwritten")


def cache_key(job: Job, identity: str) -> str:
    """Return where a job's answer is kept.

    Args:
        job: the job.
        identity: what tells its model from others, and from the same one started in another way.

    Returns:
        ``prompt_cache:`` and 64 hexadecimal digits, the SHA-256 of model, type, tenant and all parameters that matter.
    """
    tenant = [] if job.tenant is None else [job.tenant]
    digest = hashlib.sha256(orjson.dumps([_VERSION, identity, job.type.value, *tenant]))
    parameters = job.parameters.model_dump(exclude=set(_WITHOUT_EFFECT))
    digest.update(orjson.dumps(parameters))  # not nested deeper than they were pushed
    return f"prompt_cache:{digest.hexdigest()}"
