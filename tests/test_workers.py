import io
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest
from conftest import SHORT, composed_run

from bench.process import memory
from bench.process.signals import InterruptedRunError
from bench.runs.folder import RunFolder
from bench.runs.job import Origin
from bench.runs.lease import holder
from bench.runs.record import ALIGNMENT, CURVE, OUTCOMES, WEIGHTS, read_record, read_rows, without_timing
from bench.sweep import capacity, size, workers
from bench.sweep.gpus import free_gpu, gpus
from bench.sweep.worker import Cell, WithoutBars
from bench.sweep.workers import Pool, Workers


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


# --- how many at a time


@pytest.fixture
def machine(monkeypatch):
    """Sets what a machine has: cores, free memory in cells' peaks, GPUs, and the user's OMP_NUM_THREADS."""

    def given(cores=8, cells=100.0, visible="", threads=None):
        needed = size.PROCESS_BYTES + size.peak_bytes(composed_run())
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
        monkeypatch.setattr(capacity, "available_bytes", lambda: int(cells * needed))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if threads is not None:
            monkeypatch.setenv("OMP_NUM_THREADS", threads)

    return given


@pytest.mark.parametrize(
    ("has", "cells", "jobs", "at_a_time", "why"),
    [
        ({}, 20, None, 8, "one a core, with one thread (8)"),
        ({}, 3, None, 3, "one a core"),
        ({"cells": 2.5}, 20, None, 2, "are free, and a cell may take"),
        ({"cells": 0.5}, 20, None, 1, "are free, and a cell may take"),
        ({"threads": "3"}, 20, None, 2, "OMP_NUM_THREADS=3"),
        ({"threads": "16"}, 20, None, 1, "OMP_NUM_THREADS=16"),
        ({"visible": "0,1"}, 20, None, 2, "one a GPU"),
        ({"cells": 0.5}, 20, 5, 5, "hydra.launcher.jobs"),
    ],
)
def test_as_many_cells_at_a_time_as_cores_memory_or_gpus_allow(machine, has, cells, jobs, at_a_time, why):
    machine(**has)
    found = capacity.capacity([composed_run()] * cells, jobs)
    assert found.at_a_time == at_a_time
    assert why in str(found)


def test_the_cell_that_needs_most_counts_and_an_unknown_one_is_done_alone(machine):
    machine(cells=4.0)
    small = composed_run()
    large = replace(small, train=replace(small.train, batch_size=4096))
    assert capacity.capacity([small, small, large], None).at_a_time == 1
    unknown = replace(small, model=replace(small.model, source="hub", architecture=None))
    assert "is not known; hydra.launcher.jobs=N" in str(capacity.capacity([small, unknown], None))


@pytest.mark.parametrize(
    ("line", "folder", "names"),
    [
        ("0::/slurm/job", "slurm", ("memory.max", "memory.current", "inactive_file")),
        ("4:memory:/job", "memory/job", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")),
        ("0::/outside", "", ("memory.max", "memory.current", "inactive_file")),  # of a container: the root is its own
    ],
)
def test_memory_ends_at_the_limit_of_the_control_group_or_of_one_above_it(tmp_path, monkeypatch, line, folder, names):
    limit, used, cached = names
    (tmp_path / "own").write_text(f"1:cpu:/x\n{line}\n")
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for name, text in {limit: "9000", used: "5000", "memory.stat": f"anon 1\n{cached} 2000\n"}.items():
        (tmp_path / folder / name).write_text(text)
    monkeypatch.setattr(memory, "_OWN", tmp_path / "own")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    assert memory.available_bytes() == 6000
    if limit == "memory.max":
        (tmp_path / folder / limit).write_text("max\n")
        assert memory.available_bytes() > 10**6


# --- workers, played by a process that does nothing


def a_cell(number=0, isolate=False):
    run = SimpleNamespace(run_id=f"run-{number}", run=SimpleNamespace(isolate=isolate))
    return Cell(run, f"[{number}]", Origin("command"))


class Idle(workers.Worker):
    """A worker whose process sleeps, and that says what it did."""

    def __init__(self, variables):
        self.gpu = variables.get("CUDA_VISIBLE_DEVICES")
        self.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])

    def do(self, cell):
        return "completed", []

    def let_go(self):
        self.process.kill()


@pytest.fixture
def idle(monkeypatch):
    started = []

    def start(variables):
        started.append(Idle(variables))
        return started[-1]

    monkeypatch.setattr(workers, "Worker", start)
    yield started
    for one in started:
        one.let_go()
        one.process.wait()


def test_a_worker_does_one_cell_after_another_and_one_that_is_gone_is_replaced(idle):
    found = Workers({})
    assert [found.do(a_cell(number)) for number in range(3)] == ["completed"] * 3
    assert len(idle) == 1
    idle[0].process.kill()
    idle[0].process.wait()
    assert found.do(a_cell()) == "completed"
    assert len(idle) == 2
    assert found.do(a_cell(isolate=True)) == "completed"
    assert len(idle) == 3
    assert idle[2].process.poll() is not None  # a cell alone: its worker has ended with it
    assert found.do(a_cell()) == "completed"
    assert len(idle) == 3
    found.close()
    assert idle[1].process.poll() is not None


def test_cells_of_one_launch_take_gpus_in_turn_each_in_a_process_of_its_own(monkeypatch, locks, idle, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    barrier = threading.Barrier(2)

    def do(worker, cell):
        barrier.wait(5)  # two at a time
        return "completed", []

    monkeypatch.setattr(Idle, "do", do)
    pool, ended = Pool(None), []
    assert pool.launch([a_cell(number) for number in range(4)], ended.append) == ["completed"] * 4
    assert sorted(worker.gpu for worker in idle) == ["0", "0", "1", "1"]
    assert capsys.readouterr().out == "2 cells at a time: one a GPU\n"
    assert len(ended) == 4


def test_the_stages_of_a_sweep_share_their_workers(idle, capsys):
    pool = Pool(1)
    for _stage in range(3):
        assert pool.launch([a_cell(number) for number in range(2)], lambda run: None) == ["completed"] * 2
    assert len(idle) == 1


def test_workers_are_stopped_and_take_no_further_cell(monkeypatch, idle):
    monkeypatch.setattr(Idle, "do", lambda self, cell: self.process.wait() and None)
    found, ended = Workers({}), []

    def do():
        with pytest.raises(InterruptedRunError) as stopped:
            found.do(replace(a_cell(), run=composed_run()))
        ended.append(stopped.value.number)

    thread = threading.Thread(target=do)
    thread.start()
    while not found._busy:
        time.sleep(0.01)
    found.stop(signal.SIGINT)
    thread.join(10)
    assert ended == [signal.SIGINT]
    assert idle[0].process.returncode == -signal.SIGTERM
    with pytest.raises(InterruptedRunError):
        found.do(a_cell())
    assert len(idle) == 1


def test_bars_of_a_worker_are_not_shown_and_lines_are():
    from tqdm import tqdm

    shown = io.StringIO()
    stderr = WithoutBars(shown)
    print("before", file=stderr)
    for leave in (True, False):
        for _ in tqdm(range(3), file=stderr, leave=leave, mininterval=0):
            print("between", file=stderr)
    print("\nafter", file=stderr)
    assert shown.getvalue() == "before\n" + "between\n" * 6 + "\nafter\n"


# --- real workers


def left(folder):
    """All of a run that is not time: record, curve, alignment, outcomes, and the bits of the weights."""
    record = without_timing(read_record(folder).model_dump(exclude={"config", "command", "environment"}))
    rows = [without_timing(read_rows(folder / name)) for name in (CURVE, ALIGNMENT, OUTCOMES)]
    return record, rows, (folder / WEIGHTS).read_bytes()


def test_a_cell_leaves_the_same_bits_in_any_worker_in_any_order_and_alone(tmp_path, run_cell, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    methods = ("lora_ga", "full_ft", "hu")
    alone = {name: left(run_cell(f"method={name}", "cache.enabled=false")[1].path) for name in methods}
    short = (*SHORT, f"results_dir={tmp_path}", f"cache.dir={tmp_path / 'cache'}")
    cells = [Cell(composed_run(*short, f"method={name}"), "[1]", Origin("command")) for name in reversed(methods)]
    pool = Pool(jobs=2)
    try:
        assert pool.launch(cells, lambda run: None) == ["completed"] * len(cells)
        pids = {worker.process.pid for worker in pool._workers._idle}
    finally:
        pool.close()
    assert len(pids) == 2
    for cell in cells:
        assert left(RunFolder.of(cell.run).path) == alone[cell.run.method_name], cell.run.run_id


@pytest.mark.faults
def test_a_sweep_in_workers_that_is_stopped_leaves_checkpoints_and_goes_on(tmp_path):
    """Its workers are stopped with it, each with a checkpoint, and the same command ends what they began."""
    short = [text for text in SHORT if not text.startswith(("train.max_steps", "measure"))]
    longer = ["train.max_steps=30", "train.eval_steps=0", "measure=none"]
    apart = ["hydra.launcher.jobs=2", f"results_dir={tmp_path}", "study=mine"]
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


@pytest.mark.faults
def test_a_worker_does_not_outlive_its_sweep(tmp_path):
    """Killed with no time for a word to its workers: each finishes its step, writes a checkpoint and ends."""
    longer = ["train.max_steps=5000", "measure=none", f"results_dir={tmp_path}", "study=mine"]
    short = [text for text in SHORT if not text.startswith(("train.max_steps", "measure"))]
    sweep = subprocess.Popen([sys.executable, "-m", "bench.run", "-m", "method=hu", "seed=0,1", *short, *longer])
    until = time.monotonic() + 120
    while len(_training(tmp_path)) < 2:
        assert time.monotonic() < until
        time.sleep(0.05)
    busy = [psutil.Process(holder(path.parent).pid) for path in _training(tmp_path)]
    sweep.kill()
    sweep.wait()
    _, alive = psutil.wait_procs(busy, timeout=60)
    assert not alive
    assert len(list(tmp_path.glob("mine/.hu-*/checkpoints/*/sealed.json"))) == 2
