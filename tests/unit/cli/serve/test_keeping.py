"""A part that dies is started again, later each time; one that cannot work is not."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import psutil
import pytest

from tests.support.waiting import until
from velesio_worker.cli.serve import keeping
from velesio_worker.cli.serve.keeping import Part
from velesio_worker.wire.errors import VelesioError

pytestmark = [pytest.mark.anyio, pytest.mark.processes]


class Told:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.lines: list[str] = []

    def part(self, code: str) -> Part:
        return Part("the part", [sys.executable, "-c", code], dict, self.said.append, self.lines.append)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    monkeypatch.setattr(keeping, "FIRST_PAUSE", 0.01)


async def test_a_part_that_was_killed_is_another_process_soon_and_ends_with_the_scope() -> None:
    told = Told()
    part = told.part("import time; time.sleep(1000)")
    part.proved = True
    first = second = None
    async with anyio.create_task_group() as group:
        group.start_soon(part.keep)
        await until(lambda: part.pid)
        first = part.pid
        assert first is not None
        psutil.Process(first).kill()
        await until(lambda: part.pid not in {None, first})
        second = part.pid
        group.cancel_scope.cancel()
    assert not psutil.pid_exists(second or 0)
    assert told.said == [
        f"the part is process {first}",
        f"the part (process {first}) was ended by SIGKILL; another one is started in 0.01 s",
        f"the part is process {second}",
    ]


async def test_the_pause_grows_up_to_a_bound_and_begins_anew_after_a_steady_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told, count = Told(), tmp_path / "count"
    monkeypatch.setattr(keeping, "LONGEST_PAUSE", 0.03)
    code = f"p={str(count)!r}; n=len(open(p,'a+').read() or open(p).read()); open(p,'a').write('x'); raise SystemExit("
    part = told.part(f"{code}0 if n == 4 else 7)")
    part.proved = True
    await part.keep()
    assert part.stopped
    pauses = [line.rpartition(" in ")[2] for line in told.said if "another one" in line]
    assert pauses == ["0.01 s", "0.02 s", "0.03 s", "0.03 s"]
    assert told.said[-1].endswith("has ended, as it was asked to")
    monkeypatch.setattr(keeping, "STEADY_SECONDS", 0.0)
    count.unlink()
    await part.keep()
    assert {line.rpartition(" in ")[2] for line in told.said[-9:] if "another one" in line} == {"0.01 s"}


async def test_a_part_that_never_worked_is_given_up_with_its_last_lines() -> None:
    told = Told()
    with pytest.raises(VelesioError, match=r"the part ended with exit code 1. Its last lines:\noh no"):
        await told.part("print('oh no'); raise SystemExit(1)").keep()
    assert sum("another one" in line for line in told.said) == keeping.MOST_FALSE_STARTS - 1


async def test_a_wrong_setting_is_told_at_once() -> None:
    told = Told()
    part = told.part("print('CONTEXT_SIZE=1: wrong'); raise SystemExit(2)")
    part.proved = True
    with pytest.raises(VelesioError, match="CONTEXT_SIZE=1: wrong"):
        await part.keep()
    assert len(told.said) == 1
