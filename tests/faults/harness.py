"""Runs in processes of their own, which a fault ends; and what must be the same afterwards."""

import multiprocessing
import os
import signal
import sys
from collections import Counter
from pathlib import Path

from bench.runs.folder import RunFolder
from bench.runs.record import ALIGNMENT, CURVE, OUTCOMES, WEIGHTS, read_record, read_rows, without_timing

TIMEOUT = 300
tried = Counter()  # of the faults: how many runs met each
# Processes are forked from one that has the imports and the data of every run; it finds faults/ by this.
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["faults.preload"])


def folder_of(cfg):
    return RunFolder.of(cfg)


def started(cfg, fault=None, *arguments):
    """A process that does the run; the fault is a function of faults.kinds, called in it first."""
    process = context.Process(target=_do, args=(cfg, fault, arguments))
    process.start()
    return process


def ended(cfg, fault=None, *arguments):
    """Its exit status: negative for a signal."""
    process = started(cfg, fault, *arguments)
    process.join(TIMEOUT)
    assert process.exitcode is not None, "the run hangs"
    if fault is not None:
        tried["killed in a phase" if process.exitcode == -signal.SIGKILL else "disturbed otherwise"] += 1
    return process.exitcode


def finished(cfg):
    """The folder of a run that nothing disturbs."""
    assert ended(cfg) == 0
    return folder_of(cfg).path


def killed(cfg, fault, *arguments):
    """Does the run until the fault kills it."""
    assert ended(cfg, fault, *arguments) == -signal.SIGKILL
    assert not folder_of(cfg).done


def _do(cfg, fault, arguments):
    from bench.run import run
    from bench.runs.job import execute

    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  for the life of the process
    if fault is not None:
        fault(*arguments)
    sys.exit({"failed": 1, "running": 3}.get(execute(cfg, run, "[1/1]"), 0))


def leftovers(cfg):
    """What lies beside the run's folder, by name: nothing, when all went well."""
    return [path.name for path in folder_of(cfg).path.parent.iterdir() if path.name.startswith(".")]


def assert_same(one, other):
    """Two runs' folders hold the same but for times, and the folders' own name."""
    records = [read_record(folder) for folder in (one, other)]
    for record in records:
        record.config.results_dir = None
    first, second = (without_timing(record.model_dump()) for record in records)
    assert first == second
    for name in (CURVE, ALIGNMENT):
        curves = [without_timing(read_rows(folder / name)) for folder in (one, other)]
        assert curves[0] == curves[1], name
    for name in (OUTCOMES, WEIGHTS):
        contents = [(folder / name).read_bytes() for folder in (one, other)]
        assert contents[0] == contents[1], name
    steps = [row["step"] for row in read_rows(other / CURVE)]
    assert steps == list(range(1, len(steps) + 1))
