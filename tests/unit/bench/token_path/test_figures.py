"""What was measured stands in the tables and plots as it was measured, and what was not is said."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from bench.token_path import figures, tables
from bench.token_path.__main__ import RUNS, read_plan
from bench.token_path.contest import Case, quantile, ratios, read_case, summarise
from bench.token_path.jobs import Asked, per_job
from bench.token_path.plots import Group, bars

SVG = "{http://www.w3.org/2000/svg}"


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314 (our own)


def row(speed: float, **more: Any) -> dict[str, Any]:
    figures_: dict[str, Any] = {
        "tokens": 100,
        "wall": 2.0,
        "late": 1.0,
        "tokens_per_cpu_second": speed,
        "cpu_us": 1e6 / speed,
    }
    figures_ |= {"redis_us": 4.0, "engine_us": 9.0, "faults": [], "p50": 1.0, "p99": 2.0, "max": 3.0}
    return figures_ | more


def case(**systems: dict[str, Any]) -> dict[str, Any]:
    return {"case": "8x40", "streams": 8, "rate": 40.0, "systems": systems}


FIRST = [{"beside": 0, "p50": 4.0, "p99": 9.0, "samples": 40}]
JOB = {"consumers": 8, "jobs_per_second": 390.0, "cpu_us": 2366.0, "commands_per_job": 32.9}
FOUND: dict[str, Any] = {
    "relay": [case(ours=row(30_000, to_floor=0.75), floor=row(40_000, to_floor=1.0))],
    "peers": [case(ours=row(30_000), floor=row(40_000), arq=row(3000, ours_to_it=10.0), saq={"failed": "no wheel"})],
    "delay": {"cases": [case(ours=row(1), direct=row(1, p50=0.5))], "first": FIRST},
    "jobs": [JOB | {"round_trips_per_job": 8.9, "commands": {"evalsha": 6.0, "rare": 0.01}}],
    "real": [{"streams": 1, "worker": 20.5, "direct": 20.9, "ratio": 0.979}],
    "scale": {
        "workers": [
            {"workers": 1, "entries_per_second": 100.0, "entries_per_redis_cpu_second": 500.0, "worker_cpu_us": 14.0},
            {"workers": 2, "entries_per_second": 180.0, "entries_per_redis_cpu_second": 510.0, "worker_cpu_us": 14.1},
        ],
        "memory": {"bytes_per_token": 107.0, "bytes_per_job": 4344.0},
    },
}
HOW = {
    "plan": {"seconds": 6.0, "runs": 3},
    "machine": {"cpu": "one", "cores": 2, "python": "3.11", "load_before": 1.0, "load_after": 2.0},
}


@pytest.mark.parametrize("part", RUNS)
def test_every_part_has_a_table_whose_rows_are_as_wide_as_its_head(part: str) -> None:
    for table in tables.TABLES[part](FOUND[part]).split("\n\n"):
        assert len({line.count("|") for line in table.splitlines()}) == 1


@pytest.mark.parametrize("part", RUNS)
def test_every_part_has_a_plot_that_is_drawn_within_its_frame(part: str) -> None:
    drawn = parsed(figures.PLOTS[part][1](FOUND[part]))
    bars_ = [one for one in drawn.iter(f"{SVG}rect") if float(one.attrib["height"]) > 12]
    assert bars_
    for bar in bars_:
        assert float(bar.attrib["x"]) + float(bar.attrib["width"]) < float(drawn.attrib["width"])
        assert float(bar.attrib["y"]) + float(bar.attrib["height"]) < float(drawn.attrib["height"])


def test_a_ratio_comes_before_the_figures() -> None:
    cells = [cell.strip() for cell in tables.relay(FOUND["relay"]).splitlines()[-1].split("|")]
    assert cells[1:5] == ["8x40", "0.75", "30,000", "40,000"]


def test_a_system_that_was_not_measured_says_why() -> None:
    assert "SAQ | not measured: no wheel" in tables.peers(FOUND["peers"])


def test_streams_that_were_not_whole_are_loud() -> None:
    wrong = [case(ours=row(1, faults=["r0-1: 1 missing, 0 doubled"]), floor=row(1))]
    assert "**1 wrong**: r0-1: 1 missing, 0 doubled" in tables.relay(wrong)


def test_bars_are_as_long_as_their_values() -> None:
    drawn = parsed(bars("x", ["a"], [Group("one", [100]), Group("half", [50])], unit="s"))
    one, half = (float(bar.attrib["width"]) for bar in drawn.iter(f"{SVG}rect"))
    assert one == pytest.approx(2 * half, rel=0.01)


def test_a_step_to_the_right_is_ten_times_as_much_where_a_plot_is_logarithmic() -> None:
    groups = [Group("", [value]) for value in (1, 10, 100)]
    drawn = parsed(bars("x", ["a"], groups, unit="s", logarithmic=True))
    one, ten, hundred = (float(bar.attrib["width"]) for bar in drawn.iter(f"{SVG}rect"))
    assert hundred - ten == pytest.approx(ten - one, abs=0.3)


def test_what_has_no_value_has_no_bar_and_its_name_is_escaped() -> None:
    text = bars('<"x">', ["a", "b"], [Group("<g>", [None, 5])], unit="s")
    drawn = parsed(text)
    assert [bar.attrib["height"] for bar in drawn.iter(f"{SVG}rect")].count("14") == 1
    assert "<g>" not in text
    with pytest.raises(ValueError, match="nothing to draw"):
        bars("x", ["a"], [Group("g", [None])], unit="s")


def test_the_page_is_written_between_its_marks_and_can_be_written_again(tmp_path: Path) -> None:
    page = tmp_path / "speed.md"
    page.write_text("# Speed\n\n" + "".join(f"<!-- {part} -->\n<!-- /{part} -->\n\nkept\n" for part in RUNS))
    found = {part: HOW | {"found": said} for part, said in FOUND.items()}
    written = figures.write(found, page, tmp_path / "figures")
    once = page.read_text()
    assert once.count("kept") == len(RUNS)
    assert "3 interleaved rounds of 6 s" in once
    assert all((tmp_path / link).exists() for link in re.findall(r"\]\((figures/\w+\.svg)\)", once))
    assert figures.write(found, page, tmp_path / "figures") == written
    assert page.read_text() == once


def test_a_page_without_the_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="0 times"):
        figures.put("nothing", "relay", "x")


def test_the_page_of_this_project_has_the_marks_of_all_parts() -> None:
    page = figures.PAGE.read_text()
    for part in RUNS:
        assert figures.put(page, part, "x") != page


def test_a_case_is_streams_and_their_pace() -> None:
    assert read_case("64x40") == Case(64, 40)
    assert read_case("8") == Case(8, 40)
    assert read_case("8x20s") == Case(8, 20, "spread")
    assert read_case("8x20s").name == "8x20 spread"
    for wrong in ("0x40", "8x0", "x", "8xfast"):
        with pytest.raises(ValueError, match=r"."):
            read_case(wrong)


def test_the_99th_percentile_is_what_99_of_100_are_within() -> None:
    assert quantile(range(100), 0.99) == 99
    assert quantile([3, 1, 2], 0.5) == 2
    assert math.isnan(quantile([], 0.5))


def test_ratios_are_taken_round_by_round() -> None:
    rounds = {"a": [{"n": 2.0}, {"n": 9.0}], "b": [{"n": 4.0}, {"n": 3.0}]}
    assert ratios(rounds, "a", "b", "n") == [0.5, 3.0]
    assert ratios(rounds, "a", "nobody", "n") == []


def test_rounds_are_summed_up_by_their_medians_and_all_their_delays() -> None:
    rounds = [row(speed) | {"delays": [speed]} for speed in (1.0, 5.0, 3.0)]
    found = summarise(rounds)
    assert (found["tokens_per_cpu_second"], found["p50"], found["max"], found["rounds"]) == (3.0, 3.0, 5.0, 3)


def test_what_is_asked_while_nothing_runs_and_by_the_benchmark_is_no_jobs() -> None:
    idle = (Asked(0, {"time": 0, "blmove": 10}, 0), Asked(2, {"time": 4, "blmove": 10}, 6))
    before = Asked(10, {"time": 100, "blmove": 10}, 100)
    after = Asked(14, {"time": 128, "blmove": 30, "exists": 50, "config|get": 1, "evalsha": 60}, 193)
    found = per_job(before, after, idle, jobs=20, own_reads=5)
    assert found["commands"] == {"evalsha": 3.0, "time": 1.0, "blmove": 1.0}
    assert found["commands_per_job"] == 5.0
    assert found["round_trips_per_job"] == pytest.approx((93 - 5 - 8) / 20)


def test_the_command_line_knows_its_parts(capsys: pytest.CaptureFixture[str]) -> None:
    plan = read_plan(["relay", "--cases", "8x40,1024x10", "--runs", "1"])
    assert (plan.part, plan.cases, plan.runs) == ("relay", [Case(8, 40), Case(1024, 10)], 1)
    assert read_plan(["jobs"]).counts == [1, 8, 32]
    assert "direct" in read_plan(["peers"]).systems
    for wrong in (["nothing"], ["peers", "--systems", "celery"], ["figures", "--redraw"], ["figures", "--parts", "x"]):
        with pytest.raises(SystemExit):
            read_plan(wrong)
    assert "celery" in capsys.readouterr().err
