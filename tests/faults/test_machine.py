"""What a machine does to a run: a full disk, results that cannot be written, a loss that diverges, a killed process."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from conftest import SHORT, composed_run
from faults import kinds
from faults.harness import assert_same, ended, finished, folder_of, killed

from bench.runs.folder import RunFolder
from bench.runs.lease import holder
from bench.runs.record import COMPLETED, FAILED, read_record

FULL = OSError(errno.ENOSPC, "No space left on device")


def cell(root, *overrides):
    steps = ("train.max_steps=8", "checkpoint.steps=3")
    return composed_run(*SHORT, *steps, "method=hu", f"results_dir={root}", *overrides)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return finished(cell(tmp_path_factory.mktemp("undisturbed")))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, to fill up."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder, leave):
    """Takes up all of a file system but `leave` bytes."""
    with (folder / "ballast").open("wb") as file:
        free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
        file.write(bytes(max(0, free - leave)))


def test_a_disk_that_is_full_for_a_while_costs_a_checkpoint_and_not_the_run(tmp_path, undisturbed):
    cfg = cell(tmp_path)
    assert ended(cfg, kinds.fail_writing, "sealed", 3, FULL) == 0
    assert_same(undisturbed, folder_of(cfg).path)


@pytest.mark.parametrize("leave", [0, 40_000], ids=["at once", "before weights and record"])
def test_a_full_disk_leaves_no_torn_record_and_the_run_goes_on_when_there_is_room(small_disk, undisturbed, leave):
    cfg = cell(small_disk / "results")
    killed(cfg, kinds.kill_after_step, 5)
    fill(small_disk, leave)
    assert ended(cfg) != 0
    assert folder_of(cfg).record is None or folder_of(cfg).record.status == FAILED
    (small_disk / "ballast").unlink()
    assert ended(cell(small_disk / "results", "run.retry_failed=true")) == 0
    assert_same(undisturbed, folder_of(cfg).path)
    assert read_record(folder_of(cfg).path).attempts[-1]["from_step"] == 3


def test_results_that_cannot_be_written_are_refused_before_anything_starts(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    command = [sys.executable, "-m", "bench.run", *SHORT, f"results_dir={small_disk}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"error: results_dir={small_disk} cannot be written: Read-only file system; choose another\n"


def test_results_that_become_read_only_fail_the_run_and_do_not_lose_it(small_disk, undisturbed):
    cfg = cell(small_disk / "results")
    killed(cfg, kinds.kill_after_step, 5)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert ended(cfg) != 0
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert ended(cfg) == 0
    assert_same(undisturbed, folder_of(cfg).path)


def test_a_loss_that_is_not_finite_fails_the_run_which_is_retried_only_when_asked(tmp_path, undisturbed):
    cfg = cell(tmp_path)
    assert ended(cfg, kinds.diverge_at, 5) == 1
    record = folder_of(cfg).record
    assert (record.status, record.error.step, record.error.type) == (FAILED, 5, "DivergedError")
    assert "Traceback" in record.error.traceback
    before = (folder_of(cfg).path / "record.json").read_bytes()
    assert ended(cfg) == 1
    assert (folder_of(cfg).path / "record.json").read_bytes() == before
    assert ended(cell(tmp_path, "run.retry_failed=true")) == 0
    assert folder_of(cfg).record.status == COMPLETED
    assert_same(undisturbed, folder_of(cfg).path)


@pytest.mark.faults
@pytest.mark.parametrize(
    "how",
    ["hydra.launcher.jobs=2", "hydra.launcher.jobs=1", "launch=basic"],
)
def test_a_run_that_is_killed_does_not_end_its_sweep(tmp_path, how):
    """In a worker, or a process of its own: the killed one is recorded, the others are as they would have been."""
    study = ["-m", "method=hu", "seed=0,1,2", *SHORT, f"results_dir={tmp_path}", "study=mine", how]
    study += ["run.isolate=true"] if how == "launch=basic" else []
    slow = ["train.max_steps=40", "train.eval_steps=0", "measure=none"]
    sweep = subprocess.Popen(
        [sys.executable, "-m", "bench.run", *study, *slow], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    line = next(line for line in sweep.stdout if line.startswith("[2/3]"))
    run_id = line.split()[1]
    busy = holder(RunFolder(tmp_path, "mine", run_id).workspace).pid
    os.kill(busy, signal.SIGKILL)  # as a kernel short of memory does
    printed, complained = sweep.communicate(timeout=300)
    assert sweep.returncode == 1
    records = {folder.name: read_record(folder) for folder in tmp_path.glob("mine/hu-*")}
    assert sorted(record.status for record in records.values()) == [COMPLETED, COMPLETED, FAILED]
    assert records[run_id].error.type == "KilledError"
    assert complained.splitlines()[-1].strip().endswith("run.retry_failed=true")
    assert f"{run_id}: KilledError" in complained
    assert "[3/3]" in printed
