"""A worker's slots: lists of at most one job, so that what a worker holds is always in Redis too."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import anyio
from redis.asyncio import Redis
from redis.exceptions import RedisError

from velesio_worker.core.logs import get_logger
from velesio_worker.core.metrics import DEAD_LETTERS
from velesio_worker.queue.connection import BLOCK_SECONDS, PAYLOAD_SECONDS, REPLY_SECONDS
from velesio_worker.queue.keys import LINED, Slot, count_in_redis, slot_name, worker_name
from velesio_worker.queue.lease import Lease
from velesio_worker.queue.letters import letter_of
from velesio_worker.queue.link import Link
from velesio_worker.queue.outage import Backoff, within
from velesio_worker.queue.remedies import passes
from velesio_worker.queue.scripts import Taken, over
from velesio_worker.queue.warmth import LettingGo, Summons, Warmth
from velesio_worker.wire.jobs import Job, Kind
from velesio_worker.wire.payload import job_id_in
from velesio_worker.wire.share import Share, share_of

_LETTER_BYTES: Final = 64 * 1024 * 1024
_LETTER_HEAD: Final = 64 * 1024
_LINGER_SECONDS: Final = 0.25
_WINDOW: Final = 32
_WINDOW_LARGEST: Final = 64 * 1024
_WINDOW_BYTES: Final = 4 * 1024 * 1024
"""How far somebody who chooses looks into a list: so many jobs, so large, so much in all."""

log = get_logger(__name__)


class Slots:
    """Moves jobs into slots and out of them. Nothing here loses a job, whichever reply is lost.

    Args:
        blocking: the client for blocking moves and for reading payloads, patient; the link is for everything else.
        lease: is told of each slot before a job is moved there.
        largest: the largest job that is accepted, in bytes: of a larger one a dead letter keeps the beginning.

    Attributes:
        warmth: what is known of what this worker's engine has read.
        summons: whoever waits for a job of a kind is called back by them.
        letting_go: has jobs that were kept for a worker wait for whoever comes; to be run.
    """

    def __init__(self, blocking: Redis, link: Link, lease: Lease, *, largest: int = _LETTER_BYTES) -> None:
        self._blocking: Any = blocking
        self._link = link
        self._lease = lease
        self._largest = min(largest, _LETTER_BYTES)
        self._doubtful: set[str] = set()
        self._begun: dict[str, Kind] = {}
        self._used: dict[str, float] = {}
        self._backoffs: dict[str, Backoff] = {}
        self.warmth = Warmth()
        self.summons = {kind: Summons() for kind in LINED}
        self.letting_go = LettingGo(link)

    def expect(self, slot: Slot) -> None:
        """Have the next beat name a slot, so that its first job need not wait for one."""
        self._lease.know(slot)

    def may_hold(self, slot: Slot) -> bool:
        """Whether a slot may hold a job unasked, after a reply was lost."""
        return slot.key in self._doubtful

    async def take(self, source: str, slot: Slot) -> bytes | None:
        """Move the next job of ``source`` into the slot; None if none came within a second.

        A move whose reply was lost may have happened, so after any trouble the slot itself is asked first.
        """
        left = await self.left_in(slot)
        if left is not None:
            return left
        backoff = self._backoffs.setdefault(slot.key, Backoff())
        try:
            await self._lease.cover(slot)
            payload = await self._next_or_wait(source, slot)
        except RedisError as error:
            trouble = (
                error
                if passes(error)
                else await self._link.foreign({**self._types(source, slot.key), **self._lease.keys}, error)
            )
            if trouble is None:
                raise
            self._link.outage.noticed(trouble)
            self._doubtful.add(slot.key)
            await backoff.pause(self._link.outage if trouble is error else None)
            return None
        self._link.outage.over()
        backoff.reset()
        return payload

    def _types(self, source: str, *lists: str) -> dict[str, str]:
        """What :meth:`velesio_worker.queue.link.Link.on_keys` wants to know of a list, and of what lies beside it."""
        kind = self._link.keys.lined(source)
        return _lists(source, *lists) | ({} if kind is None else self._link.keys.shares(kind))

    async def _next_or_wait(self, source: str, slot: Slot) -> bytes | None:
        kind = self._link.keys.lined(source)
        if kind is None:
            return await self._first(source, slot)
        summons = self.summons[kind]
        rung = summons.rung  # before it is looked whether something is kept for this worker
        payload = await self._next(kind, slot)
        if payload is None:
            with summons.heeded(rung) as waits:
                if waits:
                    payload = await self._first(source, slot)
        if payload is None and summons.rung != rung:  # what was moved as the wait ended is found there, too
            payload = await self._next(kind, slot)
        return payload

    async def _first(self, source: str, slot: Slot) -> bytes | None:
        """Move the first job of a list into the slot, which may take a second to come."""
        move = self._blocking.blmove(source, slot.key, BLOCK_SECONDS, "RIGHT", "LEFT")
        return await within(BLOCK_SECONDS + REPLY_SECONDS, move)

    async def _next(self, kind: Kind, slot: Slot) -> bytes | None:
        """Move the job into the slot whose turn it is; None if none waits."""
        taken = await within(REPLY_SECONDS, self._link.scripts.take(self._link.keys, kind, slot))
        if taken is None:
            return None
        payload, how = taken
        if how is not Taken.BEFORE:
            self._begun[slot.key] = kind
        if how is Taken.WARM:
            self.warmth.promise(slot)
        return payload

    def got(self, slot: Slot, job: Job, size: int) -> tuple[Kind, Share] | None:
        """Return whose a job of ``size`` bytes in a slot is, of which note is to be taken with its claim.

        None: nothing is to be noted, since it was moved there because of that, or it stood in no line: such jobs have
        none, or it names this worker, and were it put back to a line, another one would take it.
        """
        if job.kind not in LINED:
            return None
        share = share_of(job, size)
        self._used[slot.key] = share.cost
        self.warmth.belongs(slot, share.session)
        if job.worker is not None or slot.key in self._begun:
            return None
        self._begun[slot.key] = job.kind
        return job.kind, share

    def used(self, slot: Slot, cost: float | None) -> None:
        """Take note what the job in a slot did cost; None if that is not known: then it is what was estimated."""
        if cost is not None:
            self._used[slot.key] = cost

    def over(self, slot: Slot) -> list[Any]:
        """Return what tells the scripts that a slot's job is over, by which they empty it."""
        held, session = self.warmth.outcome(slot)
        kind, used = self._begun.get(slot.key), self._used.get(slot.key)
        return over(self._link.keys, slot, kind, used, held=held, session=session)

    def emptied(self, slot: Slot) -> None:
        """Take note that a slot has been emptied."""
        self.warmth.emptied(slot)
        for noted in (self._begun, self._used):
            noted.pop(slot.key, None)

    async def left_in(self, slot: Slot) -> bytes | None:
        """Return what lies in a slot that may hold something unasked, after a reply was lost; None if nothing does."""
        if slot.key not in self._doubtful:
            return None
        payload = await self.inside(slot)
        self._doubtful.discard(slot.key)
        return payload

    async def waiting(self, source: str) -> list[bytes]:
        """Return the jobs at the front of a list, the next one first; an empty string for one that is large."""
        read = partial(self._link.scripts.waiting, self._link.keys, source, _WINDOW, _WINDOW_LARGEST, _WINDOW_BYTES)
        return await self._link.on_keys(self._types(source), read, writes=False)

    async def take_now(self, source: str, slot: Slot) -> bytes | None:
        """Move the next job of ``source`` into an empty slot; None if there is none, or Redis is in trouble."""
        try:
            await self._lease.cover(slot)
            move = self._blocking.lmove(source, slot.key, "RIGHT", "LEFT")
            return await within(REPLY_SECONDS, move)
        except RedisError:
            self._doubtful.add(slot.key)
            return None

    async def pick(self, source: str, slot: Slot, payload: bytes) -> bool:
        """Move a certain job of a list into the slot; False if it does not wait there any more."""
        await self._link.on_keys(self._lease.keys, partial(self._lease.cover, slot))
        pick = partial(self._link.scripts.pick, self._link.keys, source, slot, payload, _WINDOW)
        picked = await self._link.on_keys(self._types(source, slot.key), pick)
        kind = self._link.keys.lined(source)
        if picked and kind is not None:
            self._begun[slot.key] = kind
        return picked

    async def lingers(self, source: str) -> bool:
        """Whether a job has been in a list for a moment: nobody else takes it. Returns after that moment."""
        waits = await self._waits(source)
        await anyio.sleep(_LINGER_SECONDS)
        return waits and await self._waits(source)

    async def _waits(self, source: str) -> bool:
        """Whether a job waits in a list, or in a line beside it."""
        length = partial(self._link.commands.llen, source)
        if await self._link.on_keys(_lists(source), length, writes=False):
            return True
        kind = self._link.keys.lined(source)
        if kind is None:
            return False
        share = self._link.keys.share(kind)
        lined = partial(self._link.commands.hget, share, "lined")
        return bool(count_in_redis(await self._link.on_keys({share: "hash"}, lined, writes=False)))

    async def inside(self, slot: Slot) -> bytes | None:
        """Return what lies in a slot; None if nothing does.

        It is read with a patience that grows, since the payload may be large and the line slow.
        """
        patience = REPLY_SECONDS / 2

        async def read() -> bytes | None:
            nonlocal patience
            patience = min(2 * patience, PAYLOAD_SECONDS)
            return await within(patience, self._blocking.lindex(slot.key, -1))

        return await self._link.on_keys(_lists(slot.key), read, writes=False)

    async def ack(self, slot: Slot, payload: bytes) -> None:
        """Forget the job in the slot, as it was taken: it is over."""
        if not await self._link.done(partial(self._link.scripts.ack, slot, self.over(slot))):
            await self.ack_one(slot, payload)
        self.emptied(slot)

    async def ack_one(self, slot: Slot, payload: bytes) -> None:
        """Forget one of two jobs in a slot: Redis carried out a move long after its caller had given up on it."""
        self._doubtful.add(slot.key)
        await self._link.done(lambda: self._link.commands.lrem(slot.key, -1, payload))

    async def send(self, slot: Slot, destination: str) -> None:
        """Move the job in the slot to the end of a list."""
        move = partial(self._link.commands.lmove, slot.key, destination, "RIGHT", "LEFT")
        await self._link.on_keys(_lists(slot.key, destination), move)

    async def send_in_line(self, slot: Slot, job: Job, size: int) -> None:
        """Move the job in the slot, of ``size`` bytes, to the end of its tenant's line.

        Where nobody has to wait, it may be kept for a moment for the worker whose engine has read its session.
        """
        keys, kind, share = self._link.keys, job.kind, share_of(job, size)
        patience = self.warmth.patience(job) if share.session else 0.0
        if kind not in LINED or (share.plain and not patience):
            await self.send(slot, keys.ready(kind))
            return
        send = partial(self._link.scripts.send, keys, kind, slot, share, patience=patience, model=job.model or "")
        worker = await self._link.on_keys(self._types(keys.ready(kind), slot.key), send)
        if worker:
            self.letting_go.due(kind, worker, patience)

    async def hand_back(self, slot: Slot) -> bool:
        """Move the job in the slot to the front of its line, or of the slot's home list; False if there was none."""
        kind = self._begun.get(slot.key)
        if kind is not None:
            keys = self._link.keys
            put_back = partial(self._link.scripts.put_back, keys, kind, slot)
            was_there = await self._link.on_keys(_lists(slot.key, keys.ready(kind)), put_back)
            self.emptied(slot)
            return was_there
        move = partial(self._link.commands.lmove, slot.key, slot.home, "RIGHT", "RIGHT")
        return await self._link.on_keys(_lists(slot.key, slot.home), move) is not None

    async def send_to_worker(self, slot: Slot, worker: str) -> bool:
        """Move the job in the slot to the list of one worker; False if that worker does not live."""
        keys = self._link.keys
        send = partial(self._link.scripts.send_to_worker, keys, slot, worker)
        return await self._link.on_keys({**_lists(slot.key, keys.only(worker)), keys.workers: "zset"}, send)

    async def bury(self, slot: Slot, payload: bytes, reason: str) -> None:
        """Move the job in the slot, as it was taken, to the dead letters; ``reason``: why it can't be run."""
        log.warning(f"dead letter: {reason}", action="job_buried", bytes=len(payload))
        kept, why = payload, reason
        if len(payload) > self._largest:
            kept, why = payload[:_LETTER_HEAD], f"{reason} (of {len(payload)} bytes only the first 64 KiB are kept)"
        letter = letter_of(slot.worker, kept, why, size=len(payload))
        lists, move = _lists(slot.key, self._link.keys.dead), partial(self._link.scripts.bury, self._link.keys, slot)
        if not await self._link.on_keys(lists, partial(move, letter, self.over(slot))):
            self._doubtful.add(slot.key)
            await self._link.on_keys(lists, partial(move, letter, self.over(slot), payload))
        self.emptied(slot)
        DEAD_LETTERS.inc()

    async def holder_has(self, owner: str, name: str, job_id: str) -> bool:
        """Whether another worker lives and its slot ``name`` holds the job ``job_id``; either may be no name at all."""
        keys = self._link.keys
        if not worker_name(owner.encode()) or not slot_name(name.encode()):
            return False
        alive = partial(self._link.scripts.alive, keys, owner)
        if not await self._link.on_keys({keys.workers: "zset"}, alive, writes=False):
            return False
        slot = keys.slot(owner, name).key
        kind: bytes = await self._link.asked(partial(self._link.commands.type, slot))
        payload = await self.inside(keys.slot(owner, name)) if kind == b"list" else None
        return payload is not None and job_id_in(payload) == job_id


def _lists(*keys: str) -> dict[str, str]:
    """Return what :meth:`velesio_worker.queue.link.Link.on_keys` wants to know of keys that are lists."""
    return dict.fromkeys(keys, "list")
