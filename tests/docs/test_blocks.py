"""Every command of the manual is run as it stands, or says why it is not."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from tests.docs.pages import PAGES, ROOT, Block, blocks, name
from tests.support.environment import base_environment
from tests.support.processes import WorkerProcess
from tests.support.servers import RedisServer, free_port, wait_until

LANGUAGES: Final = {"sh", "python", "text", "json", "yaml"}
NEEDS: Final = {
    *("docker", "gpu", "runpod", "network", "admin", "checkout", "free-ports", "host", "terminal", "time", "webui"),
}
"""Why a block is not run: what it needs is not here, it takes long, or it stays in the foreground."""

LIMIT: Final = 60
"""How long the blocks of a page may take, in seconds."""

_JOB: Final = re.compile(r'LPUSH llama_queue .*"id": "([^"]+)"')


def _is_run(block: Block) -> bool:
    return block.language in {"sh", "python"} and not {"needs", "covered-by"} & set(block.marks)


_RUN: Final = {page: found for page in PAGES if (found := [block for block in blocks(page) if _is_run(block)])}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_says_its_language_and_a_reason_if_it_is_not_run(page: Path) -> None:
    for block in blocks(page):
        where = f"line {block.line}"
        assert block.language in LANGUAGES, where
        assert set(block.marks) <= {"needs", "session", "covered-by"}, where
        assert block.marks.get("needs", "time") in NEEDS, where
        covering = block.marks.get("covered-by", "tests/docs/test_blocks.py")
        assert covering.startswith("tests/"), where
        assert (ROOT / covering).is_file(), where


def test_the_reasons_are_told_to_whoever_writes_a_page() -> None:
    page = (ROOT / "docs/contribute.md").read_text("utf-8")
    assert not [reason for reason in NEEDS if f"`needs={reason}`" not in page]


@dataclass(slots=True)
class Place:
    """A terminal in the checkout, beside a worker that runs."""

    redis: RedisServer
    environment: dict[str, str]

    def run(self, script: str) -> tuple[int, str]:
        """Run a script until its first command that fails; returns the exit code and the output."""
        with subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as shell:
            try:
                output, _ = shell.communicate(timeout=LIMIT)
            except subprocess.TimeoutExpired:
                os.killpg(shell.pid, signal.SIGKILL)  # what the shell has started goes as well
                output, _ = shell.communicate()
        return shell.returncode, output

    def result(self, job_id: str) -> dict[str, Any]:
        """Wait for the result of a job."""
        key = f"result:{job_id}"
        wait_until(lambda: self.redis.client.exists(key), f"{key} is there")
        return orjson.loads(self.redis.client.get(key))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> Iterator[Place]:
    """A Redis and a worker of the blocks' own, on the queue and the model that the pages name."""
    folder = tmp_path_factory.mktemp("place")
    client = folder / "bin/redis-cli"
    client.parent.mkdir()
    client.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {ROOT}/tests/docs/redis_cli.py "$@"\n')
    client.chmod(0o755)
    with RedisServer(folder / "redis") as redis:
        port = str(free_port())
        known = {
            "REDIS_URL": redis.url,
            "MODEL_PATH": str(model_path),
            "HEALTH_PORT": port,
            "GATEWAY_PORT": str(free_port()),
        }
        worker = WorkerProcess(folder / "worker.log", CONTEXT_SIZE="512", LLM_CONCURRENCY="2", **known)
        try:
            worker.start()
            worker.wait_for("worker_ready")
            path = f"{client.parent}:{base_environment()['PATH']}"
            yield Place(redis, {**base_environment(), **known, "PATH": path, "PYTHONWARNINGS": "error"})
        finally:
            worker.end()


def _script(blocks: list[Block]) -> str:
    """Return the blocks one after the other, as a reader gives them in one terminal."""
    return "".join(
        f"echo '==> line {block.line}'\n"
        + (block.text if block.language == "sh" else f".venv/bin/python - <<'END OF BLOCK'\n{block.text}END OF BLOCK\n")
        for block in blocks
    )


@pytest.mark.engine
@pytest.mark.parametrize("page", _RUN, ids=name)
def test_the_blocks_of_a_page_run_and_their_jobs_succeed(place: Place, page: Path) -> None:
    code, output = place.run(_script(_RUN[page]))
    assert code == 0, output
    for job_id in _JOB.findall("\n".join(block.text for block in _RUN[page])):
        result = place.result(job_id)
        assert "error" not in result, result
