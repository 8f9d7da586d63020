"""SIGINT, SIGTERM and Slurm's signals: a checkpoint of the last step, a word of it, and a sweep that stops."""

import signal

import pytest
from conftest import SHORT, composed_run
from faults import kinds
from faults.harness import assert_same, ended, finished, folder_of

from bench.runs.record import CURVE, INTERRUPTED, read_record, read_rows


def cell(root, *overrides):
    steps = ("train.max_steps=8", "train.eval_steps=3")
    return composed_run(*SHORT, *steps, f"results_dir={root}", "method=lora_sb", *overrides)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return finished(cell(tmp_path_factory.mktemp("undisturbed")))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_while_training_saves_the_step_and_is_recorded(tmp_path, undisturbed, number):
    cfg = cell(tmp_path)
    assert ended(cfg, kinds.signal_after_step, 4, number) == 128 + number
    folder = folder_of(cfg)
    assert folder.record is None
    assert folder.interrupted.status == INTERRUPTED
    assert folder.interrupted.error.type == number.name
    assert [path.name for path in (folder.workspace / "checkpoints").iterdir()] == ["checkpoint-5"]
    assert [row["step"] for row in read_rows(folder.workspace / CURVE)] == [1, 2, 3, 4, 5]
    assert ended(cfg) == 0
    assert_same(undisturbed, folder.path)
    assert [attempt["from_step"] for attempt in read_record(folder.path).attempts] == [0, 5]


@pytest.mark.parametrize("phase", ["calibrate", "score"])
def test_a_signal_in_any_other_phase_ends_it_at_once(tmp_path, undisturbed, phase):
    cfg = cell(tmp_path)
    assert ended(cfg, kinds.signal_entering, phase, signal.SIGINT) == 128 + signal.SIGINT
    assert folder_of(cfg).interrupted.status == INTERRUPTED
    assert ended(cfg) == 0
    assert_same(undisturbed, folder_of(cfg).path)


def test_who_listened_before_is_told_when_the_checkpoint_is_written(tmp_path):
    """As submitit does, which then puts the job back into the queue."""
    cfg = cell(tmp_path)
    assert ended(cfg, kinds.listened_and_signalled, 4, signal.SIGUSR2) == 42
    assert (tmp_path / "heard").read_text() == "['checkpoint-5']"
