"""One of a run's two processes is lost: the run ends soon and not as done, and the same command goes on with it."""

import json
import os
import subprocess
import sys
import time
from datetime import timedelta

import psutil
import pytest
import torch
import torch.distributed as dist
from conftest import SHORT, composed_run

from bench.process import ranks
from bench.runs.folder import RunFolder
from bench.runs.record import COMPLETED, CURVE, read_record, read_rows

pytestmark = pytest.mark.faults

STEPS = ("train.max_steps=12", "checkpoint.steps=2", "checkpoint.keep=9", "method=hu", "study=two")
STEPS += ("task.eval_samples=9",)
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
PATIENCE = 60  # seconds: torchrun gives a process 30 of them to end by itself


def command(root, num_processes, *overrides):
    run = ["-m", "bench.run", *SHORT, *STEPS, *overrides, f"results_dir={root}"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_processes)]
    return [sys.executable, *(torchrun if num_processes > 1 else []), *run]


def ended(root, num_processes, *overrides):
    return subprocess.run(
        command(root, num_processes, *overrides), capture_output=True, text=True, check=False, env=ENVIRONMENT
    )


def one_killed(root, *overrides):
    """Starts two processes, kills the second once there is a checkpoint, and returns torchrun's exit status."""
    run = subprocess.Popen(command(root, 2, *overrides), stdout=subprocess.DEVNULL, stderr=None, env=ENVIRONMENT)
    while not list(folder_of(root).workspace.glob("checkpoints/*/sealed.json")):
        assert run.poll() is None
        time.sleep(0.02)
    second_of(run).kill()
    return run.wait(PATIENCE)


def folder_of(root):
    return RunFolder.of(composed_run(*SHORT, *STEPS, f"results_dir={root}"))


def losses(folder):
    return [row["loss"] for row in read_rows(folder.path / CURVE)]


def second_of(process):
    """The process of rank 1."""
    for child in psutil.Process(process.pid).children(recursive=True):
        if child.environ().get("RANK") == "1":
            return child
    raise AssertionError("there is no second process")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The losses of one process that nothing happens to."""
    root = tmp_path_factory.mktemp("alone")
    done = ended(root, 1)
    assert done.returncode == 0, done.stderr
    return losses(folder_of(root))


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_a_killed_process_ends_the_run_and_the_next_start_resumes_it(tmp_path, alone, how):
    folder = folder_of(tmp_path)
    assert one_killed(tmp_path, f"train.parallel={how}") != 0
    assert not folder.done
    assert not folder.path.exists()

    done = ended(tmp_path, 2, f"train.parallel={how}")
    assert done.returncode == 0, done.stderr
    record = read_record(folder.path)
    assert record.status == COMPLETED
    assert record.attempts[-1]["from_step"] >= 2
    assert losses(folder) == pytest.approx(alone, rel=1e-4)


def test_a_checkpoint_of_two_processes_is_not_gone_on_from_by_one(tmp_path, alone):
    folder = folder_of(tmp_path)
    one_killed(tmp_path)
    done = ended(tmp_path, 1)
    assert done.returncode == 0, done.stderr
    assert "made with another num_processes" in done.stderr
    assert read_record(folder.path).attempts[-1]["from_step"] == 0
    assert losses(folder) == alone


def lonely(rank, folder, failing):
    """One of two: those that `failing` names report an error; leaves its exit status, and how long it took."""
    store = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    ranks.PATIENCE = timedelta(seconds=2)
    status = 0
    if rank in failing:
        ranks.report("a-run", OSError("no space"))
        try:
            ranks.barrier_after_failure("a-run")
        except SystemExit as stopped:
            status = stopped.code
    (folder / f"{rank}.json").write_text(json.dumps([status, ranks.reported("a-run") if status == 0 else {}]))
    while not all((folder / f"{other}.json").exists() for other in (0, 1)):
        time.sleep(0.02)


@pytest.mark.parametrize(("failing", "statuses"), [([1], [0, 1]), ([0], [1, 0]), ([0, 1], [0, 0])])
def test_a_failure_that_processes_do_not_share_ends_them(tmp_path, failing, statuses):
    torch.multiprocessing.spawn(lonely, (tmp_path, failing), nprocs=2)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert [status for status, _ in found] == statuses
