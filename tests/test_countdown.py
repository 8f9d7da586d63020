"""How far a sweep is, from the runs that ended and those that are planned."""

import dataclasses
import sys

import pytest

from bench.study.plan_file import PlannedRun
from bench.sweep import countdown
from bench.sweep.countdown import Countdown
from bench.sweep.expansion import PlannedCell

NUMBERS = range(4)


@pytest.fixture
def cells(compose_run, tmp_path):
    """Four runs, of which the last takes twice the steps, and one that waits for its learning rate."""
    found = []
    for seed in NUMBERS:
        steps = 2000 if seed == NUMBERS[-1] else 1000
        overrides = (f"seed={seed}", f"train.max_steps={steps}")
        run = compose_run("method=hu", "measure=none", "score.limit=1", f"results_dir={tmp_path}", *overrides)
        found.append(PlannedCell(PlannedRun("run", (), overrides, run.run_id), overrides, run))
    waits = PlannedRun("tuned", (), ("method=hu",), None)
    return [*found, PlannedCell(waits, ("method=hu",), None)]


def test_what_is_left_is_estimated_from_the_work_of_what_has_ended(cells):
    count = Countdown(now=0.0)
    assert count.ended(cells[0].run, cells, now=60.0) == "1 of 5 runs ended in 1 min, about 5 min left"
    assert count.ended(cells[1].run, cells, now=120.0) == "2 of 5 runs ended in 2 min, about 4 min left"
    count.ended(cells[2].run, cells, now=180.0)
    # Two thirds of the time went by for the first three runs, of which the unknown one may be any.
    assert count.ended(cells[3].run, cells, now=300.0) == "4 of 5 runs ended in 5 min, about 1 min left"
    assert count.ended(cells[3].run, cells[:4], now=300.0) == "4 of 4 runs ended in 5 min"


def test_a_run_that_is_planned_twice_counts_once(cells):
    twice = [*cells[:2], dataclasses.replace(cells[1], planned=dataclasses.replace(cells[1].planned, stage="tuned"))]
    assert Countdown(now=0.0).ended(cells[0].run, twice, now=30.0) == "1 of 2 runs ended in 30 s, about 30 s left"


def test_hours_are_told_apart_from_minutes(cells):
    assert "ended in 2 h 5 min" in Countdown(now=0.0).ended(cells[0].run, cells, now=7500.0)


def test_a_log_gets_a_line_a_minute_and_a_terminal_one_line_that_is_written_over(monkeypatch, capsys):
    clock = iter([0.0, 10.0, 61.0, 61.0])
    monkeypatch.setattr(countdown.time, "monotonic", lambda: next(clock))
    count = Countdown()
    count.show("after ten seconds")
    count.show("after a minute")
    assert capsys.readouterr().out == "after a minute\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    count.show("at once")
    assert capsys.readouterr().out == "at once\x1b[K\r"
