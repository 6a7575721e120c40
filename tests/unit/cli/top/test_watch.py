"""What is made of looks at the fleet: rates, ages, and who was lost."""

from __future__ import annotations

from dataclasses import replace

from tests.support.fleets import GPU, LEASE, engine, job, view, worker
from velesio_worker.cli.top.watch import LOST, LOST_SECONDS, SILENT, STOPPING, Picture, Watch
from velesio_worker.client import Details


def test_a_rate_is_of_the_workers_own_count_and_clock() -> None:
    watch = Watch()
    assert watch.see(view(worker("a", job("x"), at=100.0, tokens=10)), 1.0).rate is None
    assert not watch.moved
    picture = watch.see(view(worker("a", job("x"), at=102.0, tokens=30)), 1.5)  # looked at half a second later
    assert (picture.engines[0].rate, picture.rate) == (10.0, 10.0)
    assert watch.moved
    again = watch.see(view(worker("a", job("x"), at=102.0, tokens=30)), 2.5)  # nothing new was told
    assert again.rate == 10.0


def test_a_rate_is_of_the_last_seconds_alone() -> None:
    watch, picture = Watch(), Picture()
    for second in range(20):
        picture = watch.see(view(worker("a", at=100.0 + second, tokens=second * (100 if second < 10 else 101))), second)
    idle = 19 * 101
    for second in range(20, 27):
        picture = watch.see(view(worker("a", at=100.0 + second, tokens=idle)), second)
    assert picture.rate == 0.0


def test_a_count_or_a_clock_that_goes_back_is_a_new_beginning() -> None:
    watch, picture = Watch(), Picture()
    for at, tokens in ((100.0, 50), (101.0, 60), (102.0, 5)):
        picture = watch.see(view(worker("a", at=at, tokens=tokens)), at)
    assert picture.rate is None
    assert watch.see(view(worker("a", at=50.0, tokens=6)), 103.0).rate is None


def test_a_worker_that_tells_no_tokens_has_no_rate_and_is_not_waited_for() -> None:
    watch = Watch()
    old = replace(worker("a"), details=Details())
    assert watch.see(view(old), 1.0).rate is None
    assert watch.moved


def test_ages_go_on_between_two_beats_whatever_the_workers_clock_says() -> None:
    watch = Watch()
    told = view(worker("a", job("x", since=1_000_000.0, tokens=3, ttft=0.25), at=1_000_002.0))
    assert watch.see(told, 50.0).jobs[0].age == 2.0
    row = watch.see(told, 51.5).jobs[0]
    assert (row.age, row.worker, row.tokens, row.ttft) == (3.5, "a", 3, 0.25)


def test_jobs_that_are_not_told_one_by_one_are_counted() -> None:
    busy = replace(worker("a", job("x")), running=300)
    assert Watch().see(view(busy), 1.0).untold == 299


def test_a_worker_that_misses_beats_is_silent_and_then_lost_for_a_while() -> None:
    watch = Watch()
    watch.see(view(worker("a", job("x"))), 1.0)
    assert watch.see(view(worker("a", lease=LEASE / 2)), 2.0).engines[0].state == SILENT
    picture = watch.see(view(lost=("a",)), 3.0)
    (row,) = picture.engines
    assert (row.state, row.gone, row.model, picture.workers, picture.lost) == (LOST, 0.0, "red", 0, 1)
    assert picture.jobs == ()
    assert watch.see(view(), 10.0).engines[0].gone == 7.0  # others have put its jobs back
    assert watch.see(view(), 3.5 + LOST_SECONDS).engines == ()


def test_one_that_was_lost_before_anybody_looked_is_shown_as_long_as_redis_has_it() -> None:
    watch = Watch()
    assert watch.see(view(lost=("z",)), 1.0).engines[0].state == LOST
    assert watch.see(view(), 2.0).engines == ()


def test_a_worker_that_comes_back_is_no_longer_lost() -> None:
    watch, picture = Watch(), Picture()
    for at, look in enumerate((view(worker("a")), view(lost=("a",)), view(worker("a", at=3.0)))):
        picture = watch.see(look, at)
    assert [row.state for row in picture.engines] == ["ready"]


def test_one_that_ends_in_good_order_is_stopping_and_then_no_loss() -> None:
    watch = Watch()
    assert watch.see(view(worker("a", stage="stopping")), 1.0).engines[0].state == STOPPING
    assert watch.see(view(), 2.0).engines == ()


def test_each_engine_has_a_row_and_the_first_the_gpus() -> None:
    engines = {"text": engine(), "image": engine("failed", model=None, default=None, slots=1, reason="no folder")}
    first, second = Watch().see(view(worker("a", engines=engines, gpus=(GPU, GPU))), 1.0).engines
    assert (first.gpu_used, first.gpu_total, first.gpu_use) == (2 * GPU.used, 2 * GPU.total, 87)
    assert (second.kind, second.state, second.model, second.reason) == ("image", "failed", "", "no folder")
    assert (second.gpu_used, second.first) == (None, False)
    bare = Watch().see(view(worker("b", engines={}, stage="starting")), 1.0).engines
    assert [row.state for row in bare] == ["starting"]


def test_trouble_keeps_what_was_seen_last() -> None:
    watch = Watch()
    before = watch.see(view(worker("a", job("x"))), 1.0)
    after = watch.fail("Redis is away")
    assert (after.engines, after.jobs, after.trouble) == (before.engines, before.jobs, "Redis is away")
    assert watch.see(view(worker("a")), 2.0).trouble == ""
