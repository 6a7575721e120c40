"""The users that ``velesio-worker acl`` prints: each can do its part, and nothing of the others'."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import pytest
from redis.exceptions import NoPermissionError

import velesio_worker
from tests.support.llama_chunks import COMPLETION
from tests.support.redis_side import MAX_BYTES, Side, make_side
from tests.support.running import Running, run_here
from tests.support.servers import Topology
from tests.support.text_bench import PATIENCE, READY, Bench, scripted, whole
from velesio_worker.cli.main import main
from velesio_worker.client import Client
from velesio_worker.core.redis_url import Topology as Where
from velesio_worker.core.settings import CacheMode
from velesio_worker.execution.results.images import ImageOutput
from velesio_worker.queue.claims import PART_BYTES
from velesio_worker.queue.connection import check_redis, connect
from velesio_worker.queue.control import Control
from velesio_worker.queue.intake import Arrivals, Intake, read_job
from velesio_worker.queue.lines import Lines
from velesio_worker.queue.rights import Party, rights_of
from velesio_worker.queue.risks import readings, warn_of_risks
from velesio_worker.queue.survey import Survey
from velesio_worker.wire.events import Done
from velesio_worker.wire.jobs import Kind

pytestmark = pytest.mark.anyio
topologies = pytest.mark.topologies
QUEUE: Final = "{llama_queue}"


class Users:
    """The printed users on a Redis, and what was refused to them."""

    def __init__(self, topology: Topology, capsys: pytest.CaptureFixture[str]) -> None:
        self._nodes = topology.nodes
        self._url = topology.url
        assert main(["acl"]) == 0
        printed = capsys.readouterr().out.partition("#")[0]  # what follows is for Sentinels
        lines = printed.splitlines()
        self.passwords: dict[str, str] = {}
        for line in lines:
            words = line.split()
            self.passwords[words[2]] = next(word[1:] for word in words if word.startswith(">"))
            for node in self._nodes:
                node.client.execute_command(*words)
                node.client.execute_command("ACL", "LOG", "RESET")

    def url(self, user: str) -> str:
        url = urlsplit(self._url)
        return self._url.replace(f"{url.scheme}://", f"{url.scheme}://{user}:{self.passwords[user]}@", 1)

    def refused(self) -> list[tuple[str, str]]:
        """What users tried and were not allowed: user, and command or key."""
        found = [entry for node in self._nodes for entry in node.client.acl_log()]
        return [(entry["username"], entry["object"]) for entry in found]

    def remove(self) -> None:
        for node in self._nodes:
            node.client.execute_command("ACL", "DELUSER", *self.passwords)
            node.client.execute_command("ACL", "LOG", "RESET")


@pytest.fixture
def users(
    topology: Topology, redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Users]:
    monkeypatch.setenv("REDIS_URL", redis_url)
    users = Users(topology, capsys)
    yield users
    users.remove()


@pytest.fixture
async def worker(users: Users) -> AsyncIterator[Side]:
    """A worker's Redis side under the worker's user."""
    async with make_side(users.url("worker"), "w1") as side, anyio.create_task_group() as group:
        await side.lease.beat()
        group.start_soon(side.publisher.run)
        yield side
        group.cancel_scope.cancel()


@asynccontextmanager
async def user(users: Users, name: str) -> AsyncGenerator[Any]:
    client = connect(users.url(name), name="velesio-client")
    try:
        yield client
    finally:
        await client.aclose()


@topologies
async def test_a_workers_user_may_do_whatever_a_worker_does(users: Users, worker: Side, commands: Any) -> None:
    redis = worker.link.redis
    await check_redis(redis, users.url("worker"))
    await warn_of_risks(redis, users.url("worker"))
    await readings(redis, users.url("worker"))
    async with scripted() as (double, http):
        bench = Bench(worker, redis, double, http)
        await jobs_end(bench, commands)
        await lost_workers_are_reaped(worker, commands)
        await cancels_are_heard(worker, commands)
        await what_is_wrong_is_put_aside(worker, commands)
    view = await Survey(worker.link, seconds=PATIENCE).look()
    assert view.dead == 2
    worker.fleet.note_job(time.time(), {"job_type": "completion"})
    await worker.fleet.write_notes()
    assert await worker.fleet.waiting(Kind.TEXT) >= 0
    assert await ImageOutput(redis, None, inline_bytes=0).keep_preview("a", b"jpeg") is not None
    assert await worker.leave() >= 0
    assert users.refused() == []


async def jobs_end(bench: Bench, commands: Any) -> None:
    """A job that is streamed, lost and continued; one from the cache; one whose result goes in parts; a second life."""
    bench.counted(2)
    await bench.submit(data={"seed": 1})
    await bench.lose(("start", {"mode": "fresh"}), ("token", {"choices": [{"text": "Once", "index": 0}]}))
    bench.double.answers[COMPLETION] = [whole(" upon")]
    await bench.run()
    assert (await bench.result())["text"] == "Once upon"
    await commands.delete("result:a")
    bench.cache_mode = CacheMode.ALL
    for _ in range(2):
        bench.double.answers[COMPLETION] = [whole("kept")]
        await bench.submit()
        await bench.run()
        await commands.delete("result:a")
    await bench.submit()
    claim = await bench.claim()
    assert await bench.side.closer.done(
        claim.held, Done({"text": "x" * 2 * PART_BYTES, "finish_reason": "stop"}, "stop")
    )
    await bench.submit()
    slot = bench.side.slot()
    payload = await bench.side.slots.take(READY, slot)
    assert payload is not None
    assert await bench.side.admission.admit(slot, payload) is None, "it is over already"


async def lost_workers_are_reaped(side: Side, commands: Any) -> None:
    ready = side.keys.ready(Kind.TEXT)
    slot = side.keys.slot("lost", "text-0", home=ready)
    await side.scripts.beat(side.keys, "lost", 60, {"kinds": "text", "text_state": "ready"}, [slot])
    assert await side.fleet.serves(Kind.TEXT)
    for name, lease in (("lost", 1.0), ("no name", 1.0), ("ghost", time.time() + 10**6)):
        await commands.zadd(side.keys.workers, {name: lease})
    await commands.lpush(slot.key, b"held")
    await commands.lpush(side.keys.only("ghost"), b"named")
    assert await side.reaper.look() == 2
    await side.reaper._connected()  # pyright: ignore[reportPrivateUsage]
    assert await commands.zrange(side.keys.workers, 0, -1) == [b"w1"]
    await commands.delete(ready, "llama_queue")


async def cancels_are_heard(side: Side, commands: Any) -> None:
    running = Running()
    await run_here(side, running, "c", unread_timeout=1)
    control = Control(side.clients.blocking, side.link, jobs=running)
    await commands.set("{result:c}:cancel", 1)
    async with anyio.create_task_group() as group:
        group.start_soon(control.run)
        with anyio.fail_after(PATIENCE):
            while "c" not in running.cancelled:
                await commands.xadd(f"{QUEUE}:control", {"cancel": "c"})
                await anyio.sleep(0.05)
        group.cancel_scope.cancel()


async def what_is_wrong_is_put_aside(side: Side, commands: Any) -> None:
    """No job; one that names a worker; one that cannot be handled."""
    intake = side.keys.slot("w1", "intake")
    sort = Intake(side.slots, side.keys, intake, Arrivals(), max_bytes=10_000, refuse=side.admission.refuse)
    named = {"id": "d", "type": "health_check", "worker": "w1"}
    for payload in (b"no job", json.dumps(named).encode(), json.dumps(named | {"id": "e", "worker": "w3"}).encode()):
        await commands.lpush("llama_queue", payload)
        taken = await side.slots.take("llama_queue", intake)
        assert taken == payload
        await sort._sort(payload)  # pyright: ignore[reportPrivateUsage]
    assert await commands.llen(side.keys.only("w1")) == 1
    await commands.lpush(intake.key, b'{"id": "f"}')
    await side.closer.answer(intake, b'{"id": "f"}', KeyError())


async def test_each_other_user_can_do_its_part_and_nothing_of_the_others(users: Users, commands: Any) -> None:
    await commands.xadd("stream:a", {"event": "done", "data": "{}"}, id="1-0")
    await commands.set("result:a", '{"text": "hi"}')
    acts: dict[str, tuple[Any, ...]] = {
        "push": ("LPUSH", "llama_queue", "x"),
        "read a stream": ("XREAD", "STREAMS", "stream:a", "0"),
        "read a result": ("GET", "result:a"),
        "show itself": ("SET", "{result:a}:reader", "1", "EX", "15"),
        "set the flag": ("SET", "{result:a}:cancel", "1", "EX", "86400"),
        "ring": ("XADD", f"{QUEUE}:control", "*", "cancel", "a"),
        "page through a stream": ("XRANGE", "stream:a", "-", "+"),
        "see who works": ("ZREVRANGE", f"{QUEUE}:workers", "0", "-1"),
        "see a worker": ("HMGET", f"{QUEUE}:worker:w1", "version"),
        "see how long it lives": ("PTTL", f"{QUEUE}:worker:w1"),
        "count": ("LLEN", f"{QUEUE}:text"),
        "count a priority": ("ZCARD", f"{QUEUE}:lines:text:low"),
        "see the next job": ("LINDEX", "llama_queue", "-1"),
    }
    of_nobody: list[tuple[Any, ...]] = [
        ("SET", "result:a", "x"),
        ("GET", "{result:a}:cancel"),
        ("HSET", "{result:a}:job", "attempt", "1"),
        ("HGETALL", "{result:a}:job"),
        ("XADD", "stream:a", "*", "event", "x"),
        ("LPUSH", f"{QUEUE}:text", "x"),
        ("LRANGE", "llama_queue", "0", "-1"),
        ("RPOP", f"{QUEUE}:text"),
        ("LPUSH", f"{QUEUE}:only:w1", "x"),
        ("HSET", f"{QUEUE}:worker:w1", "version", "x"),
        ("HMGET", "{result:a}:job", "attempt"),
        ("HMGET", f"{QUEUE}:slots:w1", "text-0"),
        ("LLEN", f"{QUEUE}:active:w1:text-0"),
        ("DEL", "llama_queue"),
        ("ZCARD", f"{QUEUE}:fair:text:low"),
        ("EVAL", "return 1", "0"),
        ("GET", "prompt_cache:a"),
        ("ZADD", f"{QUEUE}:workers", "1", "x"),
        ("XRANGE", f"{QUEUE}:control", "-", "+"),
        ("KEYS", "*"),
        ("SCAN", "0"),
        ("CONFIG", "GET", "*"),
        ("PUBLISH", "x", "y"),
    ]
    parts = {
        Party.PRODUCER: {"push"},
        Party.READER: {"read a stream", "read a result", "show itself", "page through a stream"},
        Party.CANCELLER: {"set the flag", "ring"},
        Party.GATEWAY: set(acts),
    }
    for party, allowed in parts.items():
        async with user(users, party) as client:
            for name, words in acts.items():
                if name in allowed:
                    await client.execute_command(*words)
                else:
                    with pytest.raises(NoPermissionError):
                        await client.execute_command(*words)
            for words in of_nobody:
                with pytest.raises(NoPermissionError):
                    await client.execute_command(*words)


@topologies
async def test_the_client_does_all_that_a_gateway_does_under_its_user(
    users: Users, worker: Side, commands: Any
) -> None:
    async with Client(users.url("gateway")) as client:
        assert [one.id for one in await client.workers()] == [worker.worker]
        assert (await client.queue_depths()).jobs == 0
        job_id = await client.submit("completion", {"prompt": "hi"}, tenant="acme")
        assert json.loads(await commands.lindex("llama_queue", 0))["tenant"] == "acme"
        await client.cancel(job_id)
        await commands.xadd(f"stream:{job_id}", {"event": "done", "data": "{}"}, id="1-0")
        await commands.set(f"result:{job_id}", '{"text": "hi"}')
        assert [event.event async for event in client.events(job_id)] == ["done"]
        assert await client.result(job_id) == {"text": "hi"}
    assert users.refused() == []


@topologies
async def test_an_operator_sees_moves_and_drops_what_waits(users: Users, worker: Side, commands: Any) -> None:
    for number in range(3):
        payload = json.dumps({"id": f"a{number}", "type": "completion", "tenant": "acme", "data": {"prompt": "x"}})
        slot = worker.slot("intake", home="llama_queue")
        await commands.lpush(slot.key, payload)
        await worker.slots.send_in_line(slot, await read_job(payload.encode(), max_bytes=MAX_BYTES), len(payload))
    await worker.slots.take(f"{QUEUE}:text", worker.slot())
    async with user(users, Party.OPERATOR) as client:
        lines = Lines(client, worker.keys)
        view = await lines.look()
        assert [(line.tenant, line.jobs) for line in (*view.waiting, *view.running)] == [("acme", 2), ("acme", 1)]
        assert await lines.move("acme", "normal", "low", Kind.TEXT) == 2
        assert await lines.drop("acme", "low", Kind.TEXT) == 2
        await client.lpush(f"{QUEUE}:text", "{}")
        assert await lines.move("", "normal", "low", Kind.TEXT) == 1
    assert await commands.llen(f"{QUEUE}:manage") == 2
    assert users.refused() == []


SOURCES: Final = Path(velesio_worker.__file__).parent
_IN_LUA: Final = re.compile(r"redis\.p?call\('(\w+)'")
_IN_PYTHON: Final = re.compile(
    r"(?:\bcommands|_commands|_blocking|\bpipe|\bredis)\.(?!execute|pipeline|aclose|asyncio|exceptions|conf\b)([a-z_]+)[,()]"
)
_CALLED: Final = {"info": "info", "config_get": "config|get", "delete": "del", "script_load": "script|load"}
_OTHER_PARTIES: Final = {"retry", "forget", "move", "drop"}


def used_by_a_worker() -> set[str]:
    """All commands in the scripts that a worker runs, and in its code, whether a test comes by or not."""
    scripts = [path for path in (SOURCES / "queue/scripts").glob("*.lua") if path.stem not in _OTHER_PARTIES]
    used = {found.lower() for path in scripts for found in _IN_LUA.findall(path.read_text("utf-8"))}
    code = [*(SOURCES / "queue").rglob("*.py"), *(SOURCES / "execution").rglob("*.py"), SOURCES / "stream.py"]
    for path in code:
        if path.name not in {"dead.py", "clients.py", "lines.py"}:
            used |= {_CALLED.get(found, found) for found in _IN_PYTHON.findall(path.read_text("utf-8"))}
    return used | {"evalsha", "script|load", "ping", "client|list", "client|setname", "client|setinfo", "hello"}


def test_a_workers_user_has_the_commands_that_the_code_uses_and_no_others() -> None:
    assert set(rights_of(Party.WORKER, "llama_queue").commands) == used_by_a_worker()


def test_another_queues_keys_are_another_users(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QUEUE_NAME", "mine")
    monkeypatch.setenv("REDIS_URL", "redis+sentinel://127.0.0.1:1/service")
    assert main(["acl", "worker", "producer", "--format", "aclfile"]) == 0
    printed = capsys.readouterr().out
    worker, producer, comment, watcher = printed.splitlines()
    assert " ~mine ~{mine}:* " in worker
    assert "llama_queue" not in printed
    assert producer.startswith("user producer on >")
    assert "Sentinel" in comment
    assert "+sentinel|masters" in watcher
    assert main(["acl", "reader", "--rights-only"]) == 0
    assert ">" not in capsys.readouterr().out.splitlines()[0]


def test_the_users_can_be_read_by_a_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis+sentinel://127.0.0.1:1/service")
    assert main(["acl", "producer", "--json"]) == 0
    producer, watcher = json.loads(capsys.readouterr().out)
    assert (producer["user"], producer["sentinel"], watcher["sentinel"]) == ("producer", False, True)
    assert producer["rules"] == rights_of(Party.PRODUCER, "llama_queue", Where.SENTINEL).rules()
    assert len(producer["password"]) == 64
    assert main(["acl", "producer", "--json", "--rights-only"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["password"] is None
