"""Runs that stop at a step and go on later: nothing is trained twice, and no bit is another."""

import os
import signal
from types import SimpleNamespace

import pytest
from conftest import SHORT, composed_run
from faults.harness import assert_same

from bench.run import run
from bench.runs import job
from bench.runs.attempt import Attempt
from bench.runs.folder import RunFolder
from bench.runs.progress import Progress, progress
from bench.runs.record import CURVE, read_record, read_rows
from bench.study.plan_file import RUN, PlannedRun
from bench.study.status import status, text
from bench.sweep import guard
from bench.sweep.expansion import PlannedCell
from models import tiny_bert, word_tokenizer

GRID = ("train.max_steps=8", "train.eval_steps=4", "measure.alignment_steps=3")


@pytest.fixture
def cell(tmp_path):
    """Overrides -> a cell of this test's results."""
    return lambda *overrides: composed_run(*SHORT, *GRID, f"results_dir={tmp_path / 'results'}", *overrides)


def done(cfg):
    """Does a cell, or as much of it as it is to do; returns how it ended, and the steps that it trained."""
    trained, step = [], Attempt.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Attempt, "step", lambda self, number, *rest: (trained.append(number), step(self, number, *rest)))
        return job.execute(cfg, run, "[1/1]"), trained


@pytest.fixture(scope="module")
def dropping(tmp_path_factory):
    """An encoder with dropout, whose draws an evaluation must not move."""
    folder = tmp_path_factory.mktemp("dropping")
    tiny_bert(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2).bert.save_pretrained(folder)
    word_tokenizer("encoder").save_pretrained(folder)
    return ("task=glue_tiny", "task.train=[acceptability_tiny]", "task.score=[acceptability_tiny]", "model=local",
            f"model.path={folder}")  # fmt: skip


@pytest.mark.parametrize("method", ["hu", "lora_sb"])
def test_a_run_that_stops_twice_trains_each_step_once_and_ends_with_the_same_bits(cell, tmp_path, dropping, method):
    of_encoder = dropping if method == "hu" else ()
    alone = cell(f"method={method}", *of_encoder, f"results_dir={tmp_path / 'alone'}")
    assert done(alone) == ("completed", [1, 2, 3, 4, 5, 6, 7, 8])
    rows = read_rows(RunFolder.of(alone).path / CURVE)

    def to(step):
        return cell(f"method={method}", *of_encoder, *([f"run.stop_at_step={step}"] if step else []))

    folder = RunFolder.of(to(None))
    assert done(to(3)) == ("stopped", [1, 2, 3])  # where no eval loss is due
    assert folder.record is None
    at_three = progress(folder).eval_loss
    assert progress(folder) == Progress(3, {3: at_three})
    assert done(to(4)) == ("stopped", [4])  # where one is due
    assert progress(folder) == Progress(4, {3: at_three, 4: rows[3]["eval_loss"]})
    assert done(to(None)) == ("completed", [5, 6, 7, 8])
    assert_same(RunFolder.of(alone).path, folder.path)
    assert progress(folder) == Progress(8, {3: at_three, 4: rows[3]["eval_loss"], 8: rows[7]["eval_loss"]})
    assert [one["from_step"] for one in read_record(folder.path).attempts] == [0, 3, 4]


def test_the_step_is_no_part_of_a_runs_identity(cell):
    assert cell("method=hu", "run.stop_at_step=3").run_id == cell("method=hu").run_id


def test_a_step_beyond_the_last_is_the_whole_run_and_one_already_passed_is_nothing_to_do(cell, capsys):
    at = {step: cell("method=hu", f"run.stop_at_step={step}", "train.max_steps=4") for step in (1, 2, 4, 9)}
    assert done(at[2]) == ("stopped", [1, 2])
    assert done(at[2]) == ("stopped", [])
    assert done(at[1]) == ("stopped", [])
    said = capsys.readouterr().out.splitlines()
    assert said[-2].endswith(f"stopped at step 2 of 4, eval loss {progress(RunFolder.of(at[2])).eval_loss:.3f}")
    assert said[-1].endswith("is at step 2 of 4 already, beyond run.stop_at_step=1")
    assert done(at[9]) == ("completed", [3, 4])
    assert done(at[4]) == done(at[1]) == ("done", [])


def test_a_run_that_was_interrupted_at_the_very_step_has_its_eval_loss_computed_and_nothing_trained(cell, monkeypatch):
    stopping = cell("method=hu", "run.stop_at_step=3")
    step = Attempt.step

    def signalled(self, number, *rest):
        step(self, number, *rest)
        if number == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Attempt, "step", signalled)
        with pytest.raises(SystemExit):
            job.execute(cell("method=hu"), run, "[1/1]")
    folder = RunFolder.of(stopping)
    assert progress(folder) == Progress(3, {})
    assert done(stopping) == ("stopped", [])
    other = cell("method=hu", "run.stop_at_step=3", "study=other")
    assert done(other) == ("stopped", [1, 2, 3])
    assert progress(folder) == progress(RunFolder.of(other))
    assert done(cell("method=hu")) == ("completed", [4, 5, 6, 7, 8])


def test_a_sweep_and_its_status_tell_stopped_runs_from_failed_and_unfinished_ones(cell, tmp_path, monkeypatch, capsys):
    runs = [cell(f"method={method}", "run.stop_at_step=2", "study=mine") for method in ("hu", "pissa", "none")]
    assert [done(one)[0] for one in runs] == ["stopped", "stopped", "completed"]  # what trains nothing has no step
    cells = [PlannedCell(PlannedRun(RUN, (), (), one.run_id), (), one) for one in runs]
    monkeypatch.setattr(guard.Sweep, "current", SimpleNamespace(planned=cells))
    monkeypatch.setattr(job, "failures", [])
    assert guard.finish() == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1].startswith("2 runs have come to run.stop_at_step;")
    shown = text(status(tmp_path / "results", "mine"), everything=False)
    assert "| run     |      3 |      1 |         2 |     0 |" in shown
    assert f"{runs[0].run_id}: at step 2 of 8, eval loss" in shown
    whole = cell("method=hu", "study=mine")
    cells[0] = PlannedCell(cells[0].planned, (), whole)  # asked for without the step, it has not ended
    assert guard.finish() == 1
    assert "1 runs have not ended" in capsys.readouterr().err
