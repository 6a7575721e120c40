"""redis-cli alone: every entry is printed as it is made, whatever the question has in it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.examples.conftest import EXAMPLES, ChatWorker, program
from tests.support.debian import REDIS_CLI, program_or_skip

pytestmark = pytest.mark.processes
QUESTION = 'Say "yes" or \\ "no",\nplease: $HOME `id` ünd %s'


@pytest.fixture(scope="session")
def redis_cli(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return program_or_skip(REDIS_CLI, pytestconfig, tmp_path_factory)


def test_the_script_prints_the_stream_as_it_grows_and_the_result(
    worker: ChatWorker, redis_url: str, redis_cli: Path
) -> None:
    env = {"REDIS_URL": redis_url, "PATH": f"{redis_cli.parent}:{os.environ['PATH']}"}
    with program([EXAMPLES / "redis-cli.sh", QUESTION], env=env) as process:
        assert process.stdout is not None
        job = worker.take()
        assert job["data"]["messages"] == [{"role": "user", "content": QUESTION.replace("\n", " ")}]
        worker.start(job["id"])
        shown = process.stdout.readline().split(maxsplit=2)
        assert shown[:2] == ["1-0", "start"]  # it is not over yet
        for number in range(1, 151):  # more than one read takes
            worker.token(job["id"], f"1-{number}", f" \\ line {number}\n")
        worker.done(job["id"], "1-151", "All.")
        rest, _ = process.communicate(timeout=60)
    lines = rest.splitlines()
    assert process.returncode == 0, rest
    assert [line.split()[0] for line in lines[:-1]] == [f"1-{number}" for number in range(1, 152)]
    assert json.loads(lines[0].split(maxsplit=2)[2])["choices"][0]["delta"]["content"] == " \\ line 1\n"
    assert lines[-2].split()[1] == "done"
    assert json.loads(lines[-1])["text"] == "All."
