"""What a machine does to a run: a full disk, results that cannot be written, a clock set back, bytes that change."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SHORT, composed_run
from faults import kinds
from faults.harness import assert_same, ended, folder_of, killed

from bench.runs.record import COMPLETED, FAILED, read_record

FULL = OSError(errno.ENOSPC, "No space left on device")


def cell(root, *overrides):
    return composed_run(
        *SHORT, "train.max_steps=8", "checkpoint.steps=3", "method=hu", f"results_dir={root}", *overrides
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    cfg = cell(tmp_path_factory.mktemp("undisturbed"))
    assert ended(cfg) == 0
    return folder_of(cfg).path


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


def fill(folder, leave=0):
    """Takes up all of a file system but `leave` bytes."""
    with (folder / "ballast").open("wb") as file:
        free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
        file.write(bytes(max(0, free - leave)))


def test_a_disk_that_is_full_for_a_while_costs_a_checkpoint_and_not_the_run(tmp_path, undisturbed):
    cfg = cell(tmp_path)
    assert ended(cfg, kinds.fail_writing, "sealed", 3, FULL) == 0
    assert_same(undisturbed, folder_of(cfg).path)


def test_a_full_disk_leaves_no_torn_record_and_the_run_goes_on_when_there_is_room(small_disk, undisturbed):
    cfg = cell(small_disk / "results")
    killed(cfg, kinds.kill_after_step, 5)
    fill(small_disk)
    assert ended(cfg) != 0
    assert folder_of(cfg).record is None or folder_of(cfg).record.status == FAILED
    (small_disk / "ballast").unlink()
    assert ended(cell(small_disk / "results", "run.retry_failed=true")) == 0
    assert_same(undisturbed, folder_of(cfg).path)
    assert read_record(folder_of(cfg).path).attempts[-1]["from_step"] == 3


def test_a_disk_that_fills_up_while_the_run_goes_loses_nothing(small_disk, undisturbed):
    cfg = cell(small_disk / "results")
    killed(cfg, kinds.kill_after_step, 5)
    fill(small_disk, leave=40_000)  # enough to begin, and not for weights and record
    assert ended(cfg) != 0
    (small_disk / "ballast").unlink()
    assert ended(cell(small_disk / "results", "run.retry_failed=true")) == 0
    assert_same(undisturbed, folder_of(cfg).path)


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


def test_a_checkpoint_with_one_flipped_byte_gives_way_to_the_one_before(tmp_path, undisturbed):
    cfg = cell(tmp_path)
    killed(cfg, kinds.kill_after_step, 7)
    newest = folder_of(cfg).workspace / "checkpoints" / "checkpoint-6"
    weights = next(newest.rglob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-5] ^= 4
    weights.write_bytes(content)
    assert ended(cfg) == 0
    assert_same(undisturbed, folder_of(cfg).path)
    assert read_record(folder_of(cfg).path).attempts[-1]["from_step"] == 3


def test_a_clock_set_back_changes_nothing(tmp_path, undisturbed):
    cfg = cell(tmp_path, "run.heartbeat_timeout_seconds=1")
    assert ended(cfg, kinds.clock_set_back, 4, 1e6) == 0
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


MEMORY = Path("/sys/fs/cgroup/memory")


def starve(pid):
    """Lets a process have 4 MB more, so that the kernel kills it; where that cannot be asked for, kills it."""
    group = MEMORY / f"lora-init-bench-{pid}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(4 * 2**20))
        (group / "cgroup.procs").write_text(str(pid))
    except OSError:
        os.kill(pid, signal.SIGKILL)


@pytest.fixture(autouse=True)
def without_empty_groups():
    yield
    for group in MEMORY.glob("lora-init-bench-*"):
        group.rmdir()


def test_a_kernel_that_wants_memory_back_kills_one_run_and_not_its_sweep(tmp_path):
    """A process of its own for each: the killed one is recorded, the others are as they would have been."""
    study = ["-m", "method=hu", "seed=0,1,2", *SHORT, f"results_dir={tmp_path}", "study=mine", "launch=process"]
    slow = ["train.max_steps=40", "train.eval_steps=0", "measure=none"]
    sweep = subprocess.Popen(
        [sys.executable, "-m", "bench.run", *study, *slow], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    line = next(line for line in sweep.stdout if line.startswith("[2/3]"))
    run_id = line.split()[1]
    from bench.runs.folder import RunFolder
    from bench.runs.lease import holder

    starve(holder(RunFolder(tmp_path, "mine", run_id).workspace).pid)
    printed, complained = sweep.communicate(timeout=300)
    assert sweep.returncode == 1
    records = {folder.name: read_record(folder) for folder in tmp_path.glob("mine/hu-*")}
    assert sorted(record.status for record in records.values()) == [COMPLETED, COMPLETED, FAILED]
    assert records[run_id].error.type == "KilledError"
    assert complained.splitlines()[-1].strip().endswith("run.retry_failed=true")
    assert f"{run_id}: KilledError" in complained
    assert "[3/3]" in printed
