"""Dead letters: jobs that were put aside, each with the reason, for an operator to look at, put back or drop."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from redis.asyncio import Redis

from velesio_worker.queue.keys import Keys, count_in_redis, job_key, result_key, slot_name, worker_name
from velesio_worker.queue.scripts import Scripts
from velesio_worker.wire.errors import UnusablePayloadError, VelesioError
from velesio_worker.wire.fields import json_object
from velesio_worker.wire.jobs import RefusedJobError, parse_job
from velesio_worker.wire.payload import job_id_in

REFERENCE_BYTES: Final = 16
SHOWN_DIGITS: Final = 12
"""How much of a reference is shown: enough that no two of 10,000 letters look the same."""

_PAGE: Final = 8
_PAGE_BYTES: Final = 16 * 1024 * 1024
"""How much is read at a time, about: a letter may have 64 MiB."""

_CUT: Final = re.compile(r"\(of (\d+) bytes only the first 64 KiB are kept\)\Z")
_NO_LETTER: Final = "not a letter that a worker wrote"


class NoSuchLetterError(VelesioError):
    """No dead letter, or more than one, has this reference."""


class NotRetriedError(VelesioError):
    """A dead letter's job cannot be put back."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter.

    Attributes:
        raw: the letter, as it lies in Redis.
        reference: 32 hex digits that stand for ``raw``, wherever in the list it is.
        at: when the job was put aside, in Unix seconds; None if it does not say.
        payload: the job, or its beginning; None if the letter is none that a worker wrote.
        size: what the whole job has, in bytes.
    """

    raw: bytes
    reference: str
    reason: str
    at: float | None
    worker: str
    payload: bytes | None
    size: int

    @property
    def shown(self) -> str:
        """The reference, as long as is needed."""
        return self.reference[:SHOWN_DIGITS]

    @property
    def cut(self) -> bool:
        """Whether only the beginning of the job was kept."""
        return self.payload is not None and self.size > len(self.payload)

    def job(self) -> dict[str, Any]:
        """Read the job; empty if it is no JSON object."""
        return json_object(self.payload or b"")


def reference_of(raw: bytes) -> str:
    """Return the reference of a letter."""
    return hashlib.blake2b(raw, digest_size=REFERENCE_BYTES).hexdigest()


def utc(seconds: float | None) -> str:
    """Write a Unix time for people; ``-`` if it is none."""
    try:
        return "-" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%SZ}"
    except (OverflowError, ValueError, OSError):
        return "-"


def read_letter(raw: bytes) -> Letter:
    """Open a letter, whatever it holds: anybody may have pushed it."""
    fields = json_object(raw)
    reason, at, worker = (fields.get(name) for name in ("reason", "at", "worker"))
    payload = _payload(fields)
    reason = reason if payload is not None and isinstance(reason, str) else _NO_LETTER
    return Letter(
        raw=raw,
        reference=reference_of(raw),
        reason=reason,
        at=at if isinstance(at, (int, float)) and not isinstance(at, bool) else None,
        worker=worker if isinstance(worker, str) else "",
        payload=payload,
        size=len(raw) if payload is None else _size(fields, reason, payload),
    )


def _payload(fields: dict[str, Any]) -> bytes | None:
    match fields:
        case {"payload": str(text)}:
            return text.encode()
        case {"payload_base64": str(text)}:
            try:
                return base64.b64decode(text, validate=True)
            except ValueError:
                return None
        case _:
            return None


def _size(fields: dict[str, Any], reason: str, payload: bytes) -> int:
    """How many bytes the whole job has: the letter's ``bytes``, or, where it has none, what the reason says."""
    size = fields.get("bytes")
    if not isinstance(size, int):
        told = _CUT.search(reason)
        size = (count_in_redis(told[1].encode()) if told else None) or 0
    return max(size, len(payload))


class DeadLetters:
    """The dead letters of a queue, newest first.

    A letter is named by its reference, or by the beginning of it, which stays the same when others arrive. Copies of a
    letter, the same to the last byte, are one letter.

    Args:
        redis: a client; patient, since letters are large.
    """

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis: Any = redis
        self._scripts = Scripts(redis)
        self._keys = keys

    async def count(self) -> int:
        """Count the letters."""
        return await self._redis.llen(self._keys.dead)

    async def newest(self, limit: int | None = None) -> AsyncGenerator[Letter, None]:
        """Yield the letters, the newest first: all, or so many."""
        seen: set[str] = set()
        async for raw in self._each():
            letter = read_letter(raw)
            if letter.reference in seen:  # a copy, or moved on when another arrived
                continue
            seen.add(letter.reference)
            yield letter
            if len(seen) == limit:
                return

    async def _each(self) -> AsyncGenerator[bytes, None]:
        start, count = 0, 1
        while page := await self._redis.lrange(self._keys.dead, start, start + count - 1):
            for raw in page:
                yield raw
            start += len(page)
            count = _page_after(page)

    async def find(self, reference: str) -> Letter:
        """Find a letter by its reference, or by the beginning of it.

        Raises:
            NoSuchLetterError: there is none, or more than one.
        """
        found: bytes | None = None
        references: set[str] = set()
        async for raw in self._each():
            if reference_of(raw).startswith(reference):
                found = raw
                references.add(reference_of(raw))
        if len(references) > 1:
            some = ", ".join(known[:SHOWN_DIGITS] for known in sorted(references)[:3])
            raise NoSuchLetterError(
                f"{len(references)} dead letters have a reference that begins with {reference}, such as {some}: "
                "give more of it, see velesio-worker dead list"
            )
        if found is None:
            raise NoSuchLetterError(f"no dead letter has the reference {reference}: see velesio-worker dead list")
        return read_letter(found)

    async def retry(self, letter: Letter) -> None:
        """Put the letter's job back to the end of the incoming list, in place of the letter.

        An error result under the job's id is deleted first; with it there the job would count as finished. The next
        claim then begins a new life of the job.

        Raises:
            NotRetriedError: the job cannot be put back, or need not; the letter stays.
            NoSuchLetterError: the letter is gone.
        """
        if not await self._put_back(letter):
            raise NoSuchLetterError(f"the dead letter {letter.shown} is gone: see velesio-worker dead list")

    async def retry_all(self) -> AsyncGenerator[tuple[Letter, NotRetriedError | None], None]:
        """Put back the jobs of all letters that are there now, the oldest first; yields each, and why it was refused.

        It counts from the old end, so letters that arrive meanwhile, perhaps of the very same jobs, are left alone.
        """
        left, refused, count = await self.count(), 0, 1
        retried: set[str] = set()
        while left > 0:
            page: list[bytes] = await self._redis.lrange(self._keys.dead, -refused - count, -refused - 1)
            if not page:
                return
            count = _page_after(page)
            for raw in page[-left:][::-1]:
                letter = read_letter(raw)
                if letter.reference in retried:  # a copy, which went with it
                    continue
                try:
                    copies = await self._put_back(letter)
                except NotRetriedError as error:
                    refused += 1
                    left -= 1
                    yield letter, error
                else:
                    retried.add(letter.reference)
                    left -= max(copies, 1)
                    if copies:
                        yield letter, None

    async def drop(self, letter: Letter) -> bool:
        """Remove the letter; False if it was gone."""
        return bool(await self._redis.lrem(self._keys.dead, 0, letter.raw))

    async def drop_all(self) -> int:
        """Remove all letters that are there now; returns how many."""
        count = await self.count()
        await self._redis.ltrim(self._keys.dead, 0, -count - 1)
        return count

    async def _put_back(self, letter: Letter) -> int:
        job_id, payload = _retriable(letter)
        await self._free(job_id, letter)
        return await self._scripts.retry(self._keys, letter.raw, payload)

    async def _free(self, job_id: str, letter: Letter) -> None:
        """See to it that the job's id is not in use: nobody runs it, and no result stands under it."""
        while True:
            owner = await self._runner(job_id)
            if owner:
                raise NotRetriedError(f"job {job_id} runs now, on worker {owner}: wait until it has ended")
            result: bytes | None = await self._redis.get(result_key(job_id))
            if result is None:
                return
            if "error" not in json_object(result):
                raise NotRetriedError(
                    f"job {job_id} has a result by now, and no error: drop it, velesio-worker dead drop {letter.shown}"
                )
            if await self._scripts.forget(job_id, result):
                return

    async def _runner(self, job_id: str) -> str:
        """Return the living worker in whose slot the job lies; empty if there is none."""
        fields = await self._redis.hmget(job_key(job_id), "owner", "slot")
        owner, slot = worker_name(fields[0] or b""), slot_name(fields[1] or b"")
        if not owner or not slot or not await self._scripts.alive(self._keys, owner):
            return ""
        payload: bytes | None = await self._redis.lindex(self._keys.slot(owner, slot).key, -1)
        return owner if payload and job_id_in(payload) == job_id else ""


def _page_after(page: list[bytes]) -> int:
    """How many letters to read next, if they are about as large as these."""
    return max(1, min(_PAGE, _PAGE_BYTES // (max(map(len, page)) + 1)))


def _retriable(letter: Letter) -> tuple[str, bytes]:
    """Return the job's id and the job.

    Raises:
        NotRetriedError: a worker could do nothing with it.
    """
    show = f"velesio-worker dead show {letter.shown}"
    if letter.payload is None:
        raise NotRetriedError(f"it is {_NO_LETTER}: {show}")
    if letter.cut:
        raise NotRetriedError(f"only {len(letter.payload)} of the job's {letter.size} bytes were kept: submit it again")
    try:
        job = parse_job(letter.payload, max_bytes=max(len(letter.payload), 1))
    except UnusablePayloadError as error:
        raise NotRetriedError(f"it would come straight back ({error}); to correct it: {show} --payload") from None
    except RefusedJobError as refusal:
        return refusal.job_id, letter.payload  # a worker answers it, perhaps one that knows more than this release
    if job.expires_at is not None and job.expires_at <= time.time():
        raise NotRetriedError(f"its expires_at was {utc(job.expires_at)}; to correct it: {show} --payload")
    return job.id, letter.payload
