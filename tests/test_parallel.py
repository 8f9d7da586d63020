"""Two processes of one run, joined by gloo, against one."""

import os
import subprocess
import sys

import pytest
import torch

from bench.process import ranks
from bench.runs.record import CURVE, read_record, read_rows
from models import random_batch
from two_processes import METHODS, found, process, uneven_batches


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Of each of two processes, and of one alone; of three batches, and of one."""
    folder = tmp_path_factory.mktemp("two")
    torch.multiprocessing.spawn(process, (folder,), nprocs=2)
    return [
        *(torch.load(folder / f"{rank}.pt") for rank in (0, 1)),
        [found(uneven_batches()), found([random_batch(3, 7)])],
    ]


@pytest.mark.parametrize("samples", [0, 1], ids=["batches", "one batch"])
def test_both_processes_hold_the_same_bits(results, samples):
    one, other = results[0][samples], results[1][samples]
    assert one.keys() == other.keys()
    assert {key.partition("/")[0] for key in one} >= METHODS.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("samples", [0, 1], ids=["batches", "one batch"])
def test_two_processes_find_what_one_finds(results, samples):
    two, alone = results[0][samples], results[2][samples]
    assert two.keys() == alone.keys()
    for name, expected in alone.items():
        if not name.startswith("lora_ga sketched"):  # its test matrices come from the first process's first piece
            assert (two[name] - expected).norm() <= 1e-5 * expected.norm(), name


@pytest.mark.parametrize("samples", [0, 1], ids=["batches", "one batch"])
def test_two_processes_sketch_one_gradient(results, samples):
    two, alone = results[0][samples], results[2][samples]
    sketched = [name for name in two if name.startswith("lora_ga sketched/model")]
    assert len(sketched) == 28
    for name in sketched:  # as wide as the layers: nothing is lost but rounding
        expected = alone[name.replace(" sketched", "")]
        assert (two[name] - expected).norm() <= 1e-2 * expected.norm(), name


def test_each_part_is_computed_by_one_process_and_handed_to_the_other(results):
    (*_, first, by_first), (*_, second, by_second), _ = results
    assert (first, second) == (["a", "c"], ["b"])
    assert by_first == by_second == {"a": "a by 0", "b": "b by 1", "c": "c by 0"}


def test_alone_every_function_is_what_it_would_be_without_the_module():
    tensor = torch.arange(3.0)
    assert (ranks.size(), ranks.rank(), ranks.shard([1, 2, 3])) == (1, 0, [1, 2, 3])
    assert torch.equal(ranks.all_reduce_sum(tensor), torch.arange(3.0))
    assert ranks.broadcast_object("x") == "x"
    assert ranks.map_over_ranks(["b", "a"], str.upper) == {"b": "B", "a": "A"}


RUN = [
    "method=lora_ga", "rank=r4", "train.max_steps=4", "train.eval_steps=2", "measure.alignment_steps=2",
    "score.limit=4", "track=none", "task.calibration_samples=12", "task.calibration_batch_size=5", "study=two",
]  # fmt: skip


def test_a_run_under_torchrun_leaves_one_record_and_the_losses_of_a_run_without(tmp_path, run_cell):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*torchrun, "-m", "bench.run", *RUN, f"results_dir={tmp_path / 'two'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    (folder,) = [path for path in (tmp_path / "two" / "two").iterdir() if not path.name.startswith(".")]
    alone, cell = run_cell(*RUN, "train.batch_size=16", "train.warmup_steps=10", "task.eval_samples=64")
    two = read_record(folder)
    losses = [[row["loss"] for row in read_rows(path / CURVE)] for path in (folder, cell.path)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for one, other in zip(*(r.initialization.layers for r in (two, alone)), strict=True):
        assert one.name == other.name
        assert one.lora_A_norm == pytest.approx(other.lora_A_norm, rel=1e-5)


def test_a_process_that_is_not_the_first_works_and_leaves_nothing(compose_run, monkeypatch, tmp_path, capsys):
    from bench.runs.job import execute

    worked = []
    monkeypatch.setattr(ranks, "rank", lambda: 1)
    cfg = compose_run("method=hu", f"results_dir={tmp_path / 'results'}")

    def run(given, attempt):
        attempt.log({"step": 1}, [])
        attempt.weights_path.write_text("weights")
        worked.append(given.run_id)
        if len(worked) == 2:
            raise ValueError("as in the first process")

    execute(cfg, run, "[1/1]")
    execute(cfg, run, "[1/1]")
    assert worked == [cfg.run_id] * 2
    assert not (tmp_path / "results").exists()
    assert capsys.readouterr().err == "process 1: ValueError: as in the first process\n"


def test_a_batch_that_cannot_be_shared_out_evenly_is_refused(monkeypatch, tmp_path, compose_run):
    from bench.train import loop

    monkeypatch.setattr(ranks, "size", lambda: 3)
    with pytest.raises(ValueError, match=r"train\.batch_size=16 cannot be shared out evenly over 3 processes"):
        loop.arguments(compose_run("train.batch_size=16").train, 0, str(tmp_path))
