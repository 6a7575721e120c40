from __future__ import annotations

from velesio_worker.engines.models.meter import MEBIBYTE, Meter


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def transfer(*steps: tuple[float, int], total: int | None = 100) -> tuple[Clock, Meter]:
    """A meter that has seen so many MiB after so many seconds."""
    clock = Clock()
    meter = Meter(clock)
    for seconds, done in steps:
        clock.now = 1000 + seconds
        meter.note(done * MEBIBYTE, total and total * MEBIBYTE)
    return clock, meter


def test_how_far_how_fast_and_how_long_still() -> None:
    assert str(transfer((0, 0), (2, 8))[1]) == "  8 %  8 of 100 MiB  4.0 MiB/s  0:23 left"
    assert str(transfer((0, 0), (10, 1), total=1000)[1]).endswith("  2:46:30 left")


def test_what_was_there_before_is_not_taken_for_speed() -> None:
    assert str(transfer((0, 50))[1]) == " 50 %  50 of 100 MiB  0.0 MiB/s"
    assert transfer((0, 50), (2, 52))[1].rate == MEBIBYTE


def test_only_the_last_seconds_count() -> None:
    assert transfer((0, 0), (1, 50), (20, 50), (25, 55))[1].rate == MEBIBYTE


def test_a_new_beginning_is_no_negative_speed() -> None:
    assert transfer((0, 50), (1, 60), (2, 0), (3, 2))[1].rate == 2 * MEBIBYTE


def test_without_a_total_there_is_no_percentage() -> None:
    assert str(transfer((0, 0), (1, 3), total=None)[1]) == "3 MiB  3.0 MiB/s"
    assert str(transfer((0, 0), total=0)[1]) == "0 MiB  0.0 MiB/s"


def test_a_line_is_due_at_the_start_at_each_tenth_and_every_half_minute() -> None:
    clock, meter = transfer((0, 0))
    assert [meter.is_due(), meter.is_due()] == [True, False]
    meter.note(9 * MEBIBYTE, 100 * MEBIBYTE)
    assert not meter.is_due()
    meter.note(10 * MEBIBYTE, 100 * MEBIBYTE)
    assert [meter.is_due(), meter.is_due()] == [True, False]
    clock.now += 29
    assert not meter.is_due()
    clock.now += 1
    assert [meter.is_due(), meter.is_due()] == [True, False]
