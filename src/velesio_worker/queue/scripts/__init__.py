"""Typed stubs of the Lua scripts in this folder; each script's head documents its keys, arguments and reply."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from itertools import product
from typing import Any, Final

import orjson
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import NoScriptError

from velesio_worker.queue.exchange import pack
from velesio_worker.queue.keys import (
    LINED,
    Keys,
    Slot,
    cancel_key,
    job_key,
    parts_key,
    result_key,
    stream_key,
    worker_name,
)
from velesio_worker.queue.scripts.replies import ClaimReply as ClaimReply
from velesio_worker.queue.scripts.replies import ClaimStatus as ClaimStatus
from velesio_worker.queue.scripts.replies import Entries as Entries
from velesio_worker.queue.scripts.replies import LeaseEnd as LeaseEnd
from velesio_worker.queue.scripts.replies import PublishReply as PublishReply
from velesio_worker.queue.scripts.replies import PublishStatus as PublishStatus
from velesio_worker.queue.scripts.replies import Taken as Taken
from velesio_worker.wire.jobs import PRIORITIES, Kind
from velesio_worker.wire.limits import (
    CONTROL_ENTRIES,
    DEAD_LETTERS_BYTES,
    DEAD_LETTERS_KEPT,
    DEAD_LETTERS_TTL,
    MOST_LOST_AT_INTAKE,
    MOST_RETURNS,
    RETURNED_TTL,
)
from velesio_worker.wire.share import Share

JOB_HASH_TTL = 24 * 3600
"""The least life of a job's hash, in seconds; it must outlive the job's stream, whose ids it continues."""

PARTS_SECONDS = 600
"""How long the parts of a large result are kept, should nobody put them together."""

REFUSED_SECONDS: Final = 60
"""How much longer than stream and result the hash of a job is kept that was refused, in seconds."""


MOST_LEASES: Final = 1000
MOST_REAPED: Final = 1000
"""So many leases, and so many jobs of a lost worker, are looked at by one call: Redis does nothing else meanwhile."""

_FILES: Final = {
    file.name.removesuffix(".lua"): file.read_bytes()
    for file in files(__name__).iterdir()
    if file.name.endswith(".lua")
}
_FAIR: Final = ("ack", "bury", "drop", "got", "let_go", "move", "pick", "put_back", "reap", "send", "take", "waiting")
_SHARED: Final = {
    "claim": ("kept", "fair", "entries"),
    "publish": ("entries",),
    "finish": ("outcome",),
    "close": ("kept", "fair", "entries", "outcome"),
    **dict.fromkeys(_FAIR, ("kept", "fair")),
}
_SOURCES: Final = {
    name: b"".join(_FILES[part] for part in ("guard", *_SHARED.get(name, ()), name))
    for name in _FILES.keys() - {"guard", "entries", "kept", "fair", "outcome"}
}
_NO_SHARE: Final = ("",) * 6
_SHAS: Final = {name: hashlib.sha1(text, usedforsecurity=False).hexdigest() for name, text in _SOURCES.items()}
"""Read here, once for a process and before its event loop runs: who needs a script has it at hand."""


class Scripts:
    """The scripts, bound to a client. All are safe to repeat.

    Args:
        job_ttl: how long a job's hash is kept, in seconds.
    """

    def __init__(self, redis: Redis, *, job_ttl: int = JOB_HASH_TTL) -> None:
        self._job_ttl = max(job_ttl, JOB_HASH_TTL)
        self._redis: Any = redis

    async def _run(self, name: str, *, keys: Sequence[str], args: Sequence[Any] = ()) -> Any:  # noqa: ANN401 (as Redis answers)
        try:
            return await self._redis.execute_command("EVALSHA", _SHAS[name], len(keys), *keys, *args)
        except NoScriptError:  # this server has not seen it yet, or has forgotten it
            await self._redis.script_load(_SOURCES[name])
            return await self._redis.execute_command("EVALSHA", _SHAS[name], len(keys), *keys, *args)

    async def claim(
        self,
        job_id: str,
        slot: Slot,
        nonce: str,
        max_attempts: int,
        take_over: str = "",
        *,
        life: int | None = None,
        start: Entries | None = None,
        share: Sequence[Any] = _NO_SHARE,
    ) -> ClaimReply:
        """Make ``slot`` the owner of the job's next attempt, if that is to be had.

        The job's hash is kept for ``life`` seconds, or as those of other jobs. What follows is not for a Cluster: with
        ``start`` the first attempt's stream begins with that entry in the same step, and with ``share``, as
        :func:`share_in` returns it, note is taken of the job as :meth:`got` does.
        """
        keys = [job_key(job_id), result_key(job_id), cancel_key(job_id)]
        args: list[Any] = [slot.worker, slot.name, nonce, max_attempts, take_over, life or self._job_ttl, *share]
        if start is not None:
            keys.append(stream_key(job_id))
            args += [start.life, *start.parts]
        reply: list[Any] = await self._run("claim", keys=keys, args=args)
        status, attempt, first, owner, name, holder, counted, base, suspect, begun = reply
        owner, name, holder = (text.decode(errors="replace") for text in (owner, name, holder))
        holds, counts = (owner, name, holder), (int(counted), int(base))
        known = int(attempt), bool(first)
        return ClaimReply(ClaimStatus(status.decode()), *known, *holds, *counts, bool(suspect), bool(begun))

    async def finish(
        self, job_id: str, worker: str, attempt: int, result: bytes, ttl: int, *, sent: int = 0, life: int | None = None
    ) -> bool | None:
        """Store the result, or the ``sent`` bytes of it that were sent in parts; False if another attempt owns the job.

        None: the parts are not all there. ``life`` is as with :meth:`claim`.
        """
        keys = [job_key(job_id), result_key(job_id), parts_key(job_id, attempt), cancel_key(job_id)]
        args = [worker, attempt, ttl, result, life or self._job_ttl, sent]
        reply = int(await self._run("finish", keys=keys, args=args))
        return None if reply < 0 else bool(reply)

    async def close(
        self,
        job_id: str,
        slot: Slot,
        attempt: int,
        result: bytes,
        ttl: int,
        entries: Entries,
        over: Sequence[Any],
        *,
        life: int | None = None,
    ) -> bool | None:
        """End a job in one step, which is not for a Cluster; False: a second job lies in the slot, and was left there.

        None: nothing was done, and each part has to be done by itself. ``life`` is as with :meth:`claim`, ``over`` as
        with :meth:`ack`.
        """
        keys = [job_key(job_id), result_key(job_id), cancel_key(job_id), parts_key(job_id, attempt)]
        keys += [stream_key(job_id), slot.key]
        args = [slot.worker, attempt, ttl, result, life or self._job_ttl, entries.first, entries.life, *over]
        args += entries.parts
        reply = int(await self._run("close", keys=keys, args=args))
        return None if reply == 0 else reply == 1

    async def part(self, job_id: str, attempt: int, before: int, part: bytes) -> bool:
        """Send a part of a large result, ``before`` bytes of which are there; False if they are not."""
        keys = [parts_key(job_id, attempt)]
        return bool(await self._run("part", keys=keys, args=[before, part, PARTS_SECONDS]))

    async def release(
        self, job_id: str, worker: str, attempt: int, *, in_good_order: bool, suspect: bool = False
    ) -> bool:
        """Give up an attempt; False if it was not the caller's any more."""
        args = [worker, attempt, int(in_good_order), int(suspect)]
        return bool(await self._run("release", keys=[job_key(job_id)], args=args))

    async def cancelled(self, job_id: str) -> bool:
        """Whether somebody has asked that a job be stopped, and it has not ended; else no flag is left."""
        keys = [job_key(job_id), result_key(job_id), cancel_key(job_id)]
        return bool(await self._run("cancel", keys=keys, args=[self._job_ttl]))

    async def ack(self, slot: Slot, over: Sequence[Any]) -> bool:
        """Empty the slot; False if a second job lies in it, and then nothing was done.

        ``over`` is what :func:`over` returns.
        """
        return not await self._run("ack", keys=[slot.key], args=over)

    async def bury(self, keys: Keys, slot: Slot, letter: bytes, over: Sequence[Any], payload: bytes = b"") -> bool:
        """Move the job in the slot to the dead letters; False if a second job lies in it and no payload tells which."""
        args = [letter, DEAD_LETTERS_KEPT, payload, DEAD_LETTERS_BYTES, DEAD_LETTERS_TTL, *over]
        return bool(await self._run("bury", keys=[slot.key, keys.dead, keys.dead_bytes], args=args))

    async def send_to_worker(self, keys: Keys, slot: Slot, worker: str) -> bool:
        """Move the job in the slot to the worker's list; False if the worker does not live."""
        of_worker = [keys.only(worker), *keys.of_lease(worker)]
        return bool(await self._run("send_to_worker", keys=[slot.key, *of_worker], args=[worker]))

    async def take(self, keys: Keys, kind: Kind, slot: Slot) -> tuple[bytes, Taken] | None:
        """Move the next job of a kind into the slot; None if none waits. Returned with it is how it was taken."""
        args = _named(keys, kind, slot)
        reply: list[Any] | None = await self._run("take", keys=[slot.key, keys.ready(kind)], args=args)
        return None if reply is None else (reply[0], Taken(reply[1]))

    async def send(
        self, keys: Keys, kind: Kind, slot: Slot, share: Share, *, patience: float = 0.0, model: str = ""
    ) -> str:
        """Move the job in the slot to the end of its tenant's line.

        Where others are free, it may be kept for up to ``patience`` seconds for the worker whose engine has read its
        session, if that serves the ``model``. Returns that worker; empty if it is not kept.
        """
        args = [keys.beginning, kind.value, *share, f"{patience:.6f}", model]
        worker: bytes | None = await self._run("send", keys=[slot.key, keys.ready(kind)], args=args)
        return "" if worker is None else worker.decode()

    async def let_go(self, keys: Keys, kind: Kind, worker: str) -> int:
        """Have jobs that were kept for a worker for long enough wait for whoever comes; returns how many."""
        args = [keys.beginning, kind.value, worker]
        return int(await self._run("let_go", keys=[keys.kept(kind)], args=args))

    async def got(self, keys: Keys, kind: Kind, slot: Slot, share: Share) -> None:
        """Take note of a job that came into the slot in another way than by :meth:`take`."""
        args = [*_named(keys, kind, slot), *share]
        await self._run("got", keys=[keys.running(kind)], args=args)

    async def put_back(self, keys: Keys, kind: Kind, slot: Slot) -> bool:
        """Move the job in the slot to the front of the line that it was taken from; False if there was none."""
        args = _named(keys, kind, slot)
        return bool(await self._run("put_back", keys=[slot.key, keys.ready(kind)], args=args))

    async def move(self, keys: Keys, kind: Kind, tenant: str, priority: str, other: str, most: int) -> int:
        """Move a tenant's oldest jobs to the end of its line of another priority; returns how many, at most ``most``.

        -1: what one of the lines is called is no list.
        """
        args = [keys.beginning, kind.value, tenant, priority, other, most]
        return int(await self._run("move", keys=[keys.ready(kind)], args=args))

    async def drop(
        self, keys: Keys, kind: Kind, tenant: str, priority: str, jobs: Iterable[bytes], destination: str
    ) -> set[int]:
        """Move jobs, the next one first, from the front of a tenant's line; returns the places, from 0, of those."""
        digests = [hashlib.sha1(job, usedforsecurity=False).hexdigest() for job in jobs]
        args = [keys.beginning, kind.value, tenant, priority, *digests]
        return {place - 1 for place in await self._run("drop", keys=[keys.ready(kind), destination], args=args)}

    async def waiting(self, keys: Keys, source: str, most: int, largest: int, look: int) -> list[bytes]:
        """Return what waits at the front of a list or a kind's lines, the next one first; sizes are in bytes."""
        kind = keys.lined(source)
        args = [most, largest, look, *((keys.beginning, kind.value) if kind else ("", ""))]
        return await self._run("waiting", keys=[source], args=args)

    async def heads(
        self, keys: Keys, lists: Mapping[str, bool], largest: int
    ) -> tuple[list[tuple[int, bytes, int]], dict[Kind, dict[str, tuple[int, float | None]]]]:
        """Look at lists; ``lists`` says of each whether its next job is to be read.

        Returns:
            for each how many jobs wait in it, the next one, cut to ``largest`` bytes, and its size in bytes; and for
            each kind with lines how many wait in them, and since when the first does, in Unix time: in all (``""``) and
            of each priority.
        """
        args = [largest, *(int(read) for read in lists.values())]
        named = ("", *PRIORITIES)
        beside = [keys.lines(kind, priority) for kind in LINED for priority in named]
        reply: list[Any] = await self._run("heads", keys=[*lists, *beside], args=args)
        of_lists, of_lines = reply[: 3 * len(lists)], reply[3 * len(lists) :]
        found = zip(of_lines[::2], of_lines[1::2], strict=True)
        lines: dict[Kind, dict[str, tuple[int, float | None]]] = {kind: {} for kind in LINED}
        for (kind, priority), (jobs, since) in zip(product(LINED, named), found, strict=True):
            lines[kind][priority] = int(jobs), None if since is None else float(since)
        return list(zip(of_lists[::3], of_lists[1::3], of_lists[2::3], strict=True)), lines

    async def pick(self, keys: Keys, source: str, slot: Slot, payload: bytes, most: int) -> bool:
        """Move a certain job into the slot; False if it is not among the ``most`` that are next any more."""
        kind = keys.lined(source)
        args = [payload, *(_named(keys, kind, slot) if kind else ("", "", "")), most]
        return bool(await self._run("pick", keys=[slot.key, source], args=args))

    async def beat(
        self, keys: Keys, worker: str, lease_seconds: int, facts: Mapping[str, str | int], slots: Iterable[Slot] = ()
    ) -> str:
        """Renew the worker's lease; returns its end, just as Redis has it."""
        pairs = [part for pair in facts.items() for part in pair]
        homes = [part for slot in slots for part in (slot.key, slot.home)]
        ends: bytes = await self._run(
            "beat",
            keys=[keys.workers, keys.worker(worker), keys.slots(worker), keys.control],
            args=[worker, lease_seconds, CONTROL_ENTRIES, len(pairs), *pairs, *homes],
        )
        return ends.decode()

    async def leases(self, keys: Keys, within: float, beyond: float | None = None) -> list[LeaseEnd]:
        """Return the workers whose leases end within so many seconds, or have ended, or run ``beyond`` so many."""
        return (await self.census(keys, within, beyond))[1]

    async def census(self, keys: Keys, within: float, beyond: float | None = None) -> tuple[int, list[LeaseEnd]]:
        """Return how many workers there are, and what :meth:`leases` does."""
        args = [within, "" if beyond is None else beyond, MOST_LEASES]
        workers, *reply = await self._run("leases", keys=[keys.workers], args=args)
        return int(workers), [
            LeaseEnd(worker_name(name), ends.decode(), left / 1000, name)
            for name, ends, left in zip(reply[::3], reply[1::3], reply[2::3], strict=True)
        ]

    async def reap(self, keys: Keys, worker: str, lease_ends: str, *, gone: bool, lost: bool) -> int:
        """Put the jobs of a worker back that is ``lost`` or ends; returns how many, or -1 if it lives or is struck off.

        What it is lost with is counted, and goes aside where that has happened before.
        """
        of_worker = [keys.workers, keys.slots(worker), keys.only(worker), keys.incoming, keys.worker(worker)]
        homes = [keys.returned, keys.suspects, *map(keys.ready, Kind)]
        args = [worker, lease_ends, int(gone), keys.slot(worker, "").key, MOST_REAPED, int(lost)]
        args += [RETURNED_TTL, MOST_LOST_AT_INTAKE, MOST_RETURNS, keys.beginning, *LINED]
        total, left = 0, 1
        while left:
            moved, left = await self._run("reap", keys=[*of_worker, *homes], args=args)
            if moved < 0:
                return total or -1
            total += moved
        return total

    async def sweep(self, keys: Keys, ends: Sequence[str]) -> list[str]:
        """Remove what counts as running of workers that are struck off, a part at a time.

        ``ends`` is where the last look has ended in the hash of each kind with lines, first ``"0"``; returns the same.
        """
        hashes = [keys.running(kind) for kind in LINED]
        reply: list[bytes] = await self._run("sweep", keys=[keys.workers, *hashes], args=[MOST_LEASES, *ends])
        return [end.decode() for end in reply]

    async def forbidden(self, commands: Sequence[Sequence[str]]) -> list[int]:
        """Return the places, from 1 on, of the commands that the user may not run; none is run."""
        return await self._run("rights", keys=[], args=[orjson.dumps(commands)])

    async def alive(self, keys: Keys, worker: str) -> bool:
        """Whether the worker's lease runs."""
        return bool(await self._run("alive", keys=keys.of_lease(worker), args=[worker]))

    async def retry(self, keys: Keys, letter: bytes, payload: bytes) -> int:
        """Put a dead letter's job back; returns how many copies of the letter there were, 0 if it is gone."""
        return int(await self._run("retry", keys=[keys.dead, keys.incoming], args=[letter, payload]))

    async def forget(self, job_id: str, result: bytes) -> bool:
        """Delete the job's result; False if it is not (any more) the one given."""
        return bool(await self._run("forget", keys=[result_key(job_id)], args=[result]))

    async def publish(
        self, key: str, attempt: int, first: int, life: int | None, parts: Sequence[str | bytes]
    ) -> PublishReply:
        """Add entries to a stream: ``parts`` are events and data in turn, ``first`` the sequence of the first entry."""
        reply = await self._run("publish", keys=[key], args=[attempt, first, "" if life is None else life, *parts])
        return PublishReply.read(reply)

    async def conclude(self, key: str, event: str, data: bytes, life: int) -> bool:
        """Add a last entry to a stream that its writer cannot go on with; False if there is one."""
        return bool(await self._run("conclude", keys=[key], args=[event, data, life]))

    async def load_publish(self) -> None:
        """Have Redis know the script that a pipeline found missing: a restart or a failover forgets scripts."""
        await self._redis.script_load(_SOURCES["publish"])


def _named(keys: Keys, kind: Kind, slot: Slot) -> list[str]:
    """What tells fair.lua of a slot: the queue, the kind, and the slot's field."""
    return [keys.beginning, kind.value, slot.field]


def share_in(keys: Keys, kind: Kind, share: Share) -> list[Any]:
    """Return what tells a claim whose a job is that came into its slot in another way than by :meth:`Scripts.take`."""
    return [keys.beginning, kind.value, *share]


def over(
    keys: Keys, slot: Slot, kind: Kind | None, used: float | None, *, held: bool | None, session: str = ""
) -> list[Any]:
    """Return what tells fair.lua that a slot's job is over.

    ``kind`` is the one whose lines know of the job, None if none do, ``used`` what it did cost if that is known,
    ``held`` whether the engine holds what its ``session`` begins with.
    """
    if kind is None:
        return [""] * 5
    holds = "" if held is None else f"{int(held)}:{session}"
    return [*_named(keys, kind, slot), "" if used is None else used, holds]


def packed_publish(key: str, attempt: int, first: int, life: int | None, parts: Sequence[str | bytes]) -> bytes:
    """Return :meth:`Scripts.publish` as a command to be sent; :class:`PublishReply` reads the reply."""
    return pack(("EVALSHA", _SHAS["publish"], 1, key, attempt, first, "" if life is None else life, *parts))


def publish_with(
    pipe: Pipeline, key: str, attempt: int, first: int, life: int | None, parts: Sequence[str | bytes]
) -> None:
    """Put :meth:`Scripts.publish` into a pipeline; :class:`PublishReply` reads the reply."""
    pipe.execute_command(  # pyright: ignore[reportUnknownMemberType]
        "EVALSHA", _SHAS["publish"], 1, key, attempt, first, "" if life is None else life, *parts
    )
