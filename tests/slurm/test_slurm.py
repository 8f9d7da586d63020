"""Sweeps on a real Slurm: `make slurm`, or pytest under a controller that runs (tests/slurm/one_node.sh)."""

import contextlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import time

import pytest
from conftest import SHORT

from bench.runs.record import COMPLETED, INTERRUPTED, WEIGHTS, read_record, read_rows, without_timing

# Six cells, each with some seconds of training and a checkpoint every twentieth step: time to come between.
CELLS = (*SHORT, "method=hu,lora_ga", "seed=0,1,2", "train.max_steps=300", "train.eval_steps=60")
CELLS += ("measure.alignment_steps=30", "checkpoint.steps=20")
SLURM = ("launch=slurm", "hydra.launcher.partition=main", "hydra.launcher.array_parallelism=2")
SLURM += ("hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=2", "hydra.launcher.timeout_min=30")
PATIENCE_SECONDS = 600


def why_not():
    if importlib.util.find_spec("submitit") is None:
        return "needs the extra cluster"
    if shutil.which("sbatch") is None or shutil.which("scontrol") is None:
        return "Slurm is not installed: see tests/slurm/one_node.sh"
    try:
        asked = subprocess.run(["scontrol", "ping"], capture_output=True, text=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        return "no Slurm controller answers"
    return None if "UP" in asked.stdout else "no Slurm controller runs: see tests/slurm/one_node.sh"


WHY_NOT = why_not()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


class Sweep:
    """The command of the six cells, in a folder of its own."""

    def __init__(self, folder, *overrides):
        self.folder, self.results = folder, folder / "runs" / "adhoc"
        self.command = [sys.executable, "-m", "bench.run", "-m", *CELLS, *overrides]
        folder.mkdir(parents=True, exist_ok=True)

    def start(self):
        """Begins it; its output goes to a file."""
        self.log = (self.folder / "log").open("w")
        return subprocess.Popen(self.command, cwd=self.folder, stdout=self.log, stderr=subprocess.STDOUT)

    def run(self):
        """Exit status and output."""
        status = self.start().wait(PATIENCE_SECONDS)
        return status, self.output

    @property
    def output(self):
        return (self.folder / "log").read_text()

    def records(self):
        return {path.parent.name: read_record(path.parent) for path in self.results.glob("[!.]*/record.json")}

    def in_training(self, exclude=()):
        """Waits for a job whose cell has a checkpoint; its number and the cell's name."""
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            for log in self.folder.glob("runs/.sweep/.submitit/*/*/*_0_log.out"):
                job = log.parent.name
                begun = re.findall(r"^\[\d/\d\] (\S+)$", log.read_text(), flags=re.MULTILINE)
                if begun and job not in exclude and list(self.results.glob(f".{begun[-1]}/checkpoints/*/sealed.json")):
                    return job, begun[-1]
            time.sleep(0.05)
        raise TimeoutError(self.output)

    def times_finished(self):
        """Of each cell, how often a job has reported that it is done."""
        logs = [p.read_text() for p in self.folder.glob("runs/.sweep/.submitit/*/*/*_0_log.out")]
        return [sum(log.count(f"{name}: eval loss") for log in logs) for name in self.records()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The same cells without Slurm."""
    sweep = Sweep(tmp_path_factory.mktemp("undisturbed"))
    status, output = sweep.run()
    assert status == 0, output
    return sweep


def assert_equal(sweep, undisturbed):
    """All six ended done, and are the undisturbed runs in everything but timing; weights and curves to the byte."""
    expected, found = undisturbed.records(), sweep.records()
    assert len(expected) == 6
    assert set(found) == set(expected)
    for name, record in found.items():
        assert record.status == COMPLETED
        ours, theirs = (without_timing(r.model_dump()) for r in (record, expected[name]))
        assert {k for k in ours if ours[k] != theirs[k]} <= {"environment"}  # which names the job's GPUs
        assert ours["environment"]["fingerprint"] == theirs["environment"]["fingerprint"]
        one, other = sweep.results / name, undisturbed.results / name
        assert (one / WEIGHTS).read_bytes() == (other / WEIGHTS).read_bytes()
        for rows in ("curve.jsonl", "alignment.jsonl"):
            assert without_timing(read_rows(one / rows)) == without_timing(read_rows(other / rows))
    assert not list(sweep.results.glob(".hu*")) + list(sweep.results.glob(".lora_ga*"))  # no workspace is left
    assert sweep.times_finished() == [1] * 6


def tell(job, signal):
    """Sends a signal. scancel finds the job being requeued for it, and would try again until the next attempt."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(["scancel", f"--signal={signal}", job], check=False, timeout=2)


def resumed_at(record):
    return [attempt["from_step"] for attempt in record.attempts]


def test_an_array_with_a_cancelled_and_a_killed_job_is_finished_by_the_same_command(tmp_path, undisturbed):
    sweep = Sweep(tmp_path, *SLURM)
    process = sweep.start()
    cancelled, its_cell = sweep.in_training()
    subprocess.run(["scancel", cancelled], check=True)
    killed, other_cell = sweep.in_training(exclude=(cancelled,))
    tell(killed, "KILL")
    assert process.wait(PATIENCE_SECONDS) == 1
    assert f"job {cancelled} has ended before its cell" in sweep.output
    assert f"job {killed} has ended before its cell" in sweep.output
    last = sweep.output[sweep.output.rindex("2 runs have not ended") :]
    assert its_cell in last
    assert other_cell in last
    assert len(sweep.records()) == 4
    left = json.loads((sweep.results / f".{its_cell}" / "record.json").read_text())
    assert left["status"] == INTERRUPTED

    status, output = sweep.run()
    assert status == 0, output
    assert "6 cells, 6 different runs, 4 done before" in output
    assert ": 2 jobs;" in output
    assert_equal(sweep, undisturbed)
    for name, record in sweep.records().items():
        steps = resumed_at(record)
        assert len(steps) == (2 if name in (its_cell, other_cell) else 1)
        assert (steps[-1] > 0) == (name in (its_cell, other_cell))


def test_a_job_told_of_its_preemption_saves_is_requeued_and_goes_on(tmp_path, undisturbed):
    sweep = Sweep(tmp_path, *SLURM)
    process = sweep.start()
    told = {}
    for name in ("USR2", "USR1"):  # submitit's signal, and another that sbatch --signal may ask for
        job, cell = sweep.in_training(exclude=told)
        tell(job, name)
        told[job] = cell
    assert process.wait(PATIENCE_SECONDS) == 0, sweep.output
    assert_equal(sweep, undisturbed)
    for job, cell in told.items():
        shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True).stdout
        assert "Restarts=1" in shown
        assert len(resumed_at(sweep.records()[cell])) == 2


def test_a_job_preempted_by_a_more_urgent_one_goes_on_after_it(tmp_path, undisturbed):
    sweep = Sweep(tmp_path, *SLURM)
    process = sweep.start()
    _, cell = sweep.in_training()
    urgent = ["sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=sleep 5", "--parsable"]
    subprocess.run(urgent, check=True, capture_output=True)
    assert process.wait(PATIENCE_SECONDS) == 0, sweep.output
    assert_equal(sweep, undisturbed)
    assert len(resumed_at(sweep.records()[cell])) == 2
