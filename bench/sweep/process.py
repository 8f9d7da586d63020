"""A run in a process of its own: a process that is killed, such as by the kernel out of memory, stops no other run.

The process is the same command for one cell. If it dies of a signal that this process has not sent, the run's record
says so and its checkpoints are kept.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from bench.process.signals import PARENT, SIGNALS, InterruptedRunError, listening
from bench.runs import assemble, job
from bench.runs.attempt import held
from bench.runs.folder import RunFolder
from bench.runs.record import COMPLETED, FAILED
from bench.sweep.guard import POSITION

if TYPE_CHECKING:
    from bench.config import Run

DEVICES = "CUDA_VISIBLE_DEVICES"
_STOPPED = {128 + number for number in SIGNALS}


class KilledError(RuntimeError):
    """The process of a run was killed."""


class Children:
    """The processes that are running, to which a signal to this one is passed on."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self.stopped: int | None = None

    def stop(self, number: int) -> None:
        """Asks all of them to stop, and lets no further one start."""
        self.stopped = number
        for process in list(self._running):
            process.send_signal(signal.SIGTERM)

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """Starts a process and waits for its end; returns its status, negative for a signal.

        Raises:
            InterruptedRunError: this process was asked to stop.
        """
        if self.stopped is not None:
            raise InterruptedRunError(self.stopped)
        # Its own session: Ctrl-C comes to it through `stop`, once.
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        self._running.add(process)
        if self.stopped is not None:  # meanwhile
            process.send_signal(signal.SIGTERM)
        try:
            return process.wait()
        finally:
            self._running.discard(process)


def supervise(cfg: Run, overrides: Sequence[str], position: str) -> str:
    """Does one run in a process of its own, with one of several GPUs to itself; returns how it ended.

    Args:
        cfg: the run.
        overrides: its command line.
        position: "[3/21]", for the lines printed.

    Raises:
        SystemExit: a signal has come, to this process or to the run's.
    """
    with _children() as children, free_gpu() as gpu:
        return run_child(children, cfg, overrides, position, gpu)


def launch(cells: Sequence[tuple[Run, Sequence[str], str]], jobs: int | None) -> list[str]:
    """Does runs in processes of their own, several at a time, each with one of several GPUs.

    Args:
        cells: each run, its overrides, and its position such as "[3/21]".
        jobs: runs at a time; None: one a GPU, or one if there is none. More than there are GPUs share them.

    Returns:
        How each ended, in order.

    Raises:
        SystemExit: as `supervise`.
    """
    num_gpus = max(1, len(gpus()))
    with _children() as children:

        def one(cell: tuple[Run, Sequence[str], str]) -> str:
            with free_gpu(shares=-(-(jobs or 1) // num_gpus)) as gpu:
                return run_child(children, *cell, gpu)

        with ThreadPoolExecutor(jobs or num_gpus) as pool:
            return [future.result() for future in [pool.submit(one, cell) for cell in cells]]


@contextmanager
def _children() -> Iterator[Children]:
    """Inside, SIGINT and SIGTERM are passed on to the children; when they have stopped, so does this process."""
    children = Children()
    try:
        with listening(children.stop):
            yield children
    except InterruptedRunError as stopped:
        raise SystemExit(128 + stopped.number) from None
    if children.stopped is not None:
        raise SystemExit(128 + children.stopped)


def run_child(children: Children, cfg: Run, overrides: Sequence[str], position: str, gpu: str | None) -> str:
    """Does one run in a child process; records it as failed if the process was killed.

    Args:
        children: the processes to which this one's signals are passed on.
        cfg, overrides, position: as `supervise`.
        gpu: the only GPU that the process may use; None for all.

    Returns:
        completed or failed.

    Raises:
        InterruptedRunError: this process or the child was stopped by a signal.
    """
    command = [sys.executable, "-m", "bench.run", *overrides, "hydra.mode=RUN", "run.isolate=false"]
    environment = os.environ | {POSITION: position, PARENT: str(os.getpid())}
    if gpu is not None:
        environment[DEVICES] = gpu
    status = children.run(command, environment)
    folder = RunFolder.of(cfg)
    if children.stopped is not None and not folder.done:
        raise InterruptedRunError(children.stopped)
    if status in _STOPPED:
        raise InterruptedRunError(status - 128)
    if status < 0:
        hint = ", which the kernel sends when memory runs out" if -status == signal.SIGKILL else ""
        name = f"{signal.Signals(-status).name}{hint}"
        error = KilledError(f"the process was killed by {name}; a retry resumes it from its checkpoint")
        job.failures.append(cfg.run_id)
        with held(folder, cfg.run.heartbeat_timeout_seconds, wait=False) as attempt:
            if attempt is not None and not folder.done:
                attempt.close(assemble.failed(cfg, error, ""))
        job.say(f"{position} {cfg.run_id}: failed: KilledError: {error}", sys.stderr)
        return FAILED
    if status != 0:
        job.failures.append(cfg.run_id)
    return COMPLETED if folder.done else FAILED


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; does not import torch."""
    chosen = os.environ.get(DEVICES)
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    except OSError:
        return []
    return [str(i) for i, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]


@contextmanager
def free_gpu(shares: int = 1) -> Iterator[str | None]:
    """Waits for one of several GPUs that no other run of this user has; yields None if there are fewer than two.

    Args:
        shares: number of runs that may have the same GPU.
    """
    names = gpus()
    if len(names) < 2:
        yield None
        return
    folder = Path(tempfile.gettempdir()) / f"lora-init-bench-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for share, name in itertools.cycle(itertools.product(range(shares), names)):
        lock = FileLock(folder / f"gpu-{name}-{share}.lock")
        with suppress(Timeout):
            lock.acquire(timeout=0.1)
            break
    try:
        yield name
    finally:
        lock.release()
