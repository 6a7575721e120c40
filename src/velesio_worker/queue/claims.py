"""Claims: which attempt of which job is whose."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, Final

from redis.exceptions import ResponseError

from velesio_worker.queue.clients import is_cluster
from velesio_worker.queue.keys import (
    Slot,
    count_in_redis,
    job_key,
    result_key,
    slot_name,
    stream_key,
    worker_name,
)
from velesio_worker.queue.link import Link
from velesio_worker.queue.remedies import FOREIGN, kind_of
from velesio_worker.queue.scripts import REFUSED_SECONDS, ClaimReply, ClaimStatus, Entries, share_in
from velesio_worker.queue.slots import Slots
from velesio_worker.wire.events import START
from velesio_worker.wire.jobs import Job, JobType, Kind
from velesio_worker.wire.payload import job_id_in
from velesio_worker.wire.share import Share

PART_BYTES: Final = 1024 * 1024
"""A larger result is sent in parts of so many bytes."""


@dataclass(frozen=True, slots=True)
class Held:
    """A job's next attempt, owned by one slot of this worker.

    Attributes:
        payload: the job, as it was taken.
        attempt: which attempt, counted from 1.
        type: the job's type, for what is counted; None if it could not be read.
        refused: whether it is not to be run, so that its hash needs not be kept for long.
    """

    job_id: str
    slot: Slot
    payload: bytes
    attempt: int
    type: JobType | None = None
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Beginning:
    """The ``start`` entry of a first attempt that is in the stream together with its claim.

    Attributes:
        model: the model that it names.
        data: its data, JSON.
        life: how long the stream is kept at first, in seconds.
        made_at: when it was made, in monotonic seconds.
    """

    model: str | None
    data: bytes
    life: int
    made_at: float


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that this worker is to run.

    Attributes:
        held: the attempt that is this worker's.
        first: whether it is the first attempt.
        last: whether no further one is allowed, should this one be lost.
        waited: how long the job waited for it, in seconds; None if that is not known, or it is not the first.
        suspect: whether an engine was lost while it read the job's request before.
        begun: what the attempt's stream has begun with already, if it has.
    """

    job: Job
    held: Held
    first: bool
    last: bool
    waited: float | None = None
    suspect: bool = False
    begun: Beginning | None = None


class Standing(StrEnum):
    """Whose a job is that Redis says is not this attempt's any more."""

    ANOTHERS = "anothers"
    OVER = "over"
    NOBODYS = "nobodys"


class Claims:
    """Claims attempts, stores their results, gives them up. All of it survives lost replies.

    Args:
        result_ttl: how long results are kept, in seconds.
        stream_ttl: how long streams are kept, in seconds.

    Attributes:
        at_once: whether one server has all keys, so that one step can write to several of them.
    """

    def __init__(self, link: Link, slots: Slots, *, result_ttl: int, stream_ttl: int) -> None:
        self._link = link
        self._slots = slots
        self.at_once = not is_cluster(link.redis)
        self._result_ttl = result_ttl
        self._stream_ttl = stream_ttl
        self._refused_life = max(result_ttl, stream_ttl) + REFUSED_SECONDS

    async def claim(
        self,
        job_id: str,
        slot: Slot,
        max_attempts: int,
        *,
        refused: bool = False,
        beginning: Beginning | None = None,
        noting: tuple[Kind, Share] | None = None,
    ) -> ClaimReply:
        """Claim the job's next attempt for ``slot``; of one that is ``refused`` not more is kept than its answer.

        Where :attr:`at_once` allows that, two things are done in the same step: with a ``beginning`` a first attempt
        begins, and of what :meth:`velesio_worker.queue.slots.Slots.got` says of the job note is taken (``noting``).

        An owner that is gone, or no longer holds the job, is replaced; ``held`` therefore means that the job really
        lies in another slot of a living worker.
        """
        nonce = secrets.token_hex(8)
        take_over = ""
        life = self._refused_life if refused else None
        start = Entries(0, beginning.life, (START, beginning.data)) if beginning is not None and self.at_once else None
        further: dict[str, Any] = {"life": life, "start": start}
        if noting is not None and self.at_once:
            further["share"] = share_in(self._link.keys, *noting)
        elif noting is not None:
            kind, share = noting
            await self._link.done(partial(self._link.scripts.got, self._link.keys, kind, slot, share))
        while True:
            claim = partial(self._link.scripts.claim, job_id, slot, nonce, max_attempts, take_over, **further)
            reply = await self._link.done(claim)
            if reply.status is not ClaimStatus.HELD:
                return reply
            if await self._slots.holder_has(reply.owner, reply.slot, job_id):
                return reply
            take_over = reply.nonce

    async def finish(self, held: Held, result: bytes) -> bool:
        """Store the result; False if another attempt owns the job.

        A large one goes in parts, each of which has a reply's time: as one it might never get through a slow line, and
        nothing else would be done meanwhile.
        """
        sent = len(result) if len(result) > PART_BYTES else 0
        while True:
            if sent and not await self._send_parts(held, result):
                continue
            finish = partial(
                self._link.scripts.finish,
                *(held.job_id, held.slot.worker, held.attempt, b"" if sent else result, self._result_ttl),
                sent=sent,
                life=self._refused_life if held.refused else None,
            )
            stored = await self._link.done(finish)
            if stored is not None:
                return stored

    async def close(self, held: Held, result: bytes, first: int, parts: Sequence[str | bytes]) -> bool:
        """End the job in one step, its slot included; False if nothing was done.

        Either all of it is in Redis, then and after any failover, or none of it is. Where it cannot be done, be it
        that another attempt owns the job, the parts of it have to be done one by one, and each says what is wrong.

        Args:
            held: the attempt.
            result: JSON.
            first: the sequence of the first of its entries that are not in the stream yet.
            parts: their events and data in turn, those of the last entry at the end.
        """
        if len(result) + sum(map(len, parts)) > PART_BYTES:
            return False
        close = partial(
            self._link.scripts.close,
            *(held.job_id, held.slot, held.attempt, result, self._result_ttl),
            Entries(first, self._stream_ttl, parts),
            self._slots.over(held.slot),
            life=self._refused_life if held.refused else None,
        )
        try:
            closed = await self._link.done(close)
        except ResponseError:
            return False  # a key of somebody else's, for one
        if closed is False:
            await self._slots.ack_one(held.slot, held.payload)
        if closed is not None:
            self._slots.emptied(held.slot)
        return closed is not None

    async def _send_parts(self, held: Held, result: bytes) -> bool:
        """Send a result in parts; False if a failover lost some of them."""
        whole = memoryview(result)
        for at in range(0, len(result), PART_BYTES):
            part = bytes(whole[at : at + PART_BYTES])
            send = partial(self._link.scripts.part, held.job_id, held.attempt, at, part)
            if not await self._link.done(send):
                return False
        return True

    def may_have_lost(self, since: float) -> bool:
        """Whether a failover may have lost a result that was stored after a moment in monotonic seconds."""
        return self._link.outage.away_since(since) > 0

    async def hand_back(self, held: Held, *, in_good_order: bool, suspect: bool = False) -> None:
        """Give the attempt up and put the job to the front of its list; in good order it counts for nothing.

        A ``suspect`` is run alone from now on, by whomever: an engine was lost while it read the job's request.
        """
        await self._release(held.job_id, held.slot, held.attempt, in_good_order=in_good_order, suspect=suspect)
        await self._slots.hand_back(held.slot)

    async def _release(
        self, job_id: str, slot: Slot, attempt: int, *, in_good_order: bool, suspect: bool = False
    ) -> None:
        release = partial(self._link.scripts.release, in_good_order=in_good_order, suspect=suspect)
        await self._link.done(partial(release, job_id, slot.worker, attempt))

    async def give_up(self, slots: Iterable[Slot]) -> None:
        """Give up, in good order, whatever jobs still lie in slots of a worker that ends; they stay there."""
        for slot in slots:
            payload = await self._slots.inside(slot)
            job_id = None if payload is None else job_id_in(payload)
            if job_id is not None:
                owner, name, attempt = await self._holder(job_id)
                if (owner, name) == (slot.worker, slot.name) and attempt is not None:
                    await self._release(job_id, slot, attempt, in_good_order=True)

    async def _holder(self, job_id: str) -> tuple[str, str, int | None]:
        """Whose the job is by its hash: worker, slot, attempt; empty or None where it does not say, or is no hash."""
        try:
            asked = partial(self._link.commands.hmget, job_key(job_id), "owner", "slot", "attempt")
            owner, name, attempt = await self._link.asked(asked)
        except ResponseError as error:
            if kind_of(error) != FOREIGN:
                raise
            return "", "", None
        return worker_name(owner or b""), slot_name(name or b""), count_in_redis(attempt)

    async def _is_held_elsewhere(self, job_id: str, slot: Slot) -> bool:
        """Whether the hash names another slot, of a living worker, that really holds the job."""
        owner, name, _ = await self._holder(job_id)
        return (owner, name) != (slot.worker, slot.name) and await self._slots.holder_has(owner, name, job_id)

    async def standing(self, held: Held) -> Standing:
        """Find out whose a job is that Redis says is not this attempt's any more: anybody may have written that."""
        payload = await self._slots.inside(held.slot)
        if payload is None or await self._is_held_elsewhere(held.job_id, held.slot):
            return Standing.ANOTHERS
        over = await self._link.asked(partial(self._link.commands.exists, result_key(held.job_id)))
        return Standing.OVER if over else Standing.NOBODYS

    async def answer_unclaimed(self, job_id: str, slot: Slot, result: bytes) -> bool:
        """Store a result for a job whose attempt could not be claimed or ended, should it have none.

        False if another worker holds the job: it has to be ended there.
        """
        if await self._is_held_elsewhere(job_id, slot):
            return False
        store = partial(self._link.commands.set, result_key(job_id), result, ex=self._result_ttl, nx=True)
        if not await self._link.done(store):
            return True
        with contextlib.suppress(ResponseError):  # what is no hash needs no end
            await self._link.done(partial(self._link.commands.hset, job_key(job_id), "finished_by", f"{slot.worker}:0"))
            await self._link.done(partial(self._link.commands.hdel, job_key(job_id), "owner", "slot", "nonce"))
        return True

    async def foreign_key(self, job_id: str) -> str:
        """Say which of the job's keys somebody else uses, and for what; empty if none is seen to be."""
        wanted = {stream_key(job_id): "stream", result_key(job_id): "string", job_key(job_id): "hash"}
        named = await self._link.foreign_key(wanted)
        return named and f"{named}: delete it, or use another id"
