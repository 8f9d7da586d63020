"""Runs in processes beside this one, which live for a sweep and do one run after another.

A worker imports once, and keeps what it has read for its next run. It is a process of its own, so that one that is
killed, such as by the kernel out of memory, stops no other run: the record of its run says so, the run's checkpoints
are kept, and a new worker takes the next one. A run is sent to it as a validated configuration; it composes none.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.process.signals import PARENT, SIGNALS, InterruptedRunError, listening
from bench.runs import assemble, job
from bench.runs.attempt import held
from bench.runs.folder import RunFolder
from bench.runs.record import FAILED
from bench.sweep.arguments import WORKER
from bench.sweep.capacity import THREADS, capacity, threads
from bench.sweep.gpus import DEVICES, free_gpu, gpus
from bench.sweep.worker import Cell

if TYPE_CHECKING:
    from bench.config import Run

LOOK_SECONDS = 1.0  # between two looks whether a worker that says nothing is still there
_STOPPED = {128 + number for number in SIGNALS}


class KilledError(RuntimeError):
    """The process of a run was killed."""


class Worker:
    """A process that does one run after another.

    Args:
        variables: of its environment, beside those of this process.
    """

    def __init__(self, variables: dict[str, str]) -> None:
        self._connection, theirs = multiprocessing.Pipe()
        with closing(theirs):
            # Its own session: Ctrl-C comes to it through `stop`, once.
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bench.run", WORKER],
                stdin=theirs.fileno(),
                env=os.environ | {PARENT: str(os.getpid())} | variables,
                start_new_session=True,
            )

    def do(self, cell: Cell) -> tuple[str, list[Path]] | None:
        """Has a run done; returns how it ended, and W&B folders to upload, or None if the process ended before."""
        try:
            self._connection.send(cell)
            while not self._connection.poll(LOOK_SECONDS):
                if self.process.poll() is not None and not self._connection.poll():
                    return None
            found: tuple[str, list[Path]] = self._connection.recv()
        except (EOFError, OSError):
            return None
        return found

    def let_go(self) -> None:
        """Tells an idle worker that no run follows."""
        self._connection.close()


class Workers:
    """The workers of a sweep, to which a signal to this process is passed on.

    Args:
        variables: as of `Worker`.
    """

    def __init__(self, variables: dict[str, str]) -> None:
        self._variables = variables
        self._idle: list[Worker] = []
        self._busy: set[Worker] = set()
        self.stopped: int | None = None

    def start(self) -> None:
        """Starts a worker before there is a run for it, because imports take seconds; not where one is idle."""
        if not self._idle:
            self._idle.append(Worker(self._variables))

    def stop(self, number: int) -> None:
        """Asks all of them to stop, each at the end of its step, and lets none take a further run."""
        self.stopped = number
        for worker in list(self._busy):
            worker.process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """Lets the idle workers end, and waits until they have."""
        for worker in self._idle:
            worker.let_go()
        while self._idle:
            self._idle.pop().process.wait()

    def do(self, cell: Cell, gpu: str | None = None) -> str:
        """Does a run in an idle worker or a new one; records it as failed if the worker was killed.

        Args:
            cell: the run.
            gpu: the only GPU that the run may use, in a worker that ends with it; None for all.

        Returns:
            completed, failed, done (before), running (in another process) or stopped (at run.stop_at_step).

        Raises:
            InterruptedRunError: this process or the worker was stopped by a signal.
        """
        if self.stopped is not None:
            raise InterruptedRunError(self.stopped)
        alone = gpu is not None or cell.run.run.isolate
        worker = self._taken(alone, {} if gpu is None else {DEVICES: gpu})
        self._busy.add(worker)
        if self.stopped is not None:  # meanwhile
            worker.process.send_signal(signal.SIGTERM)
        try:
            found = worker.do(cell)
        finally:
            self._busy.discard(worker)
        if found is None or alone:
            worker.let_go()
            status = worker.process.wait()
        else:
            self._idle.append(worker)
        if found is None:
            return self._lost(cell, status)
        how, offline = found
        job.offline.extend(offline)
        if how == FAILED:
            job.failures.append(cell.run.run_id)
        return how

    def _taken(self, alone: bool, variables: dict[str, str]) -> Worker:
        """A worker that is there and idle, or a new one; a run that is to be alone leaves the idle ones to others."""
        while not alone:
            try:
                worker = self._idle.pop()
            except IndexError:
                break
            if worker.process.poll() is None:
                return worker
            worker.let_go()
        return Worker(self._variables | variables)

    def _lost(self, cell: Cell, status: int) -> str:
        """How a run has ended whose worker ended without a word, with this status; negative for a signal."""
        folder = RunFolder.of(cell.run)
        if self.stopped is not None and not folder.done:
            raise InterruptedRunError(self.stopped)
        if status in _STOPPED:
            raise InterruptedRunError(status - 128)
        job.failures.append(cell.run.run_id)
        if status >= 0:  # it has said why
            return FAILED
        hint = ", which the kernel sends when memory runs out" if -status == signal.SIGKILL else ""
        name = f"{signal.Signals(-status).name}{hint}"
        error = KilledError(f"the process was killed by {name}; a retry resumes it from its checkpoint")
        with held(folder, cell.run.run.heartbeat_timeout_seconds, wait=False) as attempt:
            if attempt is not None and not folder.done:
                attempt.close(assemble.failed(cell.run, error, ""))
        job.say(f"{cell.position} {cell.run.run_id}: failed: KilledError: {error}", sys.stderr)
        return FAILED


@contextmanager
def stoppable(workers: Workers) -> Iterator[None]:
    """Inside, SIGINT and SIGTERM are passed on to the workers; when they have stopped, so does this process.

    Raises:
        SystemExit: a signal has come, to this process or to a worker.
    """
    try:
        with listening(workers.stop):
            yield
    except InterruptedRunError as stopped:
        raise SystemExit(128 + stopped.number) from None
    if workers.stopped is not None:
        raise SystemExit(128 + workers.stopped)


def supervise(cell: Cell) -> str:
    """Does one run in a process of its own, with one of several GPUs to itself; returns how it ended.

    Raises:
        SystemExit: a signal has come, to this process or to the run's.
    """
    workers = Workers({})
    with closing(workers), stoppable(workers), free_gpu() as gpu:
        return workers.do(cell, gpu)


class Pool:
    """The workers of a sweep, stage after stage.

    Args:
        jobs: runs at a time; None: as many as this machine can do (bench.sweep.capacity).
    """

    def __init__(self, jobs: int | None) -> None:
        self._jobs, self._num_gpus = jobs, len(gpus())
        # Beside others a run has one thread; where a GPU computes, libraries choose.
        self._workers = Workers({} if self._num_gpus else {THREADS: str(threads())})

    def launch(self, cells: Sequence[Cell], ended: Callable[[Run], None]) -> list[str]:
        """Does runs, several at a time, begun in the order given; returns how each ended, in order.

        With several GPUs each run has one of them, or a share if more are done at a time than there are.

        Args:
            cells: the runs.
            ended: called when a run has ended, by one thread at a time.

        Raises:
            SystemExit: as `stoppable`.
        """
        with stoppable(self._workers):
            if self._num_gpus < 2 and not any(cell.run.run.isolate for cell in cells):
                self._workers.start()  # which imports while this process estimates
            found = capacity([cell.run for cell in cells], self._jobs)
            print(found, flush=True)

            one_at_a_time = threading.Lock()

            def do(cell: Cell) -> str:
                with free_gpu(shares=-(-found.at_a_time // max(1, self._num_gpus))) as gpu:
                    how = self._workers.do(cell, gpu)
                with one_at_a_time:
                    ended(cell.run)
                return how

            with ThreadPoolExecutor(found.at_a_time) as pool:
                return [future.result() for future in [pool.submit(do, cell) for cell in cells]]

    def close(self) -> None:
        """Ends the workers."""
        self._workers.close()
