"""How far a WebUI is: forward only, and at its end only when it is."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velesio_worker.engines.webui.api import state_of
from velesio_worker.engines.webui.rounds import Course

TRANSCRIPTS: Final = Path(__file__).parents[5] / "shared" / "sdapi-transcripts"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def poll(step: Any, steps: Any, number: Any = 0, count: Any = 1, progress: float = 0.5) -> dict[str, Any]:
    state = {"job_no": number, "job_count": count, "sampling_step": step, "sampling_steps": steps}
    return {"progress": progress, "eta_relative": 1e6, "state": state}


def steps_of(course: Course, *polls: dict[str, Any]) -> list[int]:
    return [position["step"] for one in polls if (position := course.moved(one)) is not None]


def check(positions: list[dict[str, Any]], steps: int) -> None:
    """Progress goes forward, and not to its end."""
    for one in positions:
        assert 0 < one["step"] <= one["steps"] == steps
        assert 0 < one["fraction"] < 1
        assert one["eta"] is None or one["eta"] >= 0
        assert json.dumps(one, allow_nan=False)
    for before, after in pairwise(positions):
        assert before["step"] < after["step"]
        assert before["fraction"] <= after["fraction"]


def test_steps_are_told_once_each() -> None:
    assert steps_of(Course(4, 1), *(poll(step, 4) for step in (0, 1, 1, 2, 2, 3, 3))) == [1, 2, 3]


@pytest.mark.parametrize("steps", [7, 20, 29, 100, 150])
def test_every_step_is_told_with_its_number(steps: int) -> None:
    polls = [poll(step, steps) for step in range(1, steps + 1)]
    assert steps_of(Course(steps, 1), *polls) == list(range(1, steps + 1))


@pytest.mark.parametrize("rounds", [2, 3, 7])
def test_steps_are_counted_over_all_rounds(rounds: int) -> None:
    polls = [poll(step, 5, number, rounds) for number in range(rounds) for step in range(5)]
    assert steps_of(Course(5, rounds), *polls) == list(range(1, 5 * rounds))


def test_what_the_request_before_left_counts_for_nothing() -> None:
    assert steps_of(Course(30, 1), poll(4, 4, 0, -1), poll(4, 4, 1, 0), poll(0, 30), poll(1, 30)) == [1]


def test_the_pause_while_it_decodes_is_no_step_back() -> None:
    assert steps_of(Course(4, 1), poll(3, 4), poll(0, 4), poll(0, 0, 0, 0), poll(0, 4, progress=0.0)) == [3]


def test_a_webui_that_makes_fewer_or_more_steps_is_as_far_as_it_says() -> None:
    assert steps_of(Course(20, 1), poll(5, 10), poll(9, 10)) == [10, 18]
    assert steps_of(Course(10, 1), poll(10, 20, 0, 2), poll(20, 20, 0, 2), poll(10, 20, 1, 2)) == [2, 5, 7]


def test_an_image_to_begin_from_has_fewer_steps_to_sample() -> None:
    assert steps_of(Course(20, 1), *(poll(step, 15) for step in range(16)))[-1] == 20


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        "",
        {},
        {"state": None},
        {"state": []},
        poll(None, 4),
        poll("1", "4"),
        poll(1, 0),
        poll(1, -4),
        poll(-1, 4),
        poll(1, 4, -1),
        poll(1, 4, 0, -1),
        poll(0.5, 4),
    ],
)
def test_what_cannot_be_understood_is_no_progress(answer: Any) -> None:
    assert Course(4, 1).moved(answer) is None


def test_the_end_is_all_the_steps_and_nothing_left() -> None:
    assert Course(20, 2).end() == {"stage": "sampling", "step": 40, "steps": 40, "fraction": 1.0, "eta": 0.0}


def test_what_is_left_is_estimated_from_the_steps_so_far() -> None:
    clock = Clock()
    course = Course(10, 1, clock=clock)
    first = course.moved(poll(1, 10))
    assert first is not None
    assert first["eta"] is None, "one step tells nothing"
    clock.now += 2
    second = course.moved(poll(2, 10))
    assert second is not None
    assert second["eta"] == pytest.approx(16)
    clock.now += 2
    third = course.moved(poll(3, 10))
    assert third is not None
    assert third["eta"] == pytest.approx(15.4), "smoothed: 16 and a third of the way to 14"


def test_getting_ready_is_not_taken_for_slow_steps() -> None:
    clock = Clock()
    course = Course(10, 1, clock=clock)
    clock.now += 500
    assert course.moved(poll(1, 10)) is not None
    clock.now += 1
    second = course.moved(poll(2, 10))
    assert second is not None
    assert second["eta"] == pytest.approx(8)


NUMBERS: Final = st.integers(-2, 40) | st.none() | st.booleans() | st.floats(allow_nan=False)
POLLS: Final = st.builds(poll, NUMBERS, NUMBERS, st.integers(-1, 6) | NUMBERS, st.integers(-1, 5) | NUMBERS)


@given(st.integers(1, 150), st.integers(1, 16), st.lists(st.tuples(POLLS, st.floats(0, 100)), max_size=30))
def test_progress_never_goes_back_whatever_the_polls_say(
    steps: int, rounds: int, polls: list[tuple[dict[str, Any], float]]
) -> None:
    clock = Clock()
    course = Course(steps, rounds, clock=clock)
    positions: list[dict[str, Any]] = []
    for one, seconds in polls:
        clock.now += seconds
        position = course.moved(one)
        if position is not None:
            positions.append(position)
    check(positions, steps * rounds)
    assert course.end()["fraction"] == 1


@pytest.mark.skipif(not TRANSCRIPTS.is_dir(), reason="the transcripts are not there")
@pytest.mark.parametrize(("name", "steps", "rounds"), [("single", 30, 1), ("niter2", 15, 2), ("hires", 10, 1)])
def test_a_real_webuis_progress_is_told_step_by_step(name: str, steps: int, rounds: int) -> None:
    polls = json.loads((TRANSCRIPTS / f"progress_seq_{name}.json").read_text())
    clock = Clock()
    course = Course(steps, rounds, clock=clock)
    positions: list[dict[str, Any]] = []
    for seconds, progress, _, number, count, step, of, *_ in polls:
        clock.now = 100 + seconds
        position = course.moved(poll(step, of, number, count, progress))
        if position is not None:
            positions.append(position)
    check(positions, steps * rounds)
    assert len(positions) >= steps * rounds * 0.8
    assert positions[-1]["fraction"] >= 0.9
    took = polls[-1][0] - polls[0][0]
    assert all(one["eta"] is None or one["eta"] < 2 * took for one in positions), "no wild estimates"


def test_a_state_is_read_where_there_is_one() -> None:
    assert state_of({"state": {"interrupted": True}}) == {"interrupted": True}
    others: list[Any] = [None, [], {}, {"state": 7}]
    assert [state_of(other) for other in others] == [{}, {}, {}, {}]
