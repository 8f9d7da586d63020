"""Cells as jobs of submitit: one after another on this machine's cores or GPUs, or as arrays of Slurm.

Hydra's own submitit launcher starts all cells of a sweep at once on one machine, and stops waiting at the first job
that was killed. These wait for every job, whatever becomes of it; a killed one is known by what it has not recorded
(bench.sweep.guard), and the same command does it again.

A job that is preempted, or near its time limit, gets a signal (submitit: SIGUSR2, or $SUBMITIT_PREEMPT_SIGNAL); its
cell writes a checkpoint (bench.process.signals), Slurm requeues the job, and the cell goes on from there.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from bench.process.environment import quiet_environment
from bench.sweep import expansion  # noqa: F401  registers what a job's process must know before it reads its pickle
from bench.sweep.arguments import refuse
from bench.sweep.process import POSITION, gpus

if TYPE_CHECKING:
    import submitit

POLL_SECONDS = 1.0  # between two looks at the files that jobs leave when they end
QUEUE_SECONDS = 10.0  # between two questions to Slurm's controller, which all its users share
LATE_SECONDS = 15.0  # how long after its end a job's last file may appear on a shared file system
STOP_SECONDS = 60.0  # what jobs have to write their checkpoints when a sweep is stopped

# submitit's settings of every executor; the others are named slurm_...
SHARED = {"name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node"}


@dataclass(frozen=True)
class Cell:
    """What a job calls; pickled with the job, hence small.

    Attributes:
        config: of the sweep, with its hydra node.
        total: cells of the sweep, as far as they are known.
    """

    config: DictConfig
    context: HydraContext
    task: TaskFunction
    singletons: dict[Any, Any]
    total: int = 0

    def __call__(self, overrides: list[str], number: int) -> None:
        """One cell, in the process of a job; raises what the cell raised."""
        import submitit

        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        quiet_environment()
        os.environ[POSITION] = f"[{number + 1}/{self.total}]"
        Singleton.set_state(self.singletons)
        setup_globals()
        config = self.context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id = submitit.JobEnvironment().job_id
            config.hydra.job.num = number
        done = run_job(
            hydra_context=self.context,
            task_function=self.task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        _ = done.return_value  # raises

    def checkpoint(self, *arguments: Any) -> Any:
        """What submitit puts back into the queue: the same cell, which finds its own checkpoints."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *arguments)


def at_a_time() -> int:
    """How many cells this machine does at a time unless told otherwise: one a GPU, or one a core."""
    return len(gpus()) or len(os.sched_getaffinity(0))


def slots(jobs: int | None) -> list[int | None]:
    """For each of the cells that run at a time its GPU, or None without one.

    Args:
        jobs: how many; None: as `at_a_time`.
    """
    names, jobs = gpus(), jobs or at_a_time()
    if not names:
        return [None] * jobs
    if not all(name.isdigit() for name in names):
        refuse(f"CUDA_VISIBLE_DEVICES={','.join(names)}: submitit takes GPUs by their numbers; or say launch=process")
    return [int(names[i % len(names)]) for i in range(jobs)]


def launch_here(
    cell: Cell, cells: Sequence[tuple[list[str], int]], settings: dict[str, Any], slots: Sequence[int | None]
) -> list[JobReturn]:
    """Runs cells as processes of this machine, each with a log of its own.

    Args:
        cells: the overrides and the number of each.
        settings: of submitit's local executor, with submitit_folder.
        slots: as many cells run at a time; each is the number of a GPU, or None without one.
    """
    import submitit

    free, waiting = list(slots), deque(cells)
    running: dict[Any, int | None] = {}  # submitit's jobs

    def start() -> None:
        slot = free.pop(0)
        executor = submitit.LocalExecutor(settings["submitit_folder"], settings["max_num_timeout"])
        devices = {} if slot is None else {"gpus_per_node": 1, "visible_gpus": [slot]}
        executor.update_parameters(**{k: settings[k] for k in ("timeout_min", "signal_delay_s")}, **devices)
        with _unstopped():
            running[executor.submit(cell, *waiting.popleft())] = slot

    def stop() -> None:
        for job in running:
            if job._process is not None and job._process.poll() is None:
                job._process.send_signal(signal.SIGTERM)  # the controller hands it on

    folder = str(settings["submitit_folder"]).partition("%")[0]
    print(f"{len(cells)} jobs, {len(slots)} at a time; logs in {folder}", flush=True)
    with _stopping(stop, lambda: all(job.done() for job in running)):
        while waiting or running:
            while waiting and free:
                start()
            for job in [job for job in running if job.done()]:
                _report(job)
                free.append(running.pop(job))
            time.sleep(POLL_SECONDS / 4)
    return [_returned() for _ in cells]


def launch_array(
    cell: Cell, cells: Sequence[tuple[list[str], int]], settings: dict[str, Any], array_size: int
) -> list[JobReturn]:
    """Runs cells as Slurm arrays, one array after another, and waits for each job's end; a killed job is one.

    Args:
        cells: the overrides and the number of each.
        settings: of submitit's Slurm executor, with submitit_folder and max_num_timeout.
        array_size: the most jobs of an array; Slurm's MaxArraySize is 1001 unless the site has changed it.
    """
    import submitit

    settings = dict(settings)
    executor = submitit.AutoExecutor(
        settings.pop("submitit_folder"), cluster="slurm", slurm_max_num_timeout=settings.pop("max_num_timeout")
    )
    executor.update_parameters(
        **{key if key in SHARED else f"slurm_{key}": value for key, value in settings.items() if value is not None}
    )
    for first in range(0, len(cells), array_size):
        overrides, numbers = zip(*cells[first : first + array_size], strict=True)
        jobs = executor.map_array(cell, overrides, numbers)
        array = jobs[0].job_id.partition("_")[0]
        print(f"Slurm job {array}: {len(jobs)} jobs; logs in {executor.folder.parent}/{array}_*", flush=True)

        def stop(array: str = array) -> None:
            print(f"scancel {array}", file=sys.stderr, flush=True)
            subprocess.run(["scancel", array], check=False)

        with _stopping(stop, functools.partial(_left, array)):
            _wait_for_array(array, jobs)
    return [_returned() for _ in cells]


def _wait_for_array(array: str, jobs: Sequence[submitit.Job[Any]]) -> None:
    """Asks squeue, not sacct as submitit does: a cluster without accounting has no answer, which submitit awaits."""
    left: dict[submitit.Job[Any], float | None] = dict.fromkeys(jobs)  # and since when it is out of the queue
    asked = 0.0
    while left:
        for job in [job for job in left if job.paths.result_pickle.exists()]:
            del left[job]
            _report(job)
        now = time.monotonic()
        if left and now - asked >= QUEUE_SECONDS:
            asked, names = now, queued(array)
            for job, gone in list(left.items()):
                if names is None or job.job_id in names:
                    left[job] = None
                elif gone is None:
                    left[job] = now
                elif now - gone > LATE_SECONDS:
                    del left[job]
                    _report(job)
        time.sleep(POLL_SECONDS)


def _left(array: str) -> bool:
    return not queued(array)


def queued(array: str) -> set[str] | None:
    """The jobs of an array that wait, run or end, as "12_3"; None where Slurm does not answer."""
    asked = subprocess.run(
        ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={array}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if asked.returncode == 0:
        return set(asked.stdout.split())
    return set() if "Invalid job id" in asked.stderr else None  # so it says of a job that it has forgotten


def _report(job: submitit.Job[Any]) -> None:
    """The last line that a job's cell has printed, or that it has printed none."""
    said = [line for path in (job.paths.stdout, job.paths.stderr) for line in _lines(path) if line.startswith("[")]
    if job.paths.result_pickle.exists() and said:
        print(max(said, key=lambda line: line.count(": ")), flush=True)  # "[3] RUN_ID" when it began, then how it went
    else:
        print(f"job {job.job_id} has ended before its cell; its log is {job.paths.stderr}", file=sys.stderr, flush=True)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _returned() -> JobReturn:
    """What a sweeper wants of a job; how it went is in the cell's record."""
    return JobReturn(status=JobStatus.COMPLETED)


class _StoppedError(Exception):
    """A signal, in the process that waits for the jobs."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def _stopping(stop: Callable[[], None], over: Callable[[], bool]) -> Iterator[None]:
    """Ctrl-C or SIGTERM while waiting: tells the jobs, and waits until they have ended, at most STOP_SECONDS.

    A process that is killed, or whose terminal is lost, tells nobody: jobs of Slurm go on. A second signal ends the
    waiting.
    """

    def raise_stopped(number: int, _frame: FrameType | None) -> None:
        raise _StoppedError(number)

    with _handled(signal.SIGINT, raise_stopped), _handled(signal.SIGTERM, raise_stopped):
        try:
            yield
        except _StoppedError as stopped:
            print(
                "stopping: the cells that run write a checkpoint; the same command goes on", file=sys.stderr, flush=True
            )
            with contextlib.suppress(_StoppedError):
                stop()
                until = time.monotonic() + STOP_SECONDS
                while not over() and time.monotonic() < until:
                    time.sleep(POLL_SECONDS)
            raise SystemExit(128 + stopped.number) from None


@contextlib.contextmanager
def _unstopped() -> Iterator[None]:
    """Ctrl-C and SIGTERM come when this is over, so that what is being started is known to who stops.

    A process started here has Ctrl-C blocked: submitit's controller, which would kill its cell, must not see it. The
    cell does (Cell), also what has come before.
    """
    heard: list[int] = []
    with _handled(signal.SIGTERM, lambda number, _frame: heard.append(number)):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if heard:
        raise _StoppedError(heard[0])


@contextlib.contextmanager
def _handled(number: signal.Signals, handler: Any) -> Iterator[None]:
    """Another handler for a while; Python lets its main thread alone set one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)
