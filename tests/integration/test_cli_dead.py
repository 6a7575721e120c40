"""``velesio-worker dead`` against a real Redis."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as sync_redis

from tests.support.environment import base_environment
from tests.support.forks import fork_server, run_forked
from velesio_worker.cli.main import main

pytestmark = pytest.mark.processes

QUEUE, DEAD = "llama_queue", "{llama_queue}:dead"
SECRET = "schöne Grüße"
JOB = json.dumps(
    {"id": "a1", "type": "chat_completion", "data": {"messages": [{"role": "user", "content": SECRET}]}},
    ensure_ascii=False,
).encode()
REASON = "3 attempts were lost: each time the worker or its engine died"

Bury = Callable[..., None]
Dead = Callable[..., tuple[int, str, str]]


def letter(payload: bytes, reason: str = REASON) -> bytes:
    """A letter as it stands on the wire."""
    fields: dict[str, Any] = {"reason": reason, "at": time.time(), "worker": "gpu1-0a1b2c3d"}
    try:
        fields["payload"] = payload.decode()
    except UnicodeDecodeError:
        fields["payload_base64"] = base64.b64encode(payload).decode()
    return json.dumps(fields).encode()


@pytest.fixture
def redis(redis_url: str) -> Iterator[Any]:
    """A plain redis-py client: bytes in, bytes out."""
    with sync_redis.Redis.from_url(redis_url) as client:  # pyright: ignore[reportUnknownMemberType]
        yield client


@pytest.fixture
def bury(redis: Any) -> Bury:
    def bury(*payloads: bytes, reason: str = REASON) -> None:
        for payload in payloads:
            redis.lpush(DEAD, letter(payload, reason))

    return bury


@pytest.fixture
def dead(redis_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Dead:
    """Run a command; returns its exit code and what it wrote to standard output and error."""
    monkeypatch.setenv("REDIS_URL", redis_url)

    def dead(*arguments: str) -> tuple[int, str, str]:
        code = main(["dead", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return dead


def references(dead: Dead) -> list[str]:
    return [row["reference"] for row in json.loads(dead("list", "--json")[1])]


def test_the_list_has_a_line_for_each_letter_and_no_prompts(bury: Bury, dead: Dead) -> None:
    bury(JOB, b"\xff")
    newest, oldest = references(dead)
    _, output, _ = dead("list")
    first, second = output.splitlines()
    assert first.split()[0] == newest[:12]
    assert second.startswith(f"{oldest[:12]}  2")
    assert second.endswith(f"Z  gpu1-0a1b2c3d  a1  chat_completion  {len(JOB)} B  {REASON}")
    assert SECRET not in output + dead("list", "--json")[1]


def test_an_empty_list_says_so(dead: Dead) -> None:
    assert dead("list") == (0, "no dead letters\n", "")
    assert dead("list", "--json") == (0, "[]\n", "")


def test_the_list_is_limited_and_tells_what_it_leaves_out(bury: Bury, dead: Dead) -> None:
    bury(b"1", b"2", b"3")
    _, output, more = dead("list", "--limit", "2")
    assert len(output.splitlines()) == 2
    assert more == "and 1 older: --limit 3 shows them, too\n"
    assert dead("list", "--limit", "3")[2] == ""


@pytest.mark.parametrize(
    "payload", [b'{"id": "' + b"x" * 10_000 + b'", "type": "' + b"y" * 10_000 + b'"}', b'{"id": ["a"], "type": 7}']
)
def test_a_poisonous_job_spoils_no_line(bury: Bury, dead: Dead, payload: bytes) -> None:
    bury(payload, reason="bad\n\x1b[31mred\x9b \u202egnp.exe" + " very long" * 1000)
    _, output, _ = dead("list")
    assert len(output.splitlines()) == 1
    assert len(output) < 300
    assert output.rstrip("\n").isprintable()
    (row,) = json.loads(dead("list", "--json")[1])
    assert row["id"] is None
    assert len(row["type"] or "") <= 20


def test_a_letter_is_shown_with_its_job(bury: Bury, dead: Dead) -> None:
    bury(JOB)
    (reference,) = references(dead)
    code, output, _ = dead("show", reference[:6].upper())
    assert code == 0
    assert f"reference  {reference}\n" in output
    assert f"reason     {REASON}\n" in output
    head, _, payload = output.partition("\n\n")
    assert f"size       {len(JOB)} bytes" in head
    assert json.loads(payload) == json.loads(JOB)
    whole = json.loads(dead("show", reference, "--json")[1])
    assert (whole["reference"], whole["payload"]) == (reference, JOB.decode())


@pytest.mark.parametrize(
    "payload", [b"\x1b]0;owned\x07 \xff", b'{"a": "\\u009b31m"}', b'{"a":' * 1000, b"[" * 400 + b"]" * 400]
)
def test_a_poisonous_job_is_shown_without_harm(bury: Bury, dead: Dead, payload: bytes) -> None:
    bury(payload)
    _, output, _ = dead("show", references(dead)[0])
    assert output.replace("\n", "").isprintable()


def test_what_no_worker_wrote_is_shown_as_it_is(redis: Any, dead: Dead) -> None:
    redis.lpush(DEAD, b"garbage \xff")
    (reference,) = references(dead)
    assert "garbage \\xff" in dead("show", reference)[1]
    assert json.loads(dead("show", reference, "--json")[1]) == {"reference": reference, "letter": "garbage \\xff"}
    code, output, error = dead("show", reference, "--payload")
    assert (code, output) == (1, "")
    assert "holds no job" in error


@pytest.mark.parametrize("payload", [JOB, b"\xff\x00\r\n", b""])
def test_a_payload_comes_out_byte_by_byte(
    bury: Bury, dead: Dead, redis_url: str, tmp_path: Path, payload: bytes
) -> None:
    bury(payload)
    out, err = tmp_path / "out", tmp_path / "err"
    words = ("dead", "show", references(dead)[0], "--payload")
    process = fork_server().start(base_environment() | {"REDIS_URL": redis_url}, out, *words, err=err)
    assert (process.wait(60), out.read_bytes(), err.read_bytes()) == (0, payload, b"")


def test_a_reader_that_has_seen_enough_gets_no_traceback(bury: Bury, dead: Dead, redis_url: str) -> None:
    bury(b"x" * 1_000_000)
    command = [sys.executable, "-m", "velesio_worker", "dead", "show", references(dead)[0], "--payload"]
    environment = base_environment() | {"REDIS_URL": redis_url}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""


def test_a_cut_job_is_said_to_be_one(redis: Any, dead: Dead) -> None:
    redis.lpush(DEAD, json.dumps({"reason": "large", "at": 1, "worker": "w", "payload": "head", "bytes": 5000}))
    (reference,) = references(dead)
    assert dead("show", reference, "--payload") == (0, "head", "only 4 of the job's 5000 bytes were kept\n")
    assert "size       5000 bytes, of which the first 4 were kept" in dead("show", reference)[1]
    assert "4.9 KiB" in dead("list")[1]
    assert dead("retry", reference)[0] == 1


def test_a_job_is_put_back_once(redis: Any, bury: Bury, dead: Dead) -> None:
    bury(JOB)
    redis.set("result:a1", b'{"error": "lost", "code": "worker_lost"}')
    (reference,) = references(dead)
    assert dead("retry", reference) == (0, f"{reference[:12]}  job a1 is back in the queue\n", "")
    code, output, error = dead("retry", reference)
    assert (code, output) == (1, "")
    assert error == f"error: no dead letter has the reference {reference}: see velesio-worker dead list\n"
    assert redis.lrange(QUEUE, 0, -1) == [JOB]
    assert not redis.exists("result:a1", DEAD)


def test_what_cannot_be_put_back_is_told_and_ends_with_1(redis: Any, bury: Bury, dead: Dead) -> None:
    bury(JOB, b"{}")
    code, output, error = dead("retry", "--all")
    assert (code, output) == (1, "1 put back, 1 refused\n")
    assert error.startswith(f"{references(dead)[0][:12]}  refused: it would come straight back (no id")
    assert redis.lrange(QUEUE, 0, -1) == [JOB]
    assert dead("drop", "--all") == (0, "1 dropped\n", "")
    assert dead("retry", "--all") == (0, "0 put back, 0 refused\n", "")


def test_what_is_done_with_letters_is_told_to_programs(bury: Bury, dead: Dead) -> None:
    bury(JOB, b"{}")
    bad, good = references(dead)
    code, output, _ = dead("retry", "--all", "--json")
    told = json.loads(output)
    assert (code, told["retried"]) == (1, [{"reference": good, "id": "a1"}])
    assert [(each["reference"], "it would come straight back" in each["error"]) for each in told["refused"]] == [
        (bad, True)
    ]
    assert json.loads(dead("drop", bad, "--json")[1]) == {"dropped": 1}
    assert json.loads(dead("drop", "--all", "--json")[1]) == {"dropped": 0}


def test_one_job_that_is_put_back_is_told_to_programs(bury: Bury, dead: Dead) -> None:
    bury(JOB)
    (reference,) = references(dead)
    expected = {"retried": [{"reference": reference, "id": "a1"}], "refused": []}
    assert json.loads(dead("retry", reference, "--json")[1]) == expected


def test_the_shell_completes_references(bury: Bury, dead: Dead, redis_url: str) -> None:
    bury(b"1", b"2", b"3", reason="$(touch /tmp/x) `id` [/red]\x1b[2J")
    shown = [reference[:12] for reference in references(dead)]
    for words, expected in {"": shown, shown[1][:4]: [shown[1]], "zz": []}.items():
        for address, found in {redis_url: expected, "redis://127.0.0.1:1": []}.items():
            env = base_environment() | {
                "REDIS_URL": address,
                "_VELESIO_WORKER_COMPLETE": "complete_bash",
                "COMP_WORDS": f"velesio-worker dead show {words}",
                "COMP_CWORD": "3",
            }
            assert run_forked(env) == (0, "".join(f"{one}\n" for one in found) or "\n", "")


def test_a_letter_is_dropped(redis: Any, bury: Bury, dead: Dead) -> None:
    bury(b"1", b"2")
    newest, oldest = references(dead)
    assert dead("drop", oldest) == (0, f"{oldest[:12]}  dropped\n", "")
    assert references(dead) == [newest]
    assert not redis.exists(QUEUE)


def test_the_queue_is_the_one_of_the_settings(redis: Any, dead: Dead, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_NAME", "other")
    redis.lpush("{other}:dead", letter(JOB))
    assert dead("retry", "--all")[0] == 0
    assert redis.lrange("other", 0, -1) == [JOB]
