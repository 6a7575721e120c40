"""What a gateway sees of the workers and of their queue, read from Redis without a job."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import orjson
from redis.asyncio import Redis
from redis.exceptions import RedisError

from velesio_worker.client import details
from velesio_worker.client.details import NOTHING, Details, details_in
from velesio_worker.queue.clients import Command, ask, count_of
from velesio_worker.queue.keys import LINED, Keys, count_in_redis, worker_name
from velesio_worker.queue.lease import LONGEST_LEASE
from velesio_worker.queue.remedies import NO_RIGHT, kind_of
from velesio_worker.queue.scripts import MOST_LEASES
from velesio_worker.queue.survey import Heads, Waiting
from velesio_worker.wire.jobs import PRIORITIES, Kind
from velesio_worker.wire.limits import LONGEST_ERROR, MOST_OFFERED_BYTES, MOST_OFFERED_NAMES
from velesio_worker.wire.printable import printable

_ENGINES: Final = (Kind.TEXT, Kind.IMAGE)
_OF_WORKER: Final = ("version", "kinds", "running")
_OF_ENGINE: Final = (
    *("state", "model", "models", "models_more", "default", "context"),
    *("exchanges", "slots", "running", "reason"),
)
_FIELDS: Final = (*_OF_WORKER, *(f"{kind}_{name}" for kind in _ENGINES for name in _OF_ENGINE))
_ALL_FIELDS: Final = (*_FIELDS, *details.FIELDS)
_LONGEST_WORD: Final = 64
_LONGEST_NAME: Final = 1024


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """One engine of a worker, as the worker told last.

    Attributes:
        state: ``stopped`` (the next job starts it), ``starting``, ``ready``, ``draining``, ``stopping``, ``backoff`` or
            ``failed``.
        model: the model that is loaded; None if none is.
        models: what jobs may name, at most 256.
        more: how many models there are beside those.
        default: the model of jobs that name none; None where that is not known yet.
        context: how many tokens a job may use; None where that is not known yet, and for images.
        exchanges: whether another model is loaded for a job that names it.
        slots: how many jobs it runs at a time; 0 where that is not known yet.
        running: how many it runs now.
        reason: why it failed, for operators: the host's folders may stand in it; empty if it did not.
    """

    state: str
    model: str | None
    models: tuple[str, ...]
    more: int
    default: str | None
    context: int | None
    exchanges: bool
    slots: int
    running: int
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker that lives.

    Attributes:
        id: its name; a job's ``worker`` is one.
        version: of ``velesio-worker``.
        engines: its engines by the kind of their jobs, ``text`` and ``image``.
        running: how many jobs it runs, those that look after models among them.
        lease: for how long it counts as alive from now on, in seconds.
        details: what else it tells of itself; by :meth:`Client.look` alone.
    """

    id: str
    version: str
    engines: Mapping[str, EngineInfo]
    running: int
    lease: float
    details: Details = NOTHING

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of job that it has an engine for."""
        return tuple(self.engines)


@dataclass(frozen=True, slots=True)
class QueueDepths:
    """How much waits in a queue, and how much runs.

    Attributes:
        waiting: what waits for whoever comes, by list: ``incoming`` (not sorted yet), ``text``, ``image``, ``manage``
            and ``manage-image``. Of each, ``jobs`` is how many, and ``oldest`` for how many seconds the next one has
            waited by its ``created_at``; without that, for how long this client has seen it as the next.
        named: how many jobs wait for the one worker that they name.
        suspects: how many were put aside since workers were lost with them; a worker answers them soon.
        slots: how many jobs run at a time, by kind.
        running: how many run now, by kind.
        dead: how many dead letters there are.
        by_priority: what waits of each priority, ``high``, ``normal`` and ``low``, by kind: ``text`` and ``image``; of
            what is sorted, so without ``incoming``. Empty where the user of Redis may not look there.
    """

    waiting: Mapping[str, Waiting]
    named: int
    suspects: int
    slots: Mapping[str, int]
    running: Mapping[str, int]
    dead: int
    by_priority: Mapping[str, Mapping[str, Waiting]] = field(default_factory=dict[str, Mapping[str, Waiting]])

    @property
    def jobs(self) -> int:
        """How many jobs wait, wherever they do."""
        return sum(one.jobs for one in self.waiting.values()) + self.named + self.suspects


@dataclass(frozen=True, slots=True)
class FleetView:
    """Workers and queue at one moment.

    Attributes:
        workers: the workers that live, with their details.
        lost: workers whose lease ran out and that nobody has put their jobs back of yet.
        depths: how much waits and runs.
    """

    workers: tuple[WorkerInfo, ...]
    lost: tuple[str, ...]
    depths: QueueDepths


class FleetReader:
    """Reads workers and queue. Whatever stands there may be damaged, or somebody else's: that is passed over."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._heads = Heads()

    async def workers(self) -> tuple[WorkerInfo, ...]:
        """Return the workers that live, by name: two round trips, on a Cluster too.

        Raises:
            redis.exceptions.RedisError: Redis does not answer, or refuses.
        """
        (names,) = await ask(self._redis, [self._names])
        workers, _ = await self._of_workers(names, _FIELDS)
        return workers

    async def depths(self) -> QueueDepths:
        """Return how much waits and runs; else as :meth:`workers`."""
        return (await self._look(_FIELDS)).depths

    async def look(self) -> FleetView:
        """Return both, and what workers tell beside: three round trips, on a Cluster too; else as :meth:`workers`."""
        return await self._look(_ALL_FIELDS)

    async def _look(self, fields: Sequence[str]) -> FleetView:
        keys, now = self._keys, time.time()
        lists = keys.waiting
        due = sorted(self._heads.are_due(lists, now))
        counted = [*lists.values(), keys.suspects, keys.dead]
        names, *replies = await ask(
            self._redis,
            [self._names, *(("LLEN", key) for key in counted), *(("LINDEX", lists[name], -1) for name in due)],
        )
        *jobs, suspects, dead = map(count_of, replies[: len(counted)])
        heads = dict(zip(due, replies[len(counted) :], strict=True))
        waiting: dict[str, Waiting] = {}
        for name, count in zip(lists, jobs, strict=True):
            head = heads.get(name) or b""
            waiting[name] = self._heads.seen(name, count, head, len(head), now)
        by_priority = await self._add_lines(waiting, now)
        workers, named = await self._of_workers(names, fields)
        engines = {kind.value: [one.engines[kind] for one in workers if kind in one.engines] for kind in _ENGINES}
        slots = {kind: sum(engine.slots for engine in these) for kind, these in engines.items()}
        running = {kind: sum(engine.running for engine in these) for kind, these in engines.items()}
        known = {worker.id for worker in workers}
        lost = tuple(sorted({worker for worker in _workers_in(names) if worker not in known}))
        return FleetView(workers, lost, QueueDepths(waiting, named, suspects, slots, running, dead, by_priority))

    async def _add_lines(self, waiting: dict[str, Waiting], now: float) -> dict[str, dict[str, Waiting]]:
        """Add what waits in the lines of tenants; returns what waits of each priority.

        A user of Redis that may not look there has none of it; one of an older release may not look at priorities.
        """
        keys = self._keys
        commands: list[Command] = []
        for kind in LINED:
            commands += [("HMGET", keys.share(kind), "lined"), _first(keys.lines(kind))]
        of = [(kind.value, priority, keys.lines(kind, priority)) for kind in LINED for priority in PRIORITIES]
        counts = [words for *_, key in of for words in (("ZCARD", key), _first(key))]
        replies = await self._permitted([*commands, *counts]) or await self._permitted(commands)
        pairs = list(zip(replies[::2], replies[1::2], strict=True))
        by_priority: dict[str, dict[str, Waiting]] = {}
        for (kind, priority, _), (jobs, first) in zip(of, pairs[len(LINED) :], strict=False):  # or there are none
            plain = waiting[kind] if priority == "normal" else Waiting(0, 0.0)
            by_priority.setdefault(kind, {})[priority] = plain.with_lines(count_of(jobs), _since(first), now)
        for kind, (lined, first) in zip(LINED, pairs, strict=False):
            jobs = count_in_redis(lined[0]) if lined else None
            waiting[kind.value] = waiting[kind.value].with_lines(jobs or 0, _since(first), now)
        return by_priority

    async def _permitted(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies; none if one of the commands is not permitted."""
        try:
            return await ask(self._redis, commands)
        except RedisError as error:
            if kind_of(error) != NO_RIGHT:
                raise
            return []

    @property
    def _names(self) -> Command:
        """Those whose leases end last: more than so many workers do not live."""
        return ("ZREVRANGE", self._keys.workers, 0, MOST_LEASES - 1)

    async def _of_workers(self, names: list[bytes] | None, wanted: Sequence[str]) -> tuple[tuple[WorkerInfo, ...], int]:
        """Return the workers that live, and how many jobs wait for one of them alone."""
        workers = sorted(_workers_in(names))
        commands: list[Command] = []
        for worker in workers:
            key = self._keys.worker(worker)
            commands += [("PTTL", key), ("HMGET", key, *wanted), ("LLEN", self._keys.only(worker))]
        replies = await ask(self._redis, commands)
        living: list[WorkerInfo] = []
        named = 0
        for worker, life, fields, jobs in zip(workers, replies[::3], replies[1::3], replies[2::3], strict=True):
            if fields is not None and 0 < life <= LONGEST_LEASE * 1000:
                living.append(_worker_in(worker, dict(zip(wanted, fields, strict=True)), life / 1000))
                named += count_of(jobs)
        return tuple(living), named


def _first(lines: str) -> Command:
    """The one that has waited longest in a set of those that wait."""
    return ("ZREVRANGE", lines, -1, -1, "WITHSCORES")


def _since(first: list[Any] | None) -> float | None:
    return float(first[1]) if first else None


def _workers_in(names: list[bytes] | None) -> list[str]:
    return [worker for name in names or [] if (worker := worker_name(name))]


def _worker_in(worker: str, fields: Mapping[str, bytes | None], lease: float) -> WorkerInfo:
    kinds = _word(fields["kinds"]).split(",")
    engines = {kind.value: _engine_in(kind, fields) for kind in _ENGINES if kind in kinds}
    told = details_in(fields) if "pid" in fields else NOTHING
    return WorkerInfo(worker, _word(fields["version"]), engines, count_in_redis(fields["running"]) or 0, lease, told)


def _engine_in(kind: Kind, fields: Mapping[str, bytes | None]) -> EngineInfo:
    of = {name: fields[f"{kind}_{name}"] for name in _OF_ENGINE}
    return EngineInfo(
        state=_word(of["state"]),
        model=_word(of["model"], _LONGEST_NAME) or None,
        models=_names_in(of["models"]),
        more=count_in_redis(of["models_more"]) or 0,
        default=_word(of["default"], _LONGEST_NAME) or None,
        context=count_in_redis(of["context"]),
        exchanges=of["exchanges"] == b"1",
        slots=count_in_redis(of["slots"]) or 0,
        running=count_in_redis(of["running"]) or 0,
        reason=_text(of["reason"], LONGEST_ERROR),
    )


def _names_in(value: bytes | None) -> tuple[str, ...]:
    """Read a list of names; of one that is none, or too large, nothing."""
    if value is None or len(value) > MOST_OFFERED_BYTES:
        return ()
    try:
        said = orjson.loads(value)
    except orjson.JSONDecodeError:
        return ()
    if not isinstance(said, list):
        return ()
    names = [name for name in cast("list[object]", said) if isinstance(name, str) and _is_name(name)]
    return tuple(names[:MOST_OFFERED_NAMES])


def _is_name(text: str) -> bool:
    return 0 < len(text) <= _LONGEST_NAME and printable(text) == text


def _word(value: bytes | None, longest: int = _LONGEST_WORD) -> str:
    """Read a short text on one line; empty if it is none."""
    text = (value or b"").decode(errors="replace") if len(value or b"") <= 4 * longest else ""
    return text if len(text) <= longest and printable(text) == text else ""


def _text(value: bytes | None, longest: int) -> str:
    return (value or b"")[: 4 * longest].decode(errors="replace")[:longest]
