"""Redis goes away, workers freeze, connections break: streams go on where they were, and nobody does a job twice."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest
from bench.judge import Pause, Watched

from tests.support.crashes import MAX_TOKENS, Pair, assert_right, modes, report
from tests.support.processes import WorkerProcess
from tests.support.proxies import FaultyProxy
from tests.support.servers import RedisServer
from tests.support.tiny import brisk_model_path as model_path
from tests.support.topologies import ClusterServers, SentinelServers

__all__ = ["model_path"]  # a fixture

pytestmark = [pytest.mark.engine, pytest.mark.anyio, pytest.mark.timeout(600)]

STREAMS = 4
"""Streams at a time."""

LONG = 400
"""Tokens of a stream that has to be struck before its end, even if the test is held up for a second meanwhile."""

thread = anyio.to_thread.run_sync


@pytest.fixture
async def make_pair(model_path: Path, tmp_path: Path) -> AsyncIterator[Callable[..., Pair]]:
    """Make pairs of workers on a Redis of the test's choice."""
    pairs: list[Pair] = []

    def make(url: str, **settings: str) -> Pair:
        common = {"REDIS_URL": url, "MODEL_PATH": str(model_path), "LLM_CONCURRENCY": str(STREAMS)}
        pairs.append(Pair(tmp_path, **(common | {"CONTEXT_SIZE": "512"} | settings)))
        return pairs[-1]

    yield make
    for pair in pairs:
        await pair.__aexit__()


async def until(condition: Callable[[], Awaitable[Any]], limit: float = 100) -> None:
    with anyio.fail_after(limit):
        while not await condition():
            await anyio.sleep(0.05)


async def is_idle(worker: WorkerProcess) -> bool:
    """Whether the worker's llama-server runs nothing."""
    async with httpx.AsyncClient(timeout=60) as http:
        slots = (await http.get(f"http://127.0.0.1:{worker.environment['LLAMA_PORT']}/slots")).json()
    return not any(slot["is_processing"] for slot in slots)


async def strike_rounds(pair: Pair, name: str, strikes: list[Callable[[str], Awaitable[None]]]) -> list[Watched]:
    """Some streams for each strike, all of which feel it."""
    everything: list[Watched] = []
    gaps: list[Pause] = []
    for number, strike in enumerate(strikes):
        jobs = await pair.submit_all(f"{name}-{number}", STREAMS)
        gaps += await pair.follow_all(jobs, strike)
        everything += jobs
    report(name, gaps)
    assert_right(everything)
    assert {(job.result or {})["usage"]["completion_tokens"] for job in everything} == {MAX_TOKENS}
    return everything


async def test_streams_go_on_after_redis_was_killed_and_started_again(
    own_redis: RedisServer, make_pair: Callable[..., Pair]
) -> None:
    own_redis.start()
    pair = make_pair(own_redis.url)
    await pair.whole(1)

    async def restart(_: str) -> None:
        await thread(own_redis.kill)
        await anyio.sleep(0.5)
        await thread(own_redis.start)

    jobs = await strike_rounds(pair, "restart", [restart] * 2)
    assert [modes(job) for job in jobs] == [["fresh"]] * (2 * STREAMS)


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[SentinelServers]:
    with SentinelServers(tmp_path / "sentinel") as servers:
        yield servers


async def test_streams_go_on_after_a_failover(sentinel: SentinelServers, make_pair: Callable[..., Pair]) -> None:
    pair = make_pair(sentinel.url)
    await pair.whole(1)
    dead: list[int] = []

    async def kill(_: str) -> None:
        dead.append(await thread(sentinel.kill_primary))

    async def exchange(_: str) -> None:
        await thread(sentinel.failover)

    await strike_rounds(pair, "primary-killed", [kill])
    await thread(partial(sentinel.restart, dead[-1]))
    await strike_rounds(pair, "primary-exchanged", [exchange])


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ClusterServers]:
    with ClusterServers(tmp_path / "cluster") as servers:
        yield servers


async def test_streams_go_on_after_a_node_of_a_cluster_was_started_again(
    cluster: ClusterServers, make_pair: Callable[..., Pair]
) -> None:
    pair = make_pair(cluster.url)
    await pair.whole(1)

    async def restart(index: int, _: str) -> None:
        await thread(cluster.kill, index)
        await thread(cluster.restart, index)

    jobs = await strike_rounds(pair, "node-restart", [partial(restart, index) for index in range(2)])
    assert all(set(modes(job)) <= {"fresh", "continue"} for job in jobs)


@pytest.mark.parametrize(("fault", "extent"), [("drop_every", 50), ("swallow_every", 50), ("delay", 0.2)])
async def test_lost_and_late_replies_cost_no_token(
    own_redis: RedisServer, make_pair: Callable[..., Pair], fault: str, extent: float
) -> None:
    own_redis.start()
    with FaultyProxy(own_redis.port) as proxy:
        pair = make_pair(own_redis.url)
        pair.settings["REDIS_URL"] = proxy.url
        await pair.whole(2)

        async def begin(_: str) -> None:
            await thread(getattr(proxy, fault), extent)

        jobs = await strike_rounds(pair, fault, [begin])
        if fault != "delay":  # else many a token may have gone in one reply; workers ask for jobs all the time
            await until(partial(thread, lambda: proxy.dropped > 0))
        assert all(mode != "restart" for job in jobs for mode in modes(job))
        await thread(proxy.heal)


async def test_a_frozen_worker_finds_itself_replaced_and_stops(redis_url: str, make_pair: Callable[..., Pair]) -> None:
    pair = make_pair(redis_url, LEASE_SECONDS="3", LLM_CONCURRENCY="1")
    frozen: list[WorkerProcess] = []

    async def freeze(owner: str) -> None:
        frozen.append(await pair.owner(owner))
        frozen[-1].signal(signal.SIGSTOP)

    await pair.whole()
    job = await pair.submit("frozen", max_tokens=LONG)
    await pair.follow_all([job], freeze)
    assert_right([job])
    assert modes(job) == ["fresh", "continue"]
    length = await pair.redis.xlen("stream:frozen")
    (zombie,) = frozen
    zombie.signal(signal.SIGCONT)
    await thread(zombie.wait_for, "job_fenced")
    await until(partial(is_idle, zombie))
    assert await pair.redis.xlen("stream:frozen") == length


async def test_a_frozen_worker_whose_job_publishes_nothing_is_told_all_the_same(
    redis_url: str, make_pair: Callable[..., Pair]
) -> None:
    pair = make_pair(redis_url, LEASE_SECONDS="2", LLM_CONCURRENCY="1")
    await pair.whole()
    job = await pair.submit("silent", stream=False, max_tokens=LONG)
    entry = await anext(aiter(pair.entries(job)))
    zombie = await pair.owner(entry.data["worker"])
    zombie.signal(signal.SIGSTOP)

    async def other_has_it() -> bool:
        return await pair.redis.hget("{result:silent}:job", "attempt") == b"2"

    await until(other_has_it)
    zombie.signal(signal.SIGCONT)
    await thread(zombie.wait_for, "job_fenced")
    job.entries.clear()
    await pair.follow(job)
    assert_right([job])


async def test_a_worker_frozen_for_a_moment_goes_on_by_itself(redis_url: str, make_pair: Callable[..., Pair]) -> None:
    pair = make_pair(redis_url)
    await pair.whole()

    async def freeze(owner: str) -> None:
        worker = await pair.owner(owner)
        worker.signal(signal.SIGSTOP)
        await anyio.sleep(2)
        worker.signal(signal.SIGCONT)

    jobs = await strike_rounds(pair, "moment", [freeze])
    assert [modes(job) for job in jobs] == [["fresh"]] * STREAMS


async def test_after_an_outage_longer_than_the_lease_jobs_that_nobody_took_are_finished(
    own_redis: RedisServer, make_pair: Callable[..., Pair]
) -> None:
    own_redis.start()
    pair = make_pair(own_redis.url, LEASE_SECONDS="4")
    await pair.whole(2)

    async def long_restart(_: str) -> None:
        await thread(own_redis.kill)
        await anyio.sleep(6)
        await thread(own_redis.start)

    jobs = await strike_rounds(pair, "long-outage", [long_restart])
    assert [modes(job) for job in jobs] == [["fresh"]] * STREAMS
    assert all("worker_reaped" not in worker.log_text() for worker in pair.workers)


async def test_after_being_cut_off_longer_than_the_lease_jobs_that_somebody_took_are_dropped(
    own_redis: RedisServer, make_pair: Callable[..., Pair]
) -> None:
    own_redis.start()
    with FaultyProxy(own_redis.port) as proxy:
        pair = make_pair(own_redis.url, LEASE_SECONDS="2", LLM_CONCURRENCY="1")
        pair.settings["REDIS_URL"] = proxy.url
        await pair.whole(1)
        job = await pair.submit("taken", max_tokens=LONG)

        async def cut_off(_: str) -> None:
            await thread(proxy.freeze)
            pair.settings["REDIS_URL"] = own_redis.url
            await pair.whole(2)

        await pair.follow_all([job], cut_off)
        assert_right([job])
        assert modes(job) == ["fresh", "continue"]
        await thread(proxy.thaw)
        cut = pair.workers[0]
        await thread(cut.wait_for, "job_fenced")
        await until(partial(is_idle, cut))


async def test_a_stop_with_eight_jobs_costs_none_of_them(redis_url: str, make_pair: Callable[..., Pair]) -> None:
    pair = make_pair(redis_url, LLM_CONCURRENCY="8", DRAIN_SECONDS="1")
    await pair.whole(1)
    first = pair.workers[0]

    async def stop(_: str) -> None:
        first.signal(signal.SIGTERM)
        pair.start_one()

    jobs = await pair.submit_all("drained", 8)
    gaps = await pair.follow_all(jobs, stop)
    report("drain", gaps)
    assert_right(jobs)
    assert await thread(first.wait) == 0
    assert all(set(modes(job)) <= {"fresh", "continue"} for job in jobs)
