"""The reaper: any worker puts the jobs of one that is lost back to their lists.

A worker is lost when its lease has run out, or sooner when it has missed a beat and has no connection to Redis any
more. Fencing makes a mistake cheap: reaping one that lives costs work, never correctness.
"""

from __future__ import annotations

import math
import re
import time
from functools import partial
from typing import Any, Final, cast

import anyio
from redis.asyncio import RedisCluster
from redis.exceptions import ResponseError

from velesio_worker.core.logs import get_logger
from velesio_worker.core.metrics import REAPED_JOBS, REAPED_WORKERS
from velesio_worker.queue.clients import is_cluster
from velesio_worker.queue.keys import LINED
from velesio_worker.queue.lease import LONGEST_LEASE, overdue
from velesio_worker.queue.link import Link
from velesio_worker.queue.remedies import NO_RIGHT, kind_of, passes, words
from velesio_worker.queue.scripts import LeaseEnd

LOOK_SECONDS: Final = 0.5
ALONE_SECONDS: Final = 2.0
"""How often a worker that is alone looks at least: whoever comes has beaten by then, and is not lost at once."""

SWEEP_SECONDS: Final = 10.0
"""How often it is looked whether something counts as running of workers that were struck off."""

SETTLE_SECONDS: Final = 4.0
"""How much longer it may take the others to be connected and to beat once Redis was away."""

_TOLD: Final = 100
"""So many troubles are remembered as told."""

_SHOWN: Final = 40
_CLIENT_NAME: Final = re.compile(r"\bname=(\S+)")

log = get_logger(__name__)


class Reaper:
    """Looks after the other workers of a queue.

    Args:
        worker: the worker that looks; never reaped by itself.
        lease_seconds: how long a worker counts as alive after a beat.
    """

    def __init__(self, link: Link, worker: str, *, lease_seconds: int) -> None:
        self._link = link
        self._worker = worker
        self._lease_seconds = lease_seconds
        self._may_list_clients = True
        self._alone = False
        self._told: dict[str, None] = {}
        self._swept_at = -math.inf
        self._swept_to = ["0"] * len(LINED)
        self._everywhere = {"target_nodes": RedisCluster.PRIMARIES} if is_cluster(link.redis) else {}

    async def run(self) -> None:
        """Look for ever, twice a second while there are others; of what goes wrong only missing rights end that."""
        alone = max(LOOK_SECONDS, min(ALONE_SECONDS, overdue(self._lease_seconds)))
        while True:
            await anyio.sleep(alone if self._alone else LOOK_SECONDS)
            try:
                await self._link.asked(self.look)
            except (ResponseError, ValueError) as error:
                if kind_of(error) == NO_RIGHT:
                    raise
                said = words(error)
                self._tell(said, f"lost workers are not looked after, since Redis has what it should not: {said}")

    async def look(self) -> int:
        """Reap whoever is lost now; returns how many jobs were put back."""
        missed = overdue(self._lease_seconds)
        connected: set[str] | None = None
        moved = 0
        census = partial(self._link.scripts.census, self._link.keys, self._lease_seconds - missed, self._lease_seconds)
        workers, found = await self._link.on_keys({self._link.keys.workers: "zset"}, census, writes=False)
        self._alone = workers <= 1
        await self._strike_off([lease.name for lease in found if not lease.worker])
        await self._sweep()
        for lease in found:
            if lease.worker in {"", self._worker}:
                continue
            silent, away = self._silent(lease)
            over = silent >= self._lease_seconds
            if lease.left > self._lease_seconds:
                if not await self._is_ghost(lease):
                    continue
            elif not over:
                if silent < missed + (SETTLE_SECONDS if away else 0):
                    continue
                connected = await self._connected() if connected is None else connected
                if connected is None or lease.worker in connected:
                    continue
            moved += await self._reap(lease, over=over)
        return moved

    async def _sweep(self) -> None:
        """Remove what counts as running of workers that were struck off by older ones, who do not know of that."""
        if time.monotonic() < self._swept_at + SWEEP_SECONDS:
            return
        self._swept_at = time.monotonic()
        keys = self._link.keys
        types = {keys.workers: "zset", **{keys.running(kind): "hash" for kind in LINED}}
        sweep = partial(self._link.scripts.sweep, keys, self._swept_to)
        self._swept_to = await self._link.on_keys(types, sweep)

    async def _strike_off(self, names: list[bytes]) -> None:
        """Remove from the list of those that live what no worker is called."""
        if names:
            workers = self._link.keys.workers
            await self._link.done(partial(self._link.commands.zrem, workers, *names))
            shown = ", ".join(repr(name[:_SHOWN])[1:] for name in names[:3])
            log.warning(f"{workers} named {len(names)} that are no workers, {shown}: removed", action="foreign_key")

    async def _is_ghost(self, lease: LeaseEnd) -> bool:
        """Whether a long lease is none: longer than any worker's, or its hash has not the life that a beat gives it."""
        life: int = await self._link.asked(partial(self._link.commands.ttl, self._link.keys.worker(lease.worker)))
        return lease.left > LONGEST_LEASE or not 0 <= life <= LONGEST_LEASE

    def _silent(self, lease: LeaseEnd) -> tuple[float, float]:
        """For how long a worker could have beaten and did not, and how long Redis was away meanwhile; in seconds.

        Redis that is away makes everybody look lost: that time does not count.
        """
        since_beat = self._lease_seconds - lease.left
        away = self._link.outage.away_since(time.monotonic() - since_beat)
        return since_beat - away, away

    async def _reap(self, lease: LeaseEnd, *, over: bool) -> int:
        keys = self._link.keys
        try:
            moved = await self._link.scripts.reap(keys, lease.worker, lease.ends, gone=not over, lost=True)
        except ResponseError as error:
            foreign = await self._link.foreign({keys.slots(lease.worker): "hash"}, error)
            if foreign is None:
                raise
            self._tell(lease.worker, f"the jobs of the lost worker {lease.worker} cannot be put back: {foreign}")
            return 0
        if moved < 0:
            return 0
        why = "its lease ran out" if over else "it missed a beat and has no connection"
        if lease.left > self._lease_seconds:
            why = "its lease is none that a worker takes"
        REAPED_WORKERS.inc()
        REAPED_JOBS.inc(moved)
        log.warning(f"worker {lease.worker} is lost: {why}", action="worker_reaped", lost=lease.worker, jobs=moved)
        return moved

    def _tell(self, worker: str, trouble: str) -> None:
        """Say what is the matter with a worker's keys, once."""
        if worker not in self._told:
            self._told[worker] = None
            if len(self._told) > _TOLD:
                del self._told[next(iter(self._told))]
            log.warning(trouble, action="foreign_key", lost=worker)

    async def _connected(self) -> set[str] | None:
        """Return the names of all connected clients; None if Redis does not tell."""
        if not self._may_list_clients:
            return None
        try:
            listing = await self._link.commands.execute_command("CLIENT LIST", **self._everywhere)
        except ResponseError as error:
            if passes(error):
                raise
            why = f"lost workers are noticed when their lease runs out, not before: {error}"
            log.info(why, action="no_client_list")
            self._may_list_clients = False
            return None
        return _names(listing)


def _names(listing: object) -> set[str]:
    """Read the names of clients out of a reply to CLIENT LIST, or out of those of all nodes of a Cluster."""
    if isinstance(listing, dict):
        replies = cast("dict[str, object]", listing).values()
        return {name for reply in replies for name in _names(reply)}
    if isinstance(listing, bytes):
        return set(_CLIENT_NAME.findall(listing.decode(errors="replace")))
    return {str(client.get("name", "")) for client in cast("list[dict[str, Any]]", listing)}
