"""launch=slurm: the cells of a sweep as jobs of Slurm arrays, submitted by Hydra's own launcher for submitit.

That launcher stops waiting at the first job that was killed, and submitit asks sacct, which answers nothing on a
cluster without accounting. This module submits and waits instead, for every job, and asks squeue. What a killed job
has not recorded is reported when the sweep ends (bench.sweep.guard), and the same command does it again.

A job that is preempted, or near its time limit, gets a signal (submitit: SIGUSR2, or $SUBMITIT_PREEMPT_SIGNAL); its
cell writes a checkpoint (bench.process.signals), Slurm requeues the job, and the cell resumes there.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from hydra.core.singleton import Singleton
from hydra.plugins.launcher import Launcher

from bench.process.signals import InterruptedRunError, listening
from bench.process.validation import one_line
from bench.sweep import resolvers  # noqa: F401  registers the plugins that a job's process needs to unpickle its launcher
from bench.sweep.arguments import refuse

if TYPE_CHECKING:
    import submitit

POLL_SECONDS = 10.0  # between two questions to Slurm's controller, which all its users share
STOP_SECONDS = 60.0  # what jobs have to write their checkpoints when a sweep is stopped


def unpickled(kind: type[Launcher], state: Mapping[str, Any]) -> Launcher:
    """The launcher in a job's process; importing this module has made its class known."""
    launcher = object.__new__(kind)
    vars(launcher).update(state)
    return launcher


def launch(call: Any, cells: Sequence[Sequence[str]], first: int, settings: Mapping[str, Any]) -> None:
    """Submits cells as arrays, one after another, and waits until every job has ended, killed ones included.

    Args:
        call: what a job calls, as Hydra's BaseSubmititLauncher is called.
        cells: the overrides of each.
        first: the number of the first of them in the sweep.
        settings: conf/launch/slurm.yaml's hydra.launcher.

    Raises:
        SystemExit: Slurm takes no job, one line; or SIGINT or SIGTERM has come, and the jobs are cancelled.
    """
    import submitit
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

    left = {key: value for key, value in settings.items() if value is not None}
    array_size = left.pop("array_size")
    executor = submitit.AutoExecutor(
        left.pop("submitit_folder"), cluster="slurm", slurm_max_num_timeout=left.pop("max_num_timeout")
    )
    shared = {field.name for field in fields(BaseQueueConf)}
    executor.update_parameters(**{key if key in shared else f"slurm_{key}": value for key, value in left.items()})
    state = Singleton.get_state()
    arguments = [
        (list(overrides), "hydra.sweep.dir", number, f"job_{number}", state)
        for number, overrides in enumerate(cells, first)
    ]
    for begin in range(0, len(arguments), array_size):
        try:
            jobs = executor.map_array(call, *zip(*arguments[begin : begin + array_size], strict=True))
        except submitit.core.utils.FailedJobError as error:
            said = [line for line in str(error).splitlines() if line.startswith("sbatch: error")]
            refuse(f"Slurm takes no job: {(said or [one_line(error)])[-1]}")
        array = jobs[0].job_id.partition("_")[0]
        print(f"Slurm job {array}: {len(jobs)} jobs; logs in {executor.folder.parent}/{array}_*", flush=True)
        with listening(_interrupt):
            try:
                _wait(array, jobs)
            except InterruptedRunError as stopped:
                _cancel(array)
                raise SystemExit(128 + stopped.number) from None


def _interrupt(number: int) -> None:
    raise InterruptedRunError(number)


def _cancel(array: str) -> None:
    """Tells the jobs to stop and waits until they have, at most STOP_SECONDS; a second signal ends the waiting."""
    print("stopping: the cells that run write a checkpoint; the same command resumes them", file=sys.stderr)
    print(f"scancel {array}", file=sys.stderr, flush=True)
    with contextlib.suppress(InterruptedRunError):
        subprocess.run(["scancel", array], check=False)
        until = time.monotonic() + STOP_SECONDS
        while queued(array) != set() and time.monotonic() < until:
            time.sleep(1.0)


def _wait(array: str, jobs: Sequence[submitit.Job[Any]]) -> None:
    """Waits until each job has left its result, or was out of the queue without one at two looks."""
    left, gone = {job.job_id: job for job in jobs}, set[str]()
    while left:
        names = queued(array)
        out = set() if names is None else left.keys() - names
        for name, job in list(left.items()):
            if job.paths.result_pickle.exists() or name in gone & out:
                _report(left.pop(name))
        gone = out
        if left:
            time.sleep(POLL_SECONDS)


def queued(array: str) -> set[str] | None:
    """The jobs of an array that wait, run or end, as "12_3"; None if Slurm does not answer."""
    asked = subprocess.run(
        ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={array}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if asked.returncode == 0:
        return set(asked.stdout.split())
    return set() if "Invalid job id" in asked.stderr else None  # so it says of a job that it has forgotten


def _report(job: submitit.Job[Any]) -> None:
    """Prints the last line that a job's cell has printed, or that the job ended before."""
    texts = (job.stdout() or "", job.stderr() or "")
    said = [line for text in texts for line in text.splitlines() if line.startswith("[")]
    if job.paths.result_pickle.exists() and said:
        print(max(said, key=lambda line: line.count(": ")), flush=True)  # "[3] RUN_ID" when it began, then how it went
    else:
        print(f"job {job.job_id} has ended before its cell; its log is {job.paths.stderr}", file=sys.stderr, flush=True)
