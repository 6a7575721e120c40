"""A worker on a Redis that wants TLS, a user with a password, and gives that user few rights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.processes import MakeWorker
from tests.support.proxies import TLSProxy
from tests.support.servers import RedisServer, wait_until
from tests.support.streams import push, read
from tests.support.tiny import model_path

__all__ = ["model_path"]  # a fixture

pytestmark = pytest.mark.engine
RIGHTS = "~* &* +@all -@admin -@dangerous"


@pytest.fixture
def guarded(own_redis: RedisServer) -> RedisServer:
    """A Redis whose user ``worker`` may neither look at its settings nor list its clients."""
    own_redis.start()
    own_redis.client.execute_command(f"ACL SETUSER worker on >s3cret {RIGHTS}")
    return own_redis


def test_a_worker_needs_no_more_than_a_users_rights_and_speaks_tls(
    guarded: RedisServer, make_worker: MakeWorker, tmp_path: Path
) -> None:
    with TLSProxy(guarded.port, tmp_path) as proxy, guarded.plain() as plain:
        worker = make_worker(REDIS_URL=proxy.url.replace("://", "://worker:s3cret@"))
        worker.wait_for("worker_ready")
        push(plain, "safe", max_tokens=8, stream=True)
        entries = read(plain, "safe", until="done")
        text = "".join(data["choices"][0]["text"] for _, event, data in entries if event == "token")
        assert text == json.loads(plain.get("result:safe"))["text"]
        assert proxy.connections >= 3
        worker.wait_for("redis_settings_unknown")
        assert worker.stop() == 0
        assert "s3cret" not in worker.log_text()


def test_a_right_that_is_missing_ends_a_worker_at_its_start(guarded: RedisServer, make_worker: MakeWorker) -> None:
    guarded.client.execute_command("ACL SETUSER worker -hincrby")
    worker = make_worker(REDIS_URL=guarded.url.replace("://", "://worker:s3cret@"))
    wait_until(
        lambda: "the user may not run hincrby {llama_queue}:doctor, hincrby {result:doctor}:job" in worker.log_text(),
        "it is named",
    )
    assert "velesio-worker acl worker prints the rights" in worker.log_text()
    assert "worker_up" not in worker.log_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("worker:s3cret@", "worker:wrong@"), "refuses the user or password"),
        (("?", "?decode_responses=true&"), "known options: db, username"),
        (("rediss", "redis"), "begins with rediss"),
        (("authority.pem", "another.pem"), "ssl_ca_certs names a file that this user can read"),
    ],
    ids=["a wrong password", "an unknown option", "an option of TLS without TLS", "no such authority"],
)
def test_what_is_wrong_with_the_url_is_said(
    guarded: RedisServer, make_worker: MakeWorker, tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    with TLSProxy(guarded.port, tmp_path) as proxy:
        url = proxy.url.replace("://", "://worker:s3cret@")
        worker = make_worker(REDIS_URL=url.replace(*change))
        wait_until(lambda: said in worker.log_text(), "the worker says what is wrong", limit=100)
        assert "s3cret" not in worker.log_text()
