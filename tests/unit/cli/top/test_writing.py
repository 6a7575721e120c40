"""How figures are written, and which jobs are shown in which order."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import orjson
import pytest

from tests.support.fleets import GPU, job, view, worker
from velesio_worker.cli.top import writing
from velesio_worker.cli.top.arranging import Order, arranged
from velesio_worker.cli.top.watch import JobRow, Picture, Watch
from velesio_worker.client import Waiting

JOBS: Final = [
    JobRow("one", "completion", "w-b", 3.0, 2, 10, 0.5),
    JobRow("two", "txt2img", "w-a", 9.0, 1, 0, None),
    JobRow("Three", "chat_completion", "w-b", 6.0, 1, 99, 0.1),
]


@pytest.fixture
def picture() -> Picture:
    watch = Watch()
    busy = worker("host-1", job("x", tokens=4, ttft=0.25), at=1.0, tokens=0, gpus=(GPU,))
    watch.see(view(busy), 0.0)
    later = replace(busy, details=replace(busy.details, at=2.0, tokens=12), running=3)
    return watch.see(view(later, lost=("host-2",), text=Waiting(3, 75.0), incoming=Waiting(1, 2.0)), 1.0)


@pytest.mark.parametrize(
    ("value", "written"),
    [(None, "-"), (0.04, "0.0s"), (9.94, "9.9s"), (42.4, "42s"), (100, "1m40"), (3599, "59m59"), (3700, "1h01")],
)
def test_times_take_five_characters(value: float | None, written: str) -> None:
    assert writing.seconds(value) == written
    assert len(writing.seconds(10 * 86400)) <= 5


def test_names_are_cut_in_the_middle() -> None:
    assert writing.shortened("host-with-a-long-name-1a2b", 11) == "host-…-1a2b"
    assert [len(writing.shortened("x" * 40, width)) for width in (5, 6, 39)] == [5, 6, 39]
    assert writing.shortened("short", 5) == "short"


def test_a_table_says_all_of_it_in_words(picture: Picture) -> None:
    summary, queues, _, engines, _, jobs, more = writing.lines(picture, "q", picture.jobs)
    assert summary == "q  1 worker, 1 lost  1/4 slots  12.0 tok/s"
    assert queues == "waiting: text 3 (oldest 75s), image 0, incoming 1 (oldest 2.0s)"
    assert engines[1] == ("host-1", "text", "ready", "red", "1/4", "12.0/24G", "87%", "12.0")
    assert engines[2] == ("host-2", "", "lost 0.0s", "", "-", "-", "-", "-")
    assert jobs[1] == ("x", "completion", "host-1", "1.5s", "1", "4", "0.2s")
    assert str(more).startswith("and 2 more jobs")


def test_jobs_of_other_priorities_are_told_apart_within_eighty_columns(picture: Picture) -> None:
    of_text = {"high": Waiting(12, 8.0), "normal": Waiting(100, 75.0), "low": Waiting(888, 70.0)}
    by_priority = {
        "text": of_text,
        "image": {"high": Waiting(0, 0.0), "normal": Waiting(2, 5.0), "low": Waiting(0, 0.0)},
    }
    waiting = {"text": Waiting(1000, 75.0), "image": Waiting(2, 5.0)}
    depths = replace(picture.depths, waiting=waiting, by_priority=by_priority)
    written = writing.queues(replace(picture, depths=depths))
    assert written == "waiting: text 1000 (12 high, 888 low, oldest 75s), image 2 (oldest 5.0s)"
    assert len(written) <= 80
    told = writing.as_json(replace(picture, depths=depths), "q", ())
    assert told["waiting_by_priority"]["text"]["high"] == {"jobs": 12, "oldest_seconds": 8.0}


def test_programs_get_the_same_with_units_in_the_names(picture: Picture) -> None:
    told = orjson.loads(orjson.dumps(writing.as_json(picture, "q", picture.jobs)))
    assert told["tokens_per_second"] == 12.0
    assert told["waiting"]["text"] == {"jobs": 3, "oldest_seconds": 75.0}
    assert told["workers"][0]["gpu_memory_total"] == GPU.total
    assert (told["workers"][1]["state"], told["workers"][1]["engine"]) == ("lost", None)
    assert told["jobs"][0] == {
        "id": "x",
        "type": "completion",
        "worker": "host-1",
        "age_seconds": 1.5,
        "attempt": 1,
        "tokens": 4,
        "ttft_seconds": 0.25,
    }
    assert told["jobs_untold"] == 2


def test_nobody_is_written_too() -> None:
    assert writing.lines(Watch().see(view(), 0.0), "q", []) == [
        "q  0 workers  0/0 slots  - tok/s",
        "waiting: text 0, image 0",
    ]


@pytest.mark.parametrize(
    ("order", "ids"),
    [
        (Order.AGE, ["two", "Three", "one"]),
        (Order.TOKENS, ["Three", "one", "two"]),
        (Order.TTFT, ["one", "Three", "two"]),
        (Order.ATTEMPT, ["one", "two", "Three"]),
        (Order.WORKER, ["two", "one", "Three"]),
        (Order.TYPE, ["Three", "one", "two"]),
    ],
)
def test_jobs_are_sorted(order: Order, ids: list[str]) -> None:
    assert [row.id for row in arranged(JOBS, order)] == ids
    assert arranged(JOBS, order, turned=True)[0] != arranged(JOBS, order)[0]


def test_every_order_has_a_next_one() -> None:
    seen = [Order.AGE]
    while seen[-1].next is not Order.AGE:
        seen.append(seen[-1].next)
    assert seen == list(Order)


@pytest.mark.parametrize(
    ("words", "ids"),
    [("w-b", ["Three", "one"]), ("w-b three", ["Three"]), ("COMPLETION", ["Three", "one"]), ("none", []), (" ", 3)],
)
def test_jobs_are_found_by_words(words: str, ids: list[str] | int) -> None:
    found = [row.id for row in arranged(JOBS, Order.AGE, words=words)]
    assert found == ids if isinstance(ids, list) else len(found) == ids
