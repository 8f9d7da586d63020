import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

import pytest
from conftest import SHORT

from bench.process.signals import InterruptedRunError
from bench.runs.record import CURVE, read_record, read_rows
from bench.sweep import process
from bench.sweep.process import Children, free_gpu, gpus


@pytest.fixture
def locks(monkeypatch, tmp_path):
    """A folder for the locks of GPUs in which no other sweep has any."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.parametrize(
    ("visible", "names"), [("3", ["3"]), ("", []), ("-1", []), ("GPU-abc, GPU-def", ["GPU-abc", "GPU-def"])]
)
def test_gpus_are_those_that_the_process_may_use_and_one_or_none_is_shared(monkeypatch, locks, visible, names):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus() == names
    with free_gpu() as name:
        assert name == (names[0] if len(names) > 1 else None)


def test_each_run_has_a_gpu_of_its_own_and_gives_it_back(monkeypatch, locks):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    got = []

    def take():
        with free_gpu() as name:
            got.append(name)

    with free_gpu() as first, free_gpu() as second:
        assert {first, second} == {"4", "7"}
        thread = threading.Thread(target=take)
        thread.start()
        time.sleep(0.2)
        assert got == []  # a third one waits
        with free_gpu(shares=2) as shared:
            assert shared == "4"
    thread.join(5)
    assert got in (["4"], ["7"])


def test_runs_of_one_launch_take_gpus_in_turn(monkeypatch, locks):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    barrier, seen = threading.Barrier(2), []

    def run_child(_children, cfg, _overrides, _position, gpu):
        barrier.wait(5)  # two at a time
        seen.append((cfg, gpu))
        return "completed"

    monkeypatch.setattr(process, "run_child", run_child)
    assert process.launch([(number, [], "") for number in range(4)], jobs=None) == ["completed"] * 4
    assert sorted(gpu for _, gpu in seen) == ["0", "0", "1", "1"]


def test_children_are_stopped_and_none_is_started_any_more():
    children, ended = Children(), []
    wait = [sys.executable, "-c", "import time; time.sleep(60)"]
    thread = threading.Thread(target=lambda: ended.append(children.run(wait, os.environ)))
    thread.start()
    while not children._running:
        time.sleep(0.01)
    children.stop(signal.SIGINT)
    thread.join(10)
    assert ended == [-signal.SIGTERM]
    with pytest.raises(InterruptedRunError):
        children.run(wait, os.environ)


@pytest.mark.faults
def test_a_sweep_in_processes_that_is_stopped_leaves_checkpoints_and_goes_on(tmp_path):
    """Its processes are stopped with it, each with a checkpoint, and the same command ends what they began."""
    short = [text for text in SHORT if not text.startswith(("train.max_steps", "measure"))]
    longer = ["train.max_steps=30", "train.eval_steps=0", "measure=none"]
    apart = ["launch=process", "hydra.launcher.jobs=2", f"results_dir={tmp_path}", "study=mine"]
    sweep = [sys.executable, "-m", "bench.run", "-m", "method=hu", "seed=0,1", *short, *longer, *apart]
    running = subprocess.Popen(sweep, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while len(_training(tmp_path)) < 2:
        assert time.monotonic() < until
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    _, complained = running.communicate(timeout=120)
    assert running.returncode == 128 + signal.SIGTERM, complained
    left = list(tmp_path.glob("mine/.hu-*/record.json"))
    assert left
    assert {read_record(path.parent).status for path in left} == {"interrupted"}
    done = subprocess.run(sweep, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for folder in tmp_path.glob("mine/hu-*"):
        assert [row["step"] for row in read_rows(folder / CURVE)] == list(range(1, 31))
    assert any(read_record(folder).attempts[-1]["from_step"] for folder in tmp_path.glob("mine/hu-*"))


def _training(root):
    return [path for path in root.glob(f"mine/.hu-*/{CURVE}") if path.stat().st_size]
