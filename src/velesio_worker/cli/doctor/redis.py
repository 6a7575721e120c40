"""Redis: whether it answers, takes what the worker writes, and keeps it; and the queue in it."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

import anyio
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError

from velesio_worker.cli.doctor.findings import MEBIBYTE, CheckReport, mebibytes, parted, unknown_hosts
from velesio_worker.core.redis_url import Topology, parse_redis_url
from velesio_worker.core.secrets import hide_password
from velesio_worker.queue.connection import check_redis as check_server
from velesio_worker.queue.connection import connect
from velesio_worker.queue.keys import Keys
from velesio_worker.queue.lease import LONGEST_LEASE
from velesio_worker.queue.permitted import forbidden
from velesio_worker.queue.remedies import RIGHTS, remedy
from velesio_worker.queue.risks import Reading, readings, risks
from velesio_worker.queue.scripts import Scripts
from velesio_worker.wire.errors import RedisUnusableError
from velesio_worker.wire.jobs import Kind

ANSWER_SECONDS: Final = 3.0
SLOW_SECONDS: Final = 0.02
"""A round trip that takes longer is felt: each claim and each end of a job take some."""

CLOCK_SECONDS: Final = 2.0
FULL: Final = 0.9
_CLOSE_SECONDS: Final = 1.0
_WITH_USER: Final = "redis://USER:PASSWORD@HOST:6379 (redis://:PASSWORD@… for no user)"
_ALLOW: Final = f"let the user do what the worker needs: {RIGHTS} prints the rights"


async def check_redis(report: CheckReport, slow: float = SLOW_SECONDS) -> None:
    """Look at Redis as the worker's own client finds it: a single server, a Sentinel's primary or a Cluster."""
    url = report.settings.redis_url
    if not await _found(url, report):
        return
    redis = connect(url, name="velesio-doctor", socket_timeout=ANSWER_SECONDS)
    try:
        await _look(redis, url, report, slow)
    except (RedisError, RedisUnusableError) as error:
        report.error(*_trouble(error, url), url=hide_password(url))
    finally:
        with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
            await redis.aclose()


async def _found(url: str, report: CheckReport) -> bool:
    where = parse_redis_url(url)
    single = urlsplit(url).hostname if where.topology is Topology.STANDALONE else None
    hosts = {single} if single else {host for host, _ in where.hosts}
    unknown = await unknown_hosts(hosts)
    add = report.error if len(unknown) == len(hosts) else report.warning
    for host, reason in unknown.items():
        hint = " ('redis' is the name of a service in Docker Compose)" if host == "redis" else ""
        add(
            f"the host {host!r} of REDIS_URL={hide_password(url)} is not known ({reason})",
            f"name one that is: REDIS_URL=redis://127.0.0.1:6379 for a Redis on this machine{hint}",
            url=hide_password(url),
        )
    return not hosts or len(unknown) < len(hosts)


def _look_yourself(url: str) -> str:
    """Return the command that shows what Redis itself says."""
    where = parse_redis_url(url)
    host, port = where.hosts[0] if where.hosts else ("", 0)
    match where.topology:
        case Topology.SENTINEL:
            command = f"-h {host} -p {port} SENTINEL GET-MASTER-ADDR-BY-NAME {where.service}"
        case Topology.CLUSTER:
            command = f"-h {host} -p {port} CLUSTER INFO"
        case Topology.STANDALONE:
            socket = urlsplit(url).path if url.startswith("unix:") else ""
            command = f"-s {socket} PING" if socket else f"-u {hide_password(url)} PING"
    return f"see what it says: redis-cli {command}"


def _trouble(error: RedisError | RedisUnusableError, url: str) -> tuple[str, str]:
    """Return what is the matter, and what to do."""
    text, look = str(error), _look_yourself(url)
    if isinstance(error, NoPermissionError):
        return f"Redis at {hide_password(url)} refuses what the worker does ({error})", _ALLOW
    if isinstance(error, RedisError):
        message, advice = parted(remedy(error, url), "")
        return message, f"{advice}; {look}" if advice else look
    if "user or password" in text:
        return text, f"put the right ones into REDIS_URL: {_WITH_USER}"
    if "too old" in text:
        return text, "update Redis, or point REDIS_URL at a newer one"
    message, writes, right = text.rpartition(": write ")
    if writes:
        return message, f"in REDIS_URL, write {right}"
    return (text, look) if "Redis answers" in text else parted(text, look)


async def _look(redis: Redis, url: str, report: CheckReport, slow: float) -> None:
    await check_server(redis, url)
    read = await readings(redis, url)
    _show(read, url, report)
    for reading in read:
        _judge(reading, report, slow)
    for risk in await risks(redis, url):
        report.warning(risk.what, risk.remedy, risk=risk.action, **risk.facts)
    if lacking := await forbidden(redis, Keys(report.settings.queue_name)):
        report.error(f"Redis at {hide_password(url)} {lacking}", _ALLOW, url=hide_password(url))
        return
    await _look_at_queue(redis, report)
    # Whether Redis takes writes: by one that changes nothing, for a key that is not there is not set anew.
    await redis.set(f"{{{report.settings.queue_name}}}:doctor", "", xx=True, px=1)


def _show(read: list[Reading], url: str, report: CheckReport) -> None:
    trip, version = max(reading.round_trip for reading in read), read[0].version
    topology = parse_redis_url(url).topology
    many = f", {len(read)} primaries" if topology is Topology.CLUSTER else ""
    report.ok(
        f"{hide_password(url)} answers in {trip * 1000:.1f} ms{f', version {version}' if version else ''}{many}",
        url=hide_password(url),
        topology=topology.value,
        version=version,
        round_trip_ms=round(trip * 1000, 3),
        servers=[
            {
                "name": reading.name,
                "version": reading.version,
                "round_trip_ms": round(reading.round_trip * 1000, 3),
                "clock_ahead_seconds": None if reading.ahead is None else round(reading.ahead, 3),
                "used_memory": reading.used,
                "maxmemory": reading.limit,
            }
            for reading in read
        ],
    )


def _judge(reading: Reading, report: CheckReport, slow: float) -> None:
    name = reading.name
    if reading.round_trip > slow:
        report.warning(
            f"{name} answers in {reading.round_trip * 1000:.0f} ms: each job waits for it several times",
            "run the worker nearer to Redis, or see what slows Redis down: redis-cli SLOWLOG GET 10",
        )
    if reading.ahead is not None and abs(reading.ahead) > CLOCK_SECONDS:
        off = f"{abs(reading.ahead):.1f} s {'ahead of' if reading.ahead > 0 else 'behind'}"
        report.warning(
            f"the clock of {name} is {off} this machine's: jobs with expires_at expire too early or too late",
            "set both machines' clocks by NTP: timedatectl set-ntp true (timedatectl shows whether they are)",
        )
    if reading.used is not None and reading.limit and reading.used > FULL * reading.limit:
        larger = max(1, 2 * reading.limit // MEBIBYTE)
        report.warning(
            f"{name} uses {mebibytes(reading.used)} of the {mebibytes(reading.limit)} that maxmemory allows: "
            "when it is full it takes no jobs, tokens or results",
            f"redis-cli CONFIG SET maxmemory {larger}mb (and in redis.conf), or lower RESULT_TTL and STREAM_TTL",
        )


async def _look_at_queue(redis: Redis, report: CheckReport) -> None:
    commands: Any = redis
    keys = Keys(report.settings.queue_name)
    leases = await Scripts(redis).leases(keys, LONGEST_LEASE)
    workers = [lease.worker for lease in leases if lease.worker and lease.left > 0]
    lists = {"incoming": keys.incoming, **{kind.value: keys.ready(kind) for kind in Kind}}
    waiting: dict[str, int] = {name: await commands.llen(key) for name, key in lists.items()}
    dead: int = await commands.llen(keys.dead)
    letters = f", dead letters: {dead} (velesio-worker dead list)" if dead else ""
    report.ok(
        f"queue {keys.incoming}: workers that live: {len(workers)}, jobs that wait: {sum(waiting.values())}{letters}",
        queue=keys.incoming,
        workers=workers,
        waiting=waiting,
        dead_letters=dead,
    )
