"""Workers under the user that ``velesio-worker acl`` prints: nothing is refused to them, whatever happens."""

from __future__ import annotations

import json
import signal
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.processes import MakeWorker
from tests.support.servers import RedisServer, wait_until
from tests.support.streams import LONG, push, read, result
from tests.support.tiny import brisk_model_path as model_path
from velesio_worker.queue.rights import Party, rights_of

__all__ = ["model_path"]  # a fixture

pytestmark = pytest.mark.engine


@contextmanager
def guarded(server: RedisServer) -> Generator[str]:
    """The URL of a worker's user."""
    rules = rights_of(Party.WORKER, "llama_queue").rules()
    server.client.execute_command("ACL", "SETUSER", "worker", "on", ">s3cret", *rules)
    yield server.url.replace("://", "://worker:s3cret@")
    assert [(entry["username"], entry["object"]) for entry in server.client.acl_log()] == []


def push_long(plain: Any, job_id: str) -> None:
    plain.lpush("llama_queue", json.dumps({"id": job_id, "type": "completion", "data": LONG}))


def alive(plain: Any) -> list[str]:
    return plain.zrange("{llama_queue}:workers", 0, -1)


def test_two_workers_do_all_that_they_do_with_the_printed_rights(
    own_redis: RedisServer, make_worker: MakeWorker
) -> None:
    own_redis.start()
    with guarded(own_redis) as url, own_redis.plain() as plain:
        first = make_worker(REDIS_URL=url, LEASE_SECONDS="4", JOB_TYPES="completion,health_check,tokenize")
        first.wait_for("worker_ready")
        (name,) = alive(plain)
        push(plain, "main", max_tokens=8, temperature=0, stream=True)
        read(plain, "main", until="done")
        push(plain, "cached", max_tokens=8, temperature=0, stream=True)
        read(plain, "cached", until="done")
        assert result(plain, "cached")["cached"] is True
        push_long(plain, "long")
        read(plain, "long", until="token")
        plain.set("{result:long}:cancel", 1, ex=86400)
        plain.xadd("{llama_queue}:control", {"cancel": "long"})
        read(plain, "long", until="done")
        assert result(plain, "long")["finish_reason"] == "cancelled"
        plain.lpush("llama_queue", "no job", f'{{"id": "only", "type": "health_check", "worker": "{name}"}}')
        read(plain, "only", until="done")
        push(plain, "refused", job_type="unload_models")
        read(plain, "refused", until="error")
        refused = result(plain, "refused")
        assert (refused["code"], "JOB_TYPES" in refused["error"]) == ("bad_job", True)
        push_long(plain, "lost")
        read(plain, "lost", until="token")
        first.signal(signal.SIGKILL)
        second = make_worker(REDIS_URL=url, LEASE_SECONDS="4")
        second.wait_for("worker_reaped")
        read(plain, "lost", until="done")
        assert second.stop() == 0
        assert alive(plain) == []
        assert plain.llen("{llama_queue}:dead") == 1


def test_a_worker_that_lacks_a_right_ends_with_one_line_that_says_so(
    own_redis: RedisServer, make_worker: MakeWorker
) -> None:
    own_redis.start()
    rules = [rule for rule in rights_of(Party.WORKER, "llama_queue").rules() if rule != "+zrangebyscore"]
    own_redis.client.execute_command("ACL", "SETUSER", "worker", "on", ">s3cret", *rules)
    worker = make_worker(REDIS_URL=own_redis.url.replace("://", "://worker:s3cret@"))
    wait_until(lambda: worker.process is not None and worker.process.poll() is not None, "the worker ends", limit=90)
    assert worker.wait() == 1
    said = [line for line in worker.log_text().splitlines() if "velesio-worker acl worker" in line]
    assert len(said) == 1
    assert "Traceback" not in worker.log_text()


def test_a_slot_that_is_another_queues_is_left_alone_and_ends_nobody(
    own_redis: RedisServer, make_worker: MakeWorker
) -> None:
    own_redis.start()
    with guarded(own_redis) as url, own_redis.plain() as plain:
        worker = make_worker(REDIS_URL=url)
        worker.wait_for("worker_ready")
        plain.lpush("{other_queue}:secret", "job")
        plain.hset("{llama_queue}:slots:fake", "{other_queue}:secret", "{llama_queue}:loot")
        plain.zadd("{llama_queue}:workers", {"fake": 1})
        worker.wait_for("worker_reaped")
        push(plain, "after", max_tokens=2)
        read(plain, "after", until="done")
        assert plain.lrange("{other_queue}:secret", 0, -1) == ["job"]
        assert not plain.exists("{llama_queue}:loot")
        assert worker.stop() == 0
